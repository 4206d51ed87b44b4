"""L1 between residual streams, absolute or relative to the teacher's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import cli, config
from cdjax.losses import states
from cdjax.workdir import metrics
from tests.command import run_tiny

RNG = np.random.default_rng(0)
STUDENT, TEACHER = ({1: jnp.asarray(RNG.normal(0, 3, (2, 5, 8)), jnp.float32)} for _ in range(2))
WEIGHT = jnp.asarray([[1, 0, 2, 0.5, 0], [0, 0, 0, 0, 1]], jnp.float32)


def value_and_grad(loss, student=STUDENT, teacher=TEACHER):
    both = jax.value_and_grad(lambda student: states.loss(student, teacher, WEIGHT, losses=(loss,), over=4)[0])
    value, grad = jax.jit(both)(student)
    return float(value), np.asarray(grad[1])


@pytest.mark.parametrize("relative", [False, True])
def test_it_is_the_written_formula_in_value_and_gradient(relative):
    student, teacher, weight = (np.asarray(x, np.float64) for x in (STUDENT[1], TEACHER[1], WEIGHT))
    size = np.abs(teacher).mean(-1) if relative else np.ones(weight.shape)
    value, grad = value_and_grad(config.HiddenL1((1,), relative=relative))
    assert value == pytest.approx((weight * np.abs(student - teacher).mean(-1) / size).sum() / 4, rel=1e-5)
    np.testing.assert_allclose(grad, (weight / size)[..., None] * np.sign(student - teacher) / 8 / 4, rtol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_equal_streams_and_streams_of_zeros_have_no_distance(relative):
    """Exactly, and no gradient either: zeros are what masked tokens have."""
    loss, zeros = config.HiddenL1((1,), relative=relative), {1: jnp.zeros_like(STUDENT[1])}
    for streams in (STUDENT, zeros):
        value, grad = value_and_grad(loss, streams, streams)
        assert value == 0 and not grad.any()


def test_relative_does_not_change_with_the_scale_of_the_streams():
    scaled = [jax.tree.map(lambda x: 64 * x, side) for side in (STUDENT, TEACHER)]
    relative, absolute = config.HiddenL1((1,), relative=True), config.HiddenL1((1,))
    assert value_and_grad(relative, *scaled)[0] == pytest.approx(value_and_grad(relative)[0], rel=1e-6)
    assert value_and_grad(absolute, *scaled)[0] == pytest.approx(64 * value_and_grad(absolute)[0], rel=1e-6)


def test_it_is_chosen_on_the_command_line(tmp_path):
    learn = {"training__update__epochs": "4", "operations__0__inputs__limit": "32", "training__targets": "full"}
    term = {"kind": "hidden_l1", "layers": [1, -1], "relative": True, "weight": 0.5}
    run_tiny(tmp_path, training__losses=json.dumps([{"kind": "forward_kl"}, term]), **learn)
    first, *_, last = metrics.read(tmp_path / "metrics.jsonl")
    assert 0 < last["hidden_l1"] < first["hidden_l1"]
    assert last["loss"] == pytest.approx(last["forward_kl"] + 0.5 * last["hidden_l1"], rel=1e-5)


def test_what_needs_states_is_refused_without_them(tmp_path, capsys):
    sets = ["--set", "training.losses=hidden_l1", "--set", "training.targets.kind=top_k"]
    assert cli.main(["run", "configs/tiny.py", *sets, "--workdir", str(tmp_path / "run")]) != 0
    assert "hidden_l1 needs states" in (told := capsys.readouterr().err) and "targets.kind=full" in told
    assert not (tmp_path / "run").exists()
