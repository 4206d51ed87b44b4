import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from cdjax import config
from cdjax.distill import fused, losses
from cdjax.model import decoder
from tests.conftest import TINY

KINDS = ("forward_kl", "reverse_kl", "jsd")
B, C, V = 4, 7, TINY.vocab
RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(0, 2, (2, B, C, V)).astype(np.float32)
MASK = RNG.random((B, C)) < 0.6
HIDDEN, WANTED = RNG.normal(0, 20, (2, B, C, TINY.embed)).astype(np.float32)
IDS = RNG.integers(0, V, (B, C)).astype(np.int32)


def log_p(logits, temperature=1.0):
    return log_softmax(np.asarray(logits, np.float64) / temperature, -1)


def by_hand(p, q, kind, beta):
    def kl(a, b):
        return np.sum(np.exp(a) * (a - b), -1)

    if kind == "jsd":
        m = np.log(beta * np.exp(p) + (1 - beta) * np.exp(q))
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    return kl(p, q) if kind == "forward_kl" else kl(q, p)


def positions(top_k=0, draws=None, temperature=1.0, hidden=HIDDEN, wanted=WANTED, model=None):
    """Positions whose recorded targets come from the teacher's logits of `wanted` under `model`."""
    top = np.zeros((B, C, 0), np.int32)
    logprobs = np.zeros((B, C, 0), np.float32)
    if top_k:
        full = jax.nn.log_softmax(model.logits(jnp.asarray(wanted)) / temperature)
        logprobs, top = jax.lax.top_k(full, top_k)
    draws = np.zeros((B, C, 0), np.int32) if draws is None else draws
    parts = (hidden, wanted, IDS, MASK, top, logprobs, draws)
    return fused.Positions(*(jnp.asarray(part) for part in parts))


def value_and_grad(model, at, objective, tile):
    """Mean loss with its gradient with respect to the student's weights and hidden states."""

    def loss(student, hidden):
        sums = fused.sums(student, model, dataclasses.replace(at, hidden=hidden), objective=objective, tile=tile)
        return sums["loss"] / sums["count"]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(model, at.hidden)


