import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from cdjax import config, parallel
from cdjax.losses import divergence, fused, logits
from cdjax.model import decoder
from tests.conftest import TINY

B, C, V = 8, 7, TINY.vocab
RNG = np.random.default_rng(0)
MASK = RNG.random((B, C)) < 0.6
MASK[0], MASK[1] = False, True  # real positions lie unevenly
COUNT = int(MASK.sum())
HIDDEN, WANTED = RNG.normal(0, 20, (2, B, C, TINY.embed)).astype(np.float32)
IDS = RNG.integers(0, V, (B, C)).astype(np.int32)
DRAWS = RNG.integers(0, V, (B, C, 6)).astype(np.int32)
FULL, SAMPLED = config.Objective(targets="full"), config.Objective(targets="sampled")
MIXED = config.Objective(kind="jsd", alpha=0.5, temperature=2.0)
OBJECTIVES = tuple(
    config.Objective(**flags)
    for flags in (
        {},
        {"kind": "reverse_kl"},
        {"kind": "jsd"},
        {"kind": "jsd", "beta": 0.2},
        {"kind": "cross_entropy"},
        {"temperature": 2.0},
        {"alpha": 0.5},
        {"targets": "sampled"},
        {"targets": "sampled", "temperature": 2.0, "alpha": 0.25},
        {"targets": "full"},
        {"targets": "full", "kind": "reverse_kl", "temperature": 2.0},
        {"targets": "full", "kind": "jsd", "beta": 0.3, "temperature": 0.5},
        {"targets": "full", "kind": "jsd", "beta": 0.0, "alpha": 0.25, "temperature": 2.0},
    )
)


def positions(top_k=0, draws=None, temperature=1.0, hidden=HIDDEN, wanted=WANTED, model=None):
    """Positions whose recorded targets come from the teacher's logits of `wanted` under `model`."""
    top = np.zeros((B, C, 0), np.int32)
    logprobs = np.zeros((B, C, 0), np.float32)
    if top_k:
        full = jax.nn.log_softmax(model.logits(jnp.asarray(wanted)) / temperature)
        logprobs, top = jax.lax.top_k(full, top_k)
    draws = np.zeros((B, C, 0), np.int32) if draws is None else draws
    parts = (hidden, wanted, IDS, MASK, top, logprobs, draws)
    return divergence.Positions(*(jnp.asarray(part) for part in parts))


def value_and_grad(model, at, objective, tile):
    """Mean loss with its gradient with respect to the student's weights and hidden states."""

    def loss(student, hidden):
        now, over = dataclasses.replace(at, hidden=hidden), at.real.sum()
        return fused.loss(student, model, now, objective=objective, over=over, tile=tile)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(model, at.hidden)


def dense(student, hidden, teacher, at, objective):
    """The mean loss from logits of all positions, left to automatic differentiation."""
    logits = student.logits(hidden)
    logp = jax.nn.log_softmax(logits / objective.temperature)
    hard = -jnp.take_along_axis(jax.nn.log_softmax(logits), at.ids[..., None], -1)[..., 0]
    shape = {"kind": objective.kind, "beta": objective.beta}
    if objective.kind == "cross_entropy":
        return jnp.mean(hard, where=MASK)
    if objective.targets == "sampled":
        soft = -jnp.take_along_axis(logp, at.draws, -1).mean(-1)
    elif objective.targets == "top_k":
        soft = divergence.bucket_divergence(at.top_logprobs, jnp.take_along_axis(logp, at.top_ids, -1), **shape)
    else:
        wanted = jax.nn.log_softmax(teacher.logits(at.teacher) / objective.temperature)
        soft = divergence.token_divergence(wanted, logp, **shape)
    mixed = objective.alpha * hard + (1 - objective.alpha) * objective.temperature**2 * soft
    return jnp.mean(mixed, where=MASK)


