"""A student whose prefix trains: it begins as the context itself, and everything else stays as it is."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest

import cdjax
from cdjax import config
from cdjax.distill import rounds
from cdjax.learn import update
from cdjax.model.reader import Reader
from tests.command import run_tiny
from tests.test_batches import make_pairs
from tests.test_rounds import experiment
from tests.test_update import batch_of, differ, model_on

CONTEXT = np.random.default_rng(1).integers(1, 60, 20).astype(np.int32)
FULL = config.Full()


def stepped(mesh, student, steps=1, tx=optax.adam(1e-2)):
    """The prefix before and after some steps towards the model that reads CONTEXT, and every step's metrics."""
    pairs = [
        dataclasses.replace(pair, teacher_prompt=pair.student_prompt, kept=np.arange(len(pair.kept), dtype=np.int32))
        for pair in make_pairs(8)
    ]
    pairs = [dataclasses.replace(pair, rollout=pair.rollout[: len(pair.kept)]) for pair in pairs]
    model, told = model_on(mesh, seed=2), []
    trainable, frozen = student.init(model, seed=0, context=CONTEXT)
    run = update.make_update(student, tx, FULL, (config.ForwardKL(),), mesh)
    with jax.set_mesh(mesh):
        teacher, state = Reader(model).after(CONTEXT), update.start(trainable, tx, mesh)
        for _ in range(steps):
            state, metrics = run(state, frozen, teacher, batch_of(mesh, pairs))
            told.append({name: float(a) / float(b) for name, (a, b) in metrics.items()})
    return trainable, state.params, told


def test_an_untrained_prefix_of_the_whole_context_is_the_context(mesh):
    """Exactly: there is nothing to learn."""
    _, _, (told,) = stepped(mesh, config.KVPrefix(tokens=len(CONTEXT)))
    assert told["kl"] == told["loss"] == 0.0
    _, _, (told,) = stepped(mesh, config.KVPrefix(tokens=5))
    assert told["kl"] > 1e-4


@pytest.mark.parametrize("freeze", [False, True])
def test_only_the_prefix_moves_and_a_frozen_first_position_does_not(freeze, mesh):
    before, after, _ = stepped(mesh, config.KVPrefix(tokens=5, freeze_first=freeze), steps=2)
    assert sorted(after) == ["k", "v"] and all(differ(before, after))
    for name in after:
        moved = np.asarray(before[name][...] != after[name][...])
        assert moved[:, :, :, 1:5].any((0, 1, 2, 4)).all() and not moved[:, :, :, 5:].any()
        assert moved[:, :, :, 0].any() != freeze


@pytest.mark.parametrize("start", ["context", "random"])
def test_training_brings_the_teacher_nearer(start, mesh):
    _, _, told = stepped(mesh, config.KVPrefix(tokens=6, start=start), steps=40)
    assert told[-1]["kl"] < 0.5 * told[0]["kl"]


def test_one_device_equals_eight(mesh, mesh8):
    student = config.KVPrefix(tokens=6)
    (_, one, (told,)), (_, eight, (told8,)) = (stepped(where, student, tx=optax.sgd(1.0)) for where in (mesh, mesh8))
    assert told["kl"] == pytest.approx(told8["kl"], abs=1e-6)
    for name in one:
        np.testing.assert_allclose(one[name][...], eight[name][...], rtol=1e-4, atol=1e-6)


def test_a_run_is_exported_loaded_and_gone_on_from(tmp_path):
    student = config.KVPrefix(tokens=8)
    told = rounds.run(experiment(student=student, optim=config.Optim(lr=3e-2)), tmp_path / "run")
    kl = told["measures"]["held_out_kl"]
    assert kl["after"]["mean"] < kl["before"]["mean"]
    rounds.export(tmp_path / "run", tmp_path / "student", 0)
    loaded = cdjax.load_model(str(tmp_path / "student"))
    assert [path.name for path in (tmp_path / "student").iterdir()] == ["prefix.safetensors"]
    again = dataclasses.replace(student, start="file", file=str(tmp_path / "student"))
    trainable, _ = again.init(loaded.reader.decoder, seed=0, context=None)
    np.testing.assert_array_equal(trainable["k"][...][:, :, :, :8], loaded.reader.prefix.k)
    for sides in ({"model": str(tmp_path / "student")}, {"teachers": (config.Teacher(str(tmp_path / "student")),)}):
        with pytest.raises(config.UserError, match="student holds a prefix, which the model of a run does not read"):
            rounds.run(experiment(**sides), tmp_path / "more")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.tokens": 0}, "student.tokens must be at least 1"),
        ({"student.start": "file"}, "student.file='' goes with start='file'"),
        ({"student.file": "x"}, "and start is 'context'"),
        ({"student.tokens": 1, "student.freeze_first": True}, "leaves nothing of tokens=1 to train"),
    ],
)
def test_what_cannot_be_a_prefix_is_refused(changes, message):
    cfg = config.override(experiment(), {"student.kind": "kv_prefix"} | changes)
    with pytest.raises(config.UserError, match=message):
        config.check.validate(cfg)


def test_a_context_of_fewer_tokens_and_a_file_that_is_none_are_refused(mesh, tmp_path):
    with pytest.raises(config.UserError, match="context has only 20"):
        config.KVPrefix(tokens=21).init(model_on(mesh), seed=0, context=CONTEXT)
    with pytest.raises(config.UserError, match="no directory with one"):
        config.KVPrefix(start="file", file=str(tmp_path)).init(model_on(mesh), seed=0, context=None)


def test_it_is_chosen_on_the_command_line(tmp_path):
    told = run_tiny(tmp_path, student__kind="kv_prefix", student__tokens="8")
    assert told["scores"]["after"]["n"] == 2
    part = {"kind": "kv_prefix", "tokens": 8, "start": "context", "file": "", "freeze_first": False}
    assert json.loads((tmp_path / "config.json").read_text())["student"] == part


def test_a_prefix_of_some_layers_is_exported_and_loaded_with_them(tmp_path):
    cfg = experiment(layers=(1,), student=config.KVPrefix(tokens=8), score=config.Score(2, measures=()))
    rounds.run(cfg, tmp_path / "run")
    rounds.export(tmp_path / "run", tmp_path / "student", 0)
    loaded = cdjax.load_model(str(tmp_path / "student"))
    assert loaded.spec.layers == 1 and loaded.reader.prefix.k.shape[0] == 1
    assert loaded.generate("go ->", max_new_tokens=2)
