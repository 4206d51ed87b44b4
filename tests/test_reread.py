"""Targets of answers that are there already are those that the decode step records."""

import dataclasses

import jax
import numpy as np
import pytest

from cdjax import config
from cdjax.learn import update
from cdjax.lessons import batches, pairs
from cdjax.model import decoder
from cdjax.model.reader import Reader
from cdjax.sampling import answers
from cdjax.sampling.reread import Teacher, reread
from cdjax.sampling.targets.labels import Labels
from cdjax.views.prompts import Prompts
from tests.conftest import TINY, Both

RNG = np.random.default_rng(0)
OWN = tuple(RNG.integers(3, 60, length).astype(np.int32) for length in (3, 7, 5, 4, 9))
CONTEXTS = tuple(RNG.integers(3, 60, length).astype(np.int32) for length in (11, 6))
PROMPTS = Prompts(tuple("abcde"), CONTEXTS[0], OWN)
STOPS = np.array([1, 2], np.int32)
BOTH = Both()
HOW = {"steps": 6, "seed": 3}


def sampled(model, mesh, prompts=PROMPTS, targets=BOTH):
    sampling = config.Sampling(per_input=2, batch=4)
    return answers.sample(Reader(model), mesh, prompts, stops=STOPS, sampling=sampling, targets=targets, **HOW)


def assert_same_targets(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        for name, value in one.targets.items():
            same = np.testing.assert_array_equal if name.endswith("ids") else np.testing.assert_allclose
            same(value, other.targets[name], **({} if name.endswith("ids") else {"atol": 2e-5}))


@pytest.mark.parametrize("where", ["mesh", "mesh8"])
@pytest.mark.parametrize("contexts", [1, 2])
def test_recorded_answers_are_read_as_they_were_recorded(where, contexts, request):
    """Draws too, with the numbers of decoding; under several prompts by the mean of their probabilities."""
    mesh = request.getfixturevalue(where)
    model = decoder.create(TINY, mesh, seed=0)
    prompts = dataclasses.replace(PROMPTS, others=CONTEXTS[1:contexts])
    recorded = sampled(model, mesh, prompts)
    blank = [dataclasses.replace(rollout, targets={}) for rollout in recorded]
    assert_same_targets(recorded, reread(blank, [Teacher(Reader(model), prompts)], BOTH, mesh, batch=3, **HOW))


def test_several_teachers_are_an_ensemble(tiny, mesh):
    """One model under two prompts is two teachers with a prompt each; another model changes what is recorded."""
    other = decoder.create(TINY, mesh, seed=1)
    rollouts = sampled(tiny, mesh)
    both = dataclasses.replace(PROMPTS, others=CONTEXTS[1:])
    apart = [Teacher(Reader(tiny), dataclasses.replace(PROMPTS, context=context)) for context in CONTEXTS]
    wanted = reread(rollouts, [Teacher(Reader(tiny), both)], BOTH, mesh, batch=4, **HOW)
    assert_same_targets(wanted, reread(rollouts, apart, BOTH, mesh, batch=4, **HOW))
    mixed = reread(rollouts, [apart[0], Teacher(Reader(other), PROMPTS)], BOTH, mesh, batch=4, **HOW)
    assert any((a.targets["top_k.ids"] != b.targets["top_k.ids"]).any() for a, b in zip(mixed, rollouts, strict=True))


def test_a_students_own_answers_read_under_its_own_view_leave_nothing_to_learn(tiny, mesh):
    """KL 0, but for rounding."""
    prompts = dataclasses.replace(PROMPTS, context=np.zeros(0, np.int32))
    targets = config.TopK(16)
    plain, teachers = sampled(tiny, mesh, prompts, Labels()), [Teacher(Reader(tiny), prompts)]
    rollouts = reread(plain, teachers, targets, mesh, batch=4, **HOW)
    read = dict(zip(prompts.inputs, prompts.suffixes, strict=True))
    learned = [pairs.hard(read[one.input], read[one.input], one.ids, one.targets) for one in rollouts]
    (batch,) = batches.Batches(learned, config.Update(batch=len(learned)), 0, mesh)
    with jax.set_mesh(mesh):
        _, sums = jax.jit(update.batch_loss, static_argnames=("targets", "losses"))(
            Reader(tiny), None, batch, targets=targets, losses=(config.ForwardKL(),)
        )
    assert abs(float(sums["kl"]) / float(sums["count"])) < 1e-6


def test_where_nothing_is_recorded_nothing_is_read(tiny, mesh):
    rollouts = sampled(tiny, mesh, targets=Labels())
    assert reread(rollouts, [], Labels(), mesh, batch=4, **HOW) == rollouts
    assert reread([], [Teacher(Reader(tiny), PROMPTS)], BOTH, mesh, batch=4, **HOW) == []