def assert_same(one, two, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


@pytest.mark.parametrize("changes", [{}, {"tied": False, "logit_soft_cap": 3.0}])
def test_fused_equals_dense_in_value_and_gradient(changes, mesh, monkeypatch):
    """For every objective, over tiles of positions and blocks of the vocabulary."""
    monkeypatch.setattr(logits, "OUTCOMES", 16)
    spec = dataclasses.replace(TINY, layers=1, **changes)
    student, teacher = (decoder.create(spec, mesh, seed=seed) for seed in (0, 1))
    at = positions(top_k=5, model=teacher, draws=DRAWS)

    @functools.partial(jax.jit, static_argnames="whole")
    def gradients(student, teacher, at, whole):
        def loss(student, hidden, objective):
            if whole:
                return dense(student, hidden, teacher, at, objective)
            now = dataclasses.replace(at, hidden=hidden)
            return fused.loss(student, teacher, now, objective=objective, over=COUNT, tile=16)[0]

        return [jax.value_and_grad(loss, (0, 1))(student, at.hidden, objective) for objective in OBJECTIVES]

    with jax.set_mesh(mesh):
        given, wanted = (gradients(student, teacher, at, whole) for whole in (False, True))
    for objective, one, two in zip(OBJECTIVES, given, wanted, strict=True):
        assert_same(one, two, err_msg=str(objective))


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
        return divergence.divergence(teacher, buckets(model.logits(hidden)), MASK, kind=kind, beta=0.3, temperature=2.0)

    with jax.set_mesh(mesh):
        wanted = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, at.hidden)
        assert_same(value_and_grad(tiny, at, objective, 3), wanted)


def test_top_k_of_the_whole_vocabulary_is_full(tiny, mesh):
    with jax.set_mesh(mesh):
        full = value_and_grad(tiny, positions(), config.Objective(kind="jsd", targets="full"), C)
        top = value_and_grad(tiny, positions(top_k=V, model=tiny), config.Objective(kind="jsd"), C)
    assert_same(top, full)


def test_sampled_targets_in_proportion_give_the_gradient_of_full_ones(tiny, mesh):
    """Draws whose frequencies are the teacher's probabilities: equal gradients, and values one entropy apart."""
    counts = RNG.multinomial(96, np.full(V, 1 / V), size=(B, C))
    draws = [np.repeat(np.arange(V), row) for row in counts.reshape(-1, V)]
    at = positions(draws=np.stack(draws).reshape(B, C, 96).astype(np.int32))
    p = counts / 96
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)), -1)[MASK].mean()

    def dense(model, hidden):
        teacher = jnp.log(jnp.asarray(p, jnp.float32))
        return divergence.divergence(teacher, model.logits(hidden), MASK, kind="forward_kl")

    with jax.set_mesh(mesh):
        full = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, at.hidden)
        sampled = value_and_grad(tiny, at, config.Objective(targets="sampled"), 3)
    np.testing.assert_allclose(sampled[0], full[0] + entropy, rtol=1e-5)
    assert_same(sampled[1], full[1])


def test_sampled_loss_is_the_cross_entropy_to_the_draws(tiny, mesh):
    objective = config.Objective(targets="sampled", temperature=2.0)
    with jax.set_mesh(mesh):
        loss, _ = value_and_grad(tiny, positions(draws=DRAWS), objective, 3)
        logp = log_softmax(np.asarray(tiny.logits(jnp.asarray(HIDDEN)), np.float64) / 2.0, -1)
    np.testing.assert_allclose(loss, -4 * np.take_along_axis(logp, DRAWS, -1).mean(-1)[MASK].mean(), rtol=1e-5)


def test_alpha_mixes_hard_labels_at_temperature_one(tiny, mesh):
    at = positions(top_k=5, temperature=2.0, model=tiny)

    def sums(**flags):
        objective = config.Objective(temperature=2.0, **flags)
        return jax.jit(lambda model, at: fused.loss(model, None, at, objective=objective, tile=3)[1])(tiny, at)

    with jax.set_mesh(mesh):
        mixed, soft, hard = sums(alpha=0.25), sums(), sums(kind="cross_entropy")
        logp = log_softmax(np.asarray(tiny.logits(at.hidden), np.float64), -1)
    by_ids = -np.take_along_axis(logp, IDS[..., None], -1)[..., 0][MASK].sum()
    np.testing.assert_allclose(hard["loss"], by_ids, rtol=1e-5)
    np.testing.assert_allclose(mixed["loss"], 0.25 * hard["loss"] + 0.75 * soft["loss"], rtol=1e-6)
    np.testing.assert_allclose(soft["loss"], 4 * soft["kl"], rtol=1e-6)
    np.testing.assert_allclose(mixed["teacher_top_mass"], np.exp(at.top_logprobs).sum(-1)[MASK].sum(), rtol=1e-5)
    assert mixed["count"] == MASK.sum()


