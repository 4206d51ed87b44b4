"""Skewed KL lies between 0 and -log(skew), and is KL where nothing is skewed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config
from cdjax.losses import divergence
from cdjax.workdir import metrics
from tests.command import run_tiny
from tests.test_rounds import experiment

RNG = np.random.default_rng(0)
TEACHER, STUDENT = (RNG.normal(0, 4, (6, 40)).astype(np.float32) for _ in range(2))
ALL = np.ones(6)


def value(loss, teacher=TEACHER, student=STUDENT):
    return float(divergence.divergence(teacher, student, ALL, loss))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("skew", [0.1, 0.7])
def test_it_is_the_written_formula(skew, reverse):
    p, q = (np.exp(x - np.log(np.exp(x).sum(-1, keepdims=True))) for x in np.float64([TEACHER, STUDENT]))
    one, other = (q, p) if reverse else (p, q)
    wanted = (one * np.log(one / (skew * one + (1 - skew) * other))).sum(-1).mean()
    assert value(config.SkewedKL(skew, reverse)) == pytest.approx(wanted, rel=1e-5)


def test_its_ends_are_kl_and_nothing():
    assert value(config.SkewedKL(0.0)) == value(config.ForwardKL())
    assert value(config.SkewedKL(0.0, reverse=True)) == value(config.ReverseKL())
    assert value(config.SkewedKL(), TEACHER, TEACHER) == pytest.approx(0, abs=1e-6)


def test_it_is_bounded_where_kl_is_not():
    """A student that excludes what the teacher says; value and gradient stay finite."""
    apart = jnp.where(TEACHER > 0, -200.0, 0.0)
    found, slope = jax.value_and_grad(lambda x: divergence.divergence(TEACHER, x, ALL, config.SkewedKL(0.1)))(apart)
    assert 1 < float(found) <= -math.log(0.1) + 1e-5 and np.isfinite(slope).all()
    assert value(config.ForwardKL(), TEACHER, np.asarray(apart)) > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.losses.0.skew": 1.0}, "training.losses.0.skew=1 compares"),
        ({"training.losses.0.skew": -0.1}, "losses.0.skew must be between 0 and 1"),
        ({"training.targets": "draws"}, "skewed_kl needs probabilities"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, message):
    cfg = config.override(experiment(losses=(config.SkewedKL(),)), changes)
    with pytest.raises(config.UserError, match=message):
        config.check.validate(cfg)


@pytest.mark.parametrize("targets", ["top_k", "full"])
def test_it_is_chosen_on_the_command_line(targets, tmp_path):
    learn = {"training__update__epochs": "4", "operations__0__inputs__limit": "32"}
    loss = '[{"kind": "skewed_kl", "skew": 0.2}]'
    run_tiny(tmp_path, training__losses=loss, training__targets=targets, **learn)
    losses = [line["loss"] for line in metrics.read(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