def assert_same(one, two, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_is_the_written_formula(kind):
    given = losses.divergence(TEACHER, STUDENT, MASK, kind=kind, beta=0.3, temperature=1.7)
    wanted = by_hand(log_p(TEACHER, 1.7), log_p(STUDENT, 1.7), kind, 0.3)[MASK].mean() * 1.7**2
    np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_ends_of_jsd_are_forward_and_reverse_kl():
    for beta, kind in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        end = losses.divergence(TEACHER, STUDENT, MASK, kind="jsd", beta=beta)
        assert end == losses.divergence(TEACHER, STUDENT, MASK, kind=kind)
    with pytest.raises(config.UserError, match="beta=1.5"):
        losses.divergence(TEACHER, STUDENT, MASK, kind="jsd", beta=1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_at_masked_positions_does_not_matter(kind):
    wild = np.where(MASK[..., None], STUDENT, np.array([np.nan, np.inf, -np.inf, 1e30], np.float32).repeat(V // 4))
    grad = jax.jit(jax.grad(lambda s, t: losses.divergence(t, s, MASK, kind=kind, temperature=0.5)))
    quiet, given = grad(STUDENT, TEACHER), grad(wild, np.where(MASK[..., None], TEACHER, np.nan))
    np.testing.assert_array_equal(given, quiet)
    assert not np.any(given[~MASK])


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_excluded_by_both_add_nothing(kind):
    """Minus infinity in the logits of both sides, as for padded vocabulary entries, is the same as not being there."""
    cut = np.where(np.arange(V) < 40, 0.0, -np.inf).astype(np.float32)[None, None]
    value = jax.jit(jax.value_and_grad(lambda s, t: losses.divergence(t, s, MASK, kind=kind)))
    whole, short = value(STUDENT + cut, TEACHER + cut), value(STUDENT[..., :40], TEACHER[..., :40])
    assert_same(whole[0], short[0])
    assert_same(whole[1][..., :40], short[1])
    assert not np.any(whole[1][..., 40:])


@pytest.mark.parametrize("kind, tile", [*((kind, 2) for kind in KINDS), ("reverse_kl", C)])
def test_fused_equals_dense_in_value_and_gradient(kind, tile, tiny, mesh):
    objective = config.Objective(kind=kind, beta=0.3, temperature=2.0, targets="full")
    at = positions()

    def dense(model, hidden):
        teacher = jax.lax.stop_gradient(model.logits(at.teacher))
        return losses.divergence(teacher, model.logits(hidden), MASK, kind=kind, beta=0.3, temperature=2.0)

    with jax.set_mesh(mesh):
        wanted = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, at.hidden)
        assert_same(value_and_grad(tiny, at, objective, tile), wanted)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_top_k_is_the_dense_divergence_of_buckets(kind, tiny, mesh):
    objective = config.Objective(kind=kind, beta=0.3, temperature=2.0, top_k=5)
    at = positions(top_k=5, temperature=2.0, model=tiny)

    def buckets(logits):
        p = jax.nn.softmax(logits / 2.0)
        listed = jnp.take_along_axis(p, at.top_ids, -1)
        inside = jnp.sum(jax.nn.one_hot(at.top_ids, V), -2)
        return 2.0 * jnp.log(jnp.concatenate([listed, jnp.sum(p * (1 - inside), -1, keepdims=True)], -1))

    def dense(model, hidden):
        teacher = buckets(jax.lax.stop_gradient(model.logits(at.teacher)))
        return losses.divergence(teacher, buckets(model.logits(hidden)), MASK, kind=kind, beta=0.3, temperature=2.0)

    with jax.set_mesh(mesh):
        wanted = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, at.hidden)
        assert_same(value_and_grad(tiny, at, objective, 3), wanted)


def test_top_k_of_the_whole_vocabulary_is_full(tiny, mesh):
    with jax.set_mesh(mesh):
        full = value_and_grad(tiny, positions(), config.Objective(kind="jsd", targets="full"), C)
        top = value_and_grad(tiny, positions(top_k=V, model=tiny), config.Objective(kind="jsd"), C)
    assert_same(top, full)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vanishing_tail_stays_finite(kind):
    """The teacher is certain to float32 precision and the student is certain of something else."""
    top = jnp.array([[0.0, -40.0]])

    @jax.jit
    @jax.value_and_grad
    def loss(z):
        listed = jax.nn.log_softmax(z)[:, jnp.array([3, 5])]
        return losses.bucket_divergence(top, listed, kind=kind, beta=0.5).sum()

    for certain in (3, 9):
        value, grad = loss(jnp.asarray(60 * np.eye(V, dtype=np.float32)[certain : certain + 1]))
        assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_sampled_targets_in_proportion_give_the_gradient_of_full_ones(tiny, mesh):
    """Draws whose frequencies are the teacher's probabilities: equal gradients, and values one entropy apart."""
    counts = RNG.multinomial(96, np.full(V, 1 / V), size=(B, C))
    draws = [np.repeat(np.arange(V), row) for row in counts.reshape(-1, V)]
    at = positions(draws=np.stack(draws).reshape(B, C, 96).astype(np.int32))
    p = counts / 96
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)), -1)[MASK].mean()

    def dense(model, hidden):
        teacher = jnp.log(jnp.asarray(p, jnp.float32))
        return losses.divergence(teacher, model.logits(hidden), MASK, kind="forward_kl")

    with jax.set_mesh(mesh):
        full = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, at.hidden)
        sampled = value_and_grad(tiny, at, config.Objective(targets="sampled"), 3)
    np.testing.assert_allclose(sampled[0], full[0] + entropy, rtol=1e-5)
    assert_same(sampled[1], full[1])


def test_sampled_loss_is_the_cross_entropy_to_the_draws(tiny, mesh):
    draws = RNG.integers(0, V, (B, C, 6)).astype(np.int32)
    objective = config.Objective(targets="sampled", temperature=2.0)
    with jax.set_mesh(mesh):
        loss, _ = value_and_grad(tiny, positions(draws=draws), objective, 3)
        logp = log_p(tiny.logits(jnp.asarray(HIDDEN)), 2.0)
    np.testing.assert_allclose(loss, -4 * np.take_along_axis(logp, draws, -1).mean(-1)[MASK].mean(), rtol=1e-5)


