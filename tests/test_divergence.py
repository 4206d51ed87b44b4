import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from cdjax import config
from cdjax.losses import divergence
from cdjax.sampling import choose
from tests.conftest import TINY

LOSSES = (config.ForwardKL(), config.ReverseKL(), config.JSD(), config.JSD(0.3))
B, C, V = 4, 7, TINY.vocab
RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(0, 2, (2, B, C, V)).astype(np.float32)
MASK = RNG.random((B, C)) < 0.6


def log_p(logits, temperature=1.0):
    return log_softmax(np.asarray(logits, np.float64) / temperature, -1)


def by_hand(p, q, loss):
    def kl(a, b):
        return np.sum(np.exp(a) * (a - b), -1)

    if loss.kind == "jsd":
        beta = loss.beta
        m = np.log(beta * np.exp(p) + (1 - beta) * np.exp(q))
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    return kl(p, q) if loss.kind == "forward_kl" else kl(q, p)


def assert_same(one, two, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_divergence_is_the_written_formula(loss):
    given = divergence.divergence(TEACHER, STUDENT, MASK, loss, temperature=1.7)
    wanted = by_hand(log_p(TEACHER, 1.7), log_p(STUDENT, 1.7), loss)[MASK].mean() * 1.7**2
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_ends_of_jsd_are_forward_and_reverse_kl():
    """Which it tends to when it is scaled by its distance to the end."""
    for end, near, loss in ((0.0, 1e-3, config.ForwardKL()), (1.0, 1 - 1e-3, config.ReverseKL())):
        whole, at_the_end, close = (
            divergence.divergence(TEACHER, STUDENT, MASK, one) for one in (loss, config.JSD(end), config.JSD(near))
        )
        assert at_the_end == whole
        np.testing.assert_allclose(close / 1e-3, whole, rtol=0.1)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_what_stands_at_masked_positions_does_not_matter(loss):
    wild = np.where(MASK[..., None], STUDENT, np.array([np.nan, np.inf, -np.inf, 1e30], np.float32).repeat(V // 4))
    grad = jax.jit(jax.grad(lambda s, t: divergence.divergence(t, s, MASK, loss, temperature=0.5)))
    quiet, given = grad(STUDENT, TEACHER), grad(wild, np.where(MASK[..., None], TEACHER, np.nan))
    np.testing.assert_array_equal(given, quiet)
    assert not np.any(given[~MASK])


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_outcomes_excluded_by_both_add_nothing(loss):
    """Minus infinity in the logits of both sides, as for padded vocabulary entries, is the same as not being there."""
    cut = np.where(np.arange(V) < 40, 0.0, -np.inf).astype(np.float32)[None, None]
    value = jax.jit(jax.value_and_grad(lambda s, t: divergence.divergence(t, s, MASK, loss)))
    whole, short = value(STUDENT + cut, TEACHER + cut), value(STUDENT[..., :40], TEACHER[..., :40])
    assert_same(whole[0], short[0])
    assert_same(whole[1][..., :40], short[1])
    assert not np.any(whole[1][..., 40:])


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_vanishing_tail_stays_finite(loss):
    """The teacher is certain to float32 precision and the student is certain of something else."""
    top = jnp.array([[0.0, -40.0]])

    @jax.jit
    @jax.value_and_grad
    def buckets(z):
        listed = jax.nn.log_softmax(z)[:, jnp.array([3, 5])]
        outcomes = map(choose.with_tail, (top, listed))
        return divergence.total(loss.pointwise, *outcomes).sum()

    for certain in (3, 9):
        value, grad = buckets(jnp.asarray(60 * np.eye(V, dtype=np.float32)[certain : certain + 1]))
        assert np.isfinite(value) and np.all(np.isfinite(grad))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_an_outcome_that_one_side_excludes_counts_as_the_limit(loss):
    """In value and gradient: infinite, or what is left of the other side's part."""
    cut = np.where(np.arange(V) < 40, 0.0, -np.inf).astype(np.float32)[None, None]
    near = np.where(np.arange(V) < 40, 0.0, -60.0).astype(np.float32)[None, None]
    value = jax.jit(jax.value_and_grad(lambda s, t: divergence.divergence(t, s, MASK, loss)))
    for given, wanted in (((STUDENT, TEACHER + cut), (STUDENT, TEACHER + near)), ((STUDENT + cut, TEACHER), None)):
        infinite = loss.kind == ("reverse_kl" if wanted else "forward_kl")
        found, grad = value(*given)
        assert np.isinf(found) if infinite else np.isfinite(found) and np.isfinite(grad[..., :40]).all()
        if wanted and not infinite:
            assert_same((found, grad), value(*wanted))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_slope_of_the_one_function_is_the_derivative_by_logits(loss):
    p, q = (jnp.asarray(log_p(logits), jnp.float32) for logits in (TEACHER, STUDENT))
    by = divergence.derivative(loss.pointwise, p, q)
    found = by - jnp.exp(q) * by.sum(-1, keepdims=True)
    wanted = jax.grad(lambda s: divergence.total(loss.pointwise, p, jax.nn.log_softmax(s)).sum())(jnp.asarray(STUDENT))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    if loss.derivative_sum is not None:
        np.testing.assert_allclose(by.sum(-1), loss.derivative_sum, rtol=1e-5)