def test_every_flag_of_the_objective_changes_the_gradient(tiny, mesh):
    @jax.jit
    def gradients(model, at):
        def loss(hidden, objective):
            return fused.loss(model, model, dataclasses.replace(at, hidden=hidden), objective=objective)[0]

        return [jax.grad(loss)(at.hidden, objective) for objective in OBJECTIVES]

    with jax.set_mesh(mesh):
        grads = gradients(tiny, positions(top_k=5, model=tiny, draws=DRAWS))
    for i, one in enumerate(grads):
        assert all(np.abs(one - other).max() > 1e-4 for other in grads[:i]), OBJECTIVES[i]


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


@pytest.mark.parametrize("real, tiles", [(0, 0), (1, 1), (4, 1), (5, 2), (B * C, 14)])
def test_a_tile_without_real_positions_is_not_computed(real, tiles, tiny, mesh, monkeypatch):
    """Real positions anywhere in the batch are brought together; the loop ends with the last of them."""
    seen = []
    made = fused.terms

    def counted(*args):
        jax.debug.callback(lambda: seen.append(1))
        return made(*args)

    monkeypatch.setattr(fused, "terms", counted)
    mask = np.zeros(B * C, bool)
    mask[np.random.default_rng(1).permutation(B * C)[:real]] = True
    at = dataclasses.replace(positions(), real=jnp.asarray(mask.reshape(B, C)))
    with jax.set_mesh(mesh):
        sums = jax.jit(lambda model, at: fused.loss(model, model, at, objective=FULL, tile=4)[1])(tiny, at)
        jax.block_until_ready(sums)
        jax.effects_barrier()
    assert sums["count"] == real and len(seen) == tiles


def test_frozen_weights_get_no_gradient_and_cost_nothing(tiny, mesh):
    """A low-rank student's table is not trained, so its gradient, a third product, is not made."""

    def products(wanted):
        def loss(model, hidden):
            return fused.loss(model, None, dataclasses.replace(at, hidden=hidden), objective=objective)[0]

        return str(jax.make_jaxpr(jax.grad(loss, wanted))(tiny, at.hidden)).count("dot_general[")

    at, objective = positions(), config.Objective(kind="cross_entropy")
    with jax.set_mesh(mesh):
        assert products((0, 1)) == 3 and products(1) == 2


def test_one_device_equals_eight_and_gathers_no_logits(mesh, mesh8):
    """Rows stay on their devices; log-sum-exp, listed ids and both gradients work on a part of the vocabulary."""
    spec = dataclasses.replace(TINY, layers=1, vocab=4096)
    results = []
    for here in (mesh, mesh8):
        student, teacher = (decoder.create(spec, here, seed=seed) for seed in (0, 1))
        with jax.set_mesh(here):
            at = parallel.place_batch(vars(positions(top_k=5, model=student, draws=DRAWS)), here)

            @jax.jit
            def gradients(student, teacher, at):
                def loss(student, hidden, objective):
                    now = divergence.Positions(**(at | {"hidden": hidden}))
                    return fused.loss(student, teacher, now, objective=objective, over=COUNT, tile=2)[0]

                return [jax.value_and_grad(loss, (0, 1))(student, at["hidden"], it) for it in (FULL, MIXED, SAMPLED)]

            compiled = gradients.lower(student, teacher, at).compile()
            results.append(jax.device_get(compiled(student, teacher, at)))
    assert_same(*results)
    moved = re.findall(
        r"= (.*) (?:all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)\(", compiled.as_text()
    )
    shapes = {shape for line in moved for shape in re.findall(r"\[([\d,]*)\]", line)}
    assert {shape for shape in shapes if {"4096", "2048"} & set(shape.split(","))} == {"2048,32"}, "only the weights"


def test_logits_of_all_positions_never_exist_together(mesh):
    spec = dataclasses.replace(TINY, vocab=4096, layers=1)
    model = decoder.create(spec, mesh)
    shape = (4, 64)

    def loss(model, hidden):
        ids, top = jnp.zeros(shape, jnp.int32), jnp.zeros((*shape, 2))
        at = divergence.Positions(hidden, hidden, ids, ids == 0, top.astype(int), top, top.astype(int))
        return fused.loss(model, model, at, objective=config.Objective(targets="full"), tile=4)[0]

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
            divergence.check(wrong)
    with jax.set_mesh(mesh), pytest.raises(config.UserError, match="recorded without"):
        fused.loss(tiny, None, positions(), objective=config.Objective(), tile=4)