def test_alpha_mixes_hard_labels_at_temperature_one(tiny, mesh):
    at = positions(top_k=5, temperature=2.0, model=tiny)

    def sums(**flags):
        objective = config.Objective(temperature=2.0, **flags)
        return jax.jit(lambda model, at: fused.sums(model, None, at, objective=objective, tile=3))(tiny, at)

    with jax.set_mesh(mesh):
        mixed, soft, hard = sums(alpha=0.25), sums(), sums(kind="cross_entropy")
        logp = log_p(tiny.logits(at.hidden))
    by_ids = -np.take_along_axis(logp, IDS[..., None], -1)[..., 0][MASK].sum()
    np.testing.assert_allclose(hard["loss"], by_ids, rtol=1e-5)
    np.testing.assert_allclose(mixed["loss"], 0.25 * hard["loss"] + 0.75 * soft["loss"], rtol=1e-6)
    np.testing.assert_allclose(soft["loss"], 4 * soft["kl"], rtol=1e-6)
    np.testing.assert_allclose(mixed["teacher_top_mass"], np.exp(at.top_logprobs).sum(-1)[MASK].sum(), rtol=1e-5)
    assert mixed["count"] == MASK.sum()


def test_every_flag_of_the_objective_changes_the_gradient(tiny, mesh):
    draws = RNG.integers(0, V, (B, C, 6)).astype(np.int32)
    flags = (
        {},
        {"kind": "reverse_kl"},
        {"kind": "jsd"},
        {"kind": "jsd", "beta": 0.2},
        {"kind": "cross_entropy"},
        {"temperature": 2.0},
        {"alpha": 0.5},
        {"targets": "sampled"},
        {"targets": "full"},
    )

    @jax.jit
    def gradients(model, at):
        def loss(hidden, flag):
            now, objective = dataclasses.replace(at, hidden=hidden), config.Objective(**flag)
            return fused.sums(model, model, now, objective=objective, tile=C)["loss"]

        return [jax.grad(loss)(at.hidden, flag) for flag in flags]

    with jax.set_mesh(mesh):
        grads = gradients(tiny, positions(top_k=5, model=tiny, draws=draws))
    for i, one in enumerate(grads):
        assert all(np.abs(one - other).max() > 1e-4 for other in grads[:i]), flags[i]


def test_masked_positions_get_no_gradient(tiny, mesh):
    """Not even when what stands there is not a number."""
    at = positions(top_k=5, model=tiny)
    wild = jax.tree.map(lambda x: jnp.where(MASK[..., None], x, jnp.nan) if x.dtype == jnp.float32 else x, at)
    objective = config.Objective(alpha=0.5)
    with jax.set_mesh(mesh):
        quiet, given = value_and_grad(tiny, at, objective, 3), value_and_grad(tiny, wild, objective, 3)
    for a, b in zip(jax.tree.leaves(quiet), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.any(np.asarray(given[1][1])[~MASK]) and np.all(np.any(np.asarray(given[1][1])[MASK], -1))


def test_logits_of_all_positions_never_exist_together(mesh):
    spec = dataclasses.replace(TINY, vocab=4096, layers=1)
    model = decoder.create(spec, mesh)
    shape = (4, 64)

    def loss(model, hidden):
        ids, top = jnp.zeros(shape, jnp.int32), jnp.zeros((*shape, 2))
        at = fused.Positions(hidden, hidden, ids, ids == 0, top.astype(int), top, top.astype(int))
        return fused.sums(model, model, at, objective=config.Objective(targets="full"), tile=4)["loss"]

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(model, jnp.zeros((*shape, spec.embed)))
    memory = lowered.compile().memory_analysis().temp_size_in_bytes
    assert memory < 4 * 64 * 4096 * 4


def test_an_objective_that_cannot_be_computed_is_refused(tiny, mesh):
    for wrong, said in (
        (config.Objective(kind="jsd", targets="sampled"), "only ids"),
        (config.Objective(temperature=0.0), "temperature"),
        (config.Objective(alpha=1.5), "alpha"),
    ):
        with pytest.raises(config.UserError, match=said):
            fused.check(wrong)
    with jax.set_mesh(mesh), pytest.raises(config.UserError, match="recorded without"):
        fused.sums(tiny, None, positions(), objective=config.Objective(), tile=4)
