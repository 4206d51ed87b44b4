import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from cdjax import config
from cdjax.losses import divergence
from cdjax.sampling import choose
from tests.conftest import TINY

KINDS = ("forward_kl", "reverse_kl", "jsd")
B, C, V = 4, 7, TINY.vocab
RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(0, 2, (2, B, C, V)).astype(np.float32)
MASK = RNG.random((B, C)) < 0.6


def log_p(logits, temperature=1.0):
    return log_softmax(np.asarray(logits, np.float64) / temperature, -1)


def by_hand(p, q, kind, beta):
    def kl(a, b):
        return np.sum(np.exp(a) * (a - b), -1)

    if kind == "jsd":
        m = np.log(beta * np.exp(p) + (1 - beta) * np.exp(q))
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    return kl(p, q) if kind == "forward_kl" else kl(q, p)


def assert_same(one, two, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_is_the_written_formula(kind):
    given = divergence.divergence(TEACHER, STUDENT, MASK, kind=kind, beta=0.3, temperature=1.7)
    wanted = by_hand(log_p(TEACHER, 1.7), log_p(STUDENT, 1.7), kind, 0.3)[MASK].mean() * 1.7**2
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_ends_of_jsd_are_forward_and_reverse_kl():
    for beta, kind in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        end = divergence.divergence(TEACHER, STUDENT, MASK, kind="jsd", beta=beta)
        assert end == divergence.divergence(TEACHER, STUDENT, MASK, kind=kind)
    with pytest.raises(config.UserError, match="beta=1.5"):
        divergence.divergence(TEACHER, STUDENT, MASK, kind="jsd", beta=1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_at_masked_positions_does_not_matter(kind):
    wild = np.where(MASK[..., None], STUDENT, np.array([np.nan, np.inf, -np.inf, 1e30], np.float32).repeat(V // 4))
    grad = jax.jit(jax.grad(lambda s, t: divergence.divergence(t, s, MASK, kind=kind, temperature=0.5)))
    quiet, given = grad(STUDENT, TEACHER), grad(wild, np.where(MASK[..., None], TEACHER, np.nan))
    np.testing.assert_array_equal(given, quiet)
    assert not np.any(given[~MASK])


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_excluded_by_both_add_nothing(kind):
    """Minus infinity in the logits of both sides, as for padded vocabulary entries, is the same as not being there."""
    cut = np.where(np.arange(V) < 40, 0.0, -np.inf).astype(np.float32)[None, None]
    value = jax.jit(jax.value_and_grad(lambda s, t: divergence.divergence(t, s, MASK, kind=kind)))
    whole, short = value(STUDENT + cut, TEACHER + cut), value(STUDENT[..., :40], TEACHER[..., :40])
    assert_same(whole[0], short[0])
    assert_same(whole[1][..., :40], short[1])
    assert not np.any(whole[1][..., 40:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_vanishing_tail_stays_finite(kind):
    """The teacher is certain to float32 precision and the student is certain of something else."""
    top = jnp.array([[0.0, -40.0]])

    @jax.jit
    @jax.value_and_grad
    def loss(z):
        listed = jax.nn.log_softmax(z)[:, jnp.array([3, 5])]
        outcomes = map(choose.with_tail, (top, listed))
        return divergence.token_divergence(*outcomes, kind=kind, beta=0.5).sum()

    for certain in (3, 9):
        value, grad = loss(jnp.asarray(60 * np.eye(V, dtype=np.float32)[certain : certain + 1]))
        assert np.isfinite(value) and np.all(np.isfinite(grad))
