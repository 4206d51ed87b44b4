"""What every kind of targets promises to the decode step that records it and to the losses that read it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config, parts
from cdjax.sampling.targets import TARGETS

B, V = 6, 70
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(0, 3, (B, V)), jnp.float32)
STUDENT = jax.nn.log_softmax(jnp.asarray(RNG.normal(0, 3, (B, V)), jnp.float32))
IDS = np.array([3, 0, 69, 7, 3, 12], np.int32)
LABELS = (3, 0, 69, 7, 12)
KINDS = (
    config.Labels(),
    config.TopK(5, temperature=2.0),
    config.Draws(4, temperature=2.0),
    config.Full(),
    config.Restricted(LABELS),
    config.Restricted(LABELS, tail=False, temperature=0.5),
)
LISTED = [one for one in KINDS if "probabilities" in one.gives and one.buffers()]


def observed(targets, logits=LOGITS):
    uniforms = jax.random.uniform(jax.random.key(0), (len(logits), targets.uniforms))
    return targets.observe(logits, jnp.asarray(IDS), uniforms)


def student(targets, recorded):
    return jnp.take_along_axis(STUDENT, targets.listed(recorded), 1)


def test_a_registry_has_every_kind_under_its_own_name():
    assert all(TARGETS[kind].kind == kind for kind in TARGETS)


@pytest.mark.parametrize("targets", KINDS, ids=str)
def test_what_is_observed_fits_the_buffers_and_so_does_what_is_certain(targets):
    wanted = {name: ((B, *shape), dtype) for name, (shape, dtype) in targets.buffers().items()}
    for made in [observed(targets)] + ([targets.certain(IDS, V)] if targets != config.Full() else []):
        assert {name: (x.shape, str(x.dtype)) for name, x in made.items()} == wanted


@pytest.mark.parametrize("targets", LISTED, ids=str)
def test_outcomes_are_a_distribution_of_the_listed_ids_on_both_sides(targets):
    """At the targets' temperature, in proportion to the softmax over the whole vocabulary."""
    recorded = observed(targets)
    ids = np.asarray(targets.listed(recorded))
    p, q = map(np.asarray, targets.outcomes(recorded, student(targets, recorded)))
    assert p.shape == q.shape == (B, ids.shape[1] + getattr(targets, "tail", True))
    np.testing.assert_allclose(np.exp(p).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(q).sum(-1), 1, rtol=1e-5)
    whole = np.asarray(jax.nn.log_softmax(LOGITS / targets.temperature))
    for given, full in ((p, whole), (q, np.asarray(STUDENT))):
        found, wanted = given[:, : ids.shape[1]], np.take_along_axis(full, ids, 1)
        np.testing.assert_allclose(found - found[:, :1], wanted - wanted[:, :1], atol=1e-5)


@pytest.mark.parametrize("targets", LISTED, ids=str)
def test_a_certain_teacher_has_all_its_mass_on_the_written_ids(targets):
    recorded = jax.tree.map(jnp.asarray, targets.certain(IDS, V))
    p, q = map(np.asarray, targets.outcomes(recorded, student(targets, recorded)))
    found = np.asarray(targets.listed(recorded)) == IDS[:, None]
    assert (found.sum(1) == 1).all()
    np.testing.assert_array_equal(p[:, : found.shape[1]] == 0, found)
    assert np.isfinite(q).all() and (np.exp(p).sum(-1) == pytest.approx(1, abs=1e-6))


def test_certain_draws_are_the_written_ids():
    assert (config.Draws(3).certain(IDS, V)["ids"] == IDS[:, None]).all()


def test_draws_follow_the_distribution_at_their_temperature():
    targets = config.Draws(20_000, temperature=3.0)
    ids = np.asarray(observed(targets)["ids"])
    shares = np.stack([np.bincount(row, minlength=V) for row in ids]) / targets.n
    np.testing.assert_allclose(shares, jax.nn.softmax(LOGITS / 3.0), atol=0.02)


@pytest.mark.parametrize("targets", [config.Full(), config.Restricted((1, 2), tail=False)], ids=str)
def test_written_answers_that_targets_have_no_place_for_are_refused(targets):
    with pytest.raises(config.UserError, match="targets"):
        targets.certain(IDS, V)
    everything_else = config.Restricted((1, 2)).certain(IDS, V)["logprobs"]
    assert np.isneginf(everything_else).all()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (config.TopK(71), "k=71 is over the vocabulary, 70"),
        (config.Restricted((1, 70)), "ids has 70, and the vocabulary ends at 69"),
    ],
    ids=str,
)
def test_what_the_vocabulary_does_not_have_is_named(targets, message):
    assert list(targets.misfits(V)) == [message]
    assert list(targets.misfits(71)) == []


@pytest.mark.parametrize(
    "wrong",
    [config.TopK(0), config.TopK(temperature=0.0), config.Draws(0), config.Draws(temperature=-1.0)]
    + [config.Full(0.0), config.Restricted(), config.Restricted((1, 1)), config.Restricted((-1,))]
    + [config.Restricted((1,), tail=False)],
    ids=str,
)
def test_a_field_out_of_its_bounds_is_named(wrong):
    assert len(list(parts.problems(wrong, "targets"))) == 1
