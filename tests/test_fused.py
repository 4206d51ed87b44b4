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
from cdjax.losses.loss import Divergence
from cdjax.losses.positions import Positions
from cdjax.model import decoder
from cdjax.sampling.targets.target import Target
from tests.conftest import TINY

B, C, V = 8, 7, TINY.vocab
RNG = np.random.default_rng(0)
MASK = RNG.random((B, C)) < 0.6
MASK[0], MASK[1] = False, True  # real positions lie unevenly
COUNT = int(MASK.sum())
HIDDEN, WANTED = RNG.normal(0, 20, (2, B, C, TINY.embed)).astype(np.float32)
IDS = RNG.integers(0, V, (B, C)).astype(np.int32)
TOP_K, DRAWS, FULL = config.TopK(5), config.Draws(6), config.Full()
FORWARD, REVERSE, HARD = config.ForwardKL(), config.ReverseKL(), config.CrossEntropy()
CASES = (
    (TOP_K, (FORWARD,)),
    (TOP_K, (REVERSE,)),
    (TOP_K, (config.JSD(),)),
    (TOP_K, (config.JSD(0.2),)),
    (TOP_K, (HARD,)),
    (config.TopK(5, 2.0), (FORWARD,)),
    (config.Restricted((1, 4, 40), temperature=2.0), (config.JSD(),)),
    (config.Restricted((1, 4, 40), tail=False), (FORWARD,)),
    (TOP_K, (config.ForwardKL(0.5), config.CrossEntropy(0.5))),
    (TOP_K, (FORWARD, config.ReverseKL(0.25))),
    (DRAWS, (FORWARD,)),
    (config.Draws(6, 2.0), (config.ForwardKL(0.75), config.CrossEntropy(0.25))),
    (FULL, (FORWARD,)),
    (config.Full(2.0), (config.ForwardKL(0.5),)),
    (config.Full(2.0), (REVERSE,)),
    (config.Full(0.5), (config.JSD(0.3),)),
    (config.Full(2.0), (config.JSD(0.0, weight=0.75), config.CrossEntropy(0.25))),
    (config.Full(2.0), (FORWARD, config.ReverseKL(0.5), config.JSD(0.1), config.JSD(0.9, weight=0.0))),
)
MIXED = (CASES[12], (config.TopK(5, 2.0), (config.JSD(), HARD)), CASES[10])


@dataclasses.dataclass(frozen=True)
class Graded(Target):
    """Targets that know how much better than others each token is."""

    gives = frozenset({"advantage"})

    def buffers(self):
        return {"grade": ((), "float32")}

    def advantage(self, recorded, student):
        return recorded["grade"] - 1


def positions(targets=FULL, model=None, **changes):
    """Positions with what `targets` record of the teacher's logits of WANTED under `model`."""
    recorded = {}
    if targets.buffers():
        logits = model.logits(jnp.asarray(WANTED)).reshape(B * C, -1)
        numbers = jax.random.uniform(jax.random.key(0), (B * C, targets.uniforms))
        recorded = targets.observe(logits, jnp.asarray(IDS).reshape(B * C), numbers)
    parts = {"hidden": HIDDEN, "teacher": WANTED, "ids": IDS, "weight": MASK.astype(np.float32)} | changes
    parts["targets"] = {name: x.reshape(B, C, *x.shape[1:]) for name, x in recorded.items()}
    return Positions(**jax.tree.map(jnp.asarray, parts))


def value_and_grad(model, at, targets, losses, tile):
    """Mean loss with its gradient with respect to the student's weights and hidden states."""

    def loss(student, hidden):
        now, over = dataclasses.replace(at, hidden=hidden), at.real.sum()
        return fused.loss(student, model, now, targets=targets, losses=losses, over=over, tile=tile)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(model, at.hidden)


def dense(student, hidden, teacher, at, targets, losses):
    """The mean loss from logits of all positions, left to automatic differentiation."""
    logits = student.logits(hidden)
    logp = jax.nn.log_softmax(logits / targets.temperature).reshape(B * C, V)
    hard = jnp.take_along_axis(jax.nn.log_softmax(logits), at.ids[..., None], -1).reshape(B * C)
    recorded = {name: x.reshape(B * C, *x.shape[2:]) for name, x in at.targets.items()}
    if targets.kind == "full":
        outcomes = jax.nn.log_softmax(teacher.logits(at.teacher) / targets.temperature).reshape(B * C, V), logp
    else:
        listed = jnp.take_along_axis(logp, targets.listed(recorded), -1)
        outcomes = None if targets.kind == "draws" else targets.outcomes(recorded, listed)
    total = 0.0
    for loss in losses:
        if not isinstance(loss, Divergence):
            total += loss.weight * loss.of_tokens(hard, targets, recorded)
        elif targets.kind == "draws":
            total += loss.weight * targets.temperature**2 * -listed.mean(-1)
        else:
            total += loss.weight * targets.temperature**2 * divergence.total(loss.pointwise, *outcomes)
    return jnp.mean(total.reshape(B, C), where=MASK)


def assert_same(one, two, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


@pytest.mark.parametrize("changes", [{}, {"tied": False, "logit_soft_cap": 3.0}])
def test_fused_equals_dense_in_value_and_gradient(changes, mesh, monkeypatch):
    """For every objective, over tiles of positions and blocks of the vocabulary."""
    monkeypatch.setattr(logits, "OUTCOMES", 16)
    spec = dataclasses.replace(TINY, layers=1, **changes)
    student, teacher = (decoder.create(spec, mesh, seed=seed) for seed in (0, 1))
    with jax.set_mesh(mesh):
        at = [positions(targets, teacher) for targets, _ in CASES]

    @functools.partial(jax.jit, static_argnames="whole")
    def gradients(student, teacher, at, whole):
        def loss(student, hidden, at, case):
            if whole:
                return dense(student, hidden, teacher, at, *case)
            how = dict(zip(("targets", "losses"), case, strict=True))
            return fused.loss(student, teacher, dataclasses.replace(at, hidden=hidden), **how, over=COUNT, tile=16)[0]

        both = jax.value_and_grad(loss, (0, 1))
        return [both(student, one.hidden, one, case) for one, case in zip(at, CASES, strict=True)]

    with jax.set_mesh(mesh):
        given, wanted = (gradients(student, teacher, at, whole) for whole in (False, True))
    for case, one, two in zip(CASES, given, wanted, strict=True):
        assert_same(one, two, err_msg=str(case))


@pytest.mark.parametrize("loss", [FORWARD, REVERSE], ids=str)
def test_top_k_is_the_dense_divergence_of_buckets(loss, tiny, mesh):
    targets = config.TopK(5, 2.0)
    with jax.set_mesh(mesh):
        at = positions(targets, tiny)

    def buckets(logits):
        p = jax.nn.softmax(logits / 2.0)
        listed = jnp.take_along_axis(p, at.targets["ids"], -1)
        inside = jnp.sum(jax.nn.one_hot(at.targets["ids"], V), -2)
        return 2.0 * jnp.log(jnp.concatenate([listed, jnp.sum(p * (1 - inside), -1, keepdims=True)], -1))

    def dense(model, hidden):
        teacher = buckets(jax.lax.stop_gradient(model.logits(at.teacher)))
        return divergence.divergence(teacher, buckets(model.logits(hidden)), MASK, loss, temperature=2.0)

    with jax.set_mesh(mesh):
        wanted = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, at.hidden)
        assert_same(value_and_grad(tiny, at, targets, (loss,), 3), wanted)


def test_top_k_of_the_whole_vocabulary_is_full(tiny, mesh):
    with jax.set_mesh(mesh):
        full, top = (
            value_and_grad(tiny, positions(targets, tiny), targets, (config.JSD(),), C)
            for targets in (FULL, config.TopK(V))
        )
    assert_same(top, full)


def test_sampled_targets_in_proportion_give_the_gradient_of_full_ones(tiny, mesh):
    """Draws whose frequencies are the teacher's probabilities: equal gradients, and values one entropy apart."""
    counts = RNG.multinomial(96, np.full(V, 1 / V), size=(B, C))
    draws = [np.repeat(np.arange(V), row) for row in counts.reshape(-1, V)]
    at = dataclasses.replace(positions(), targets={"ids": jnp.asarray(np.stack(draws).reshape(B, C, 96), jnp.int32)})
    p = counts / 96
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)), -1)[MASK].mean()

    def dense(model, hidden):
        teacher = jnp.log(jnp.asarray(p, jnp.float32))
        return divergence.divergence(teacher, model.logits(hidden), MASK, FORWARD)

    with jax.set_mesh(mesh):
        full = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, at.hidden)
        sampled = value_and_grad(tiny, at, config.Draws(96), (FORWARD,), 3)
    np.testing.assert_allclose(sampled[0], full[0] + entropy, rtol=1e-5)
    assert_same(sampled[1], full[1])


def test_sampled_loss_is_the_cross_entropy_to_the_draws(tiny, mesh):
    targets = config.Draws(6, 2.0)
    with jax.set_mesh(mesh):
        at = positions(targets, tiny)
        loss, _ = value_and_grad(tiny, at, targets, (FORWARD,), 3)
        logp = log_softmax(np.asarray(tiny.logits(jnp.asarray(HIDDEN)), np.float64) / 2.0, -1)
    np.testing.assert_allclose(
        loss, -4 * np.take_along_axis(logp, np.asarray(at.targets["ids"]), -1).mean(-1)[MASK].mean(), rtol=1e-5
    )


def test_a_mix_is_the_weighted_sum_and_tells_each_loss(tiny, mesh):
    """Cross-entropy is at temperature 1; a divergence is told without its weight and temperature^2."""
    targets = config.TopK(5, 2.0)

    def sums(*losses):
        return jax.jit(lambda model, at: fused.loss(model, None, at, targets=targets, losses=losses, tile=3)[1])(
            tiny, at
        )

    with jax.set_mesh(mesh):
        at = positions(targets, tiny)
        mixed = sums(config.ForwardKL(0.75), config.CrossEntropy(0.25), config.JSD(weight=0.0), config.JSD(0.1))
        soft, hard, jsd = sums(FORWARD), sums(HARD), sums(config.JSD(0.1))
        logp = log_softmax(np.asarray(tiny.logits(at.hidden), np.float64), -1)
    by_ids = -np.take_along_axis(logp, IDS[..., None], -1)[..., 0][MASK].sum()
    np.testing.assert_allclose(hard["loss"], by_ids, rtol=1e-5)
    np.testing.assert_allclose(mixed["loss"], 0.25 * hard["loss"] + 0.75 * soft["loss"] + jsd["loss"], rtol=1e-6)
    np.testing.assert_allclose(soft["loss"], 4 * soft["kl"], rtol=1e-6)
    np.testing.assert_allclose(mixed["jsd 2"] * 4, jsd["loss"], rtol=1e-6)
    assert mixed["forward_kl"] == mixed["kl"] and mixed["jsd"] != mixed["jsd 2"]
    assert set(soft) == {"loss", "count", "cross_entropy", "kl", "teacher_top_mass", "student_top_mass"}
    np.testing.assert_allclose(mixed["teacher_top_mass"], np.exp(at.targets["logprobs"]).sum(-1)[MASK].sum(), rtol=1e-5)
    assert mixed["count"] == MASK.sum()


def test_a_policy_gradient_is_the_advantage_times_the_score(tiny, mesh):
    grade = RNG.normal(size=(B, C)).astype(np.float32)
    with jax.set_mesh(mesh):
        at = dataclasses.replace(positions(), targets={"grade": jnp.asarray(grade)})
        (_, (by_weights, by_hidden)) = value_and_grad(tiny, at, Graded(), (config.PolicyGradient(2.0),), 3)
        q = np.asarray(jax.nn.softmax(tiny.logits(at.hidden)))
    by_logits = 2.0 * ((grade - 1)[..., None] * (q - np.eye(V)[IDS])) * MASK[..., None] / COUNT
    table = np.asarray(tiny.embedding[...])
    np.testing.assert_allclose(by_hidden, by_logits @ table, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(
        by_weights.embedding[...], np.einsum("bcv,bcd->vd", by_logits, HIDDEN), rtol=2e-4, atol=2e-5
    )


def test_every_field_of_targets_and_losses_changes_the_gradient(tiny, mesh):
    @jax.jit
    def gradients(model, at):
        def loss(hidden, at, targets, losses):
            now = dataclasses.replace(at, hidden=hidden)
            return fused.loss(model, model, now, targets=targets, losses=losses)[0]

        return [jax.grad(loss)(one.hidden, one, *case) for one, case in zip(at, CASES, strict=True)]

    with jax.set_mesh(mesh):
        grads = gradients(tiny, [positions(targets, tiny) for targets, _ in CASES])
    for i, one in enumerate(grads):
        assert all(np.abs(one - other).max() > 1e-4 for other in grads[:i]), CASES[i]


def test_masked_positions_get_no_gradient(tiny, mesh):
    """Not even when what stands there is not a number."""
    with jax.set_mesh(mesh):
        at = positions(TOP_K, tiny)
        wild = jax.tree.map(
            lambda x: jnp.where(MASK[..., None], x, jnp.nan) if x.dtype == jnp.float32 else x,
            vars(at) | {"weight": IDS},
        )
        wild = dataclasses.replace(at, **wild | {"weight": at.weight})
        quiet, given = (value_and_grad(tiny, one, TOP_K, (FORWARD, HARD), 3) for one in (at, wild))
    for a, b in zip(jax.tree.leaves(quiet), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.any(np.asarray(given[1][1])[~MASK]) and np.all(np.any(np.asarray(given[1][1])[MASK], -1))


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_a_weight_scales_a_position_and_none_takes_it_out(number, tiny, mesh):
    """Loss and gradient are linear in the weights, and where they are 0 a position is as if it were masked."""
    targets, losses = CASES[number]
    weight = np.where(MASK, RNG.choice(np.array([0, 0.5, 2], np.float32), MASK.shape), 0).astype(np.float32)

    @jax.jit
    def sums(at):
        def loss(hidden, at):
            now = dataclasses.replace(at, hidden=hidden)
            return fused.loss(tiny, tiny, now, targets=targets, losses=losses, tile=3)

        return jax.value_and_grad(loss, has_aux=True)(at.hidden, at)

    def of(weight):
        return sums(dataclasses.replace(at, weight=jnp.asarray(weight, jnp.float32)))

    with jax.set_mesh(mesh):
        at = positions(targets, tiny)
        (total, told), grad = of(weight)
        parts = [of(weight == value) for value in (0.5, 2)]
        kept = of(weight != 0)[0][1]
    np.testing.assert_allclose(total, 0.5 * parts[0][0][0] + 2 * parts[1][0][0], rtol=1e-4)
    assert_same(grad, 0.5 * parts[0][1] + 2 * parts[1][1])
    assert told["count"] == (weight != 0).sum() and not np.any(np.asarray(grad)[weight == 0])
    for name in told.keys() - {"loss"}:
        np.testing.assert_allclose(told[name], kept[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_a_constant_temperature_of_every_position_is_the_targets_own(number, tiny, mesh):
    targets, losses = CASES[number]
    with jax.set_mesh(mesh):
        at = positions(targets, tiny)
        constant = dataclasses.replace(at, temperature=jnp.where(at.real, targets.temperature, jnp.nan))
        own, given = (value_and_grad(tiny, one, targets, losses, 3) for one in (at, constant))
    assert_same(own, given)


def test_each_position_may_have_a_temperature_of_its_own(tiny, mesh):
    """The sum over the positions of each, at it."""
    cold = MASK & (RNG.random(MASK.shape) < 0.5)

    def value(weight, temperature, targets=FULL):
        at = positions(weight=weight.astype(np.float32), temperature=temperature)
        how = {"targets": targets, "losses": (REVERSE, HARD), "tile": 3}
        return jax.jit(lambda model: jax.value_and_grad(lambda model: fused.loss(model, tiny, at, **how)[0])(model))(
            tiny
        )

    with jax.set_mesh(mesh):
        both = value(MASK, np.where(cold, 0.5, 2.0).astype(np.float32))
        apart = value(cold, None, config.Full(0.5)), value(MASK & ~cold, None, config.Full(2.0))
    assert_same(both, jax.tree.map(jnp.add, *apart))


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
    at, how = (
        positions(weight=mask.reshape(B, C).astype(np.float32)),
        {"targets": FULL, "losses": (FORWARD,)},
    )
    with jax.set_mesh(mesh):
        sums = jax.jit(lambda model, at: fused.loss(model, model, at, **how, tile=4)[1])(tiny, at)
        jax.block_until_ready(sums)
        jax.effects_barrier()
    assert sums["count"] == real and len(seen) == tiles


def test_frozen_weights_get_no_gradient_and_cost_nothing(tiny, mesh):
    """A low-rank student's table is not trained, so its gradient, a third product, is not made."""

    def products(wanted):
        def loss(model, hidden):
            return fused.loss(model, None, dataclasses.replace(at, hidden=hidden), **how)[0]

        return str(jax.make_jaxpr(jax.grad(loss, wanted))(tiny, at.hidden)).count("dot_general[")

    at, how = positions(), {"targets": config.Labels(), "losses": (HARD,)}
    with jax.set_mesh(mesh):
        assert products((0, 1)) == 3 and products(1) == 2


def test_one_device_equals_eight_and_gathers_no_logits(mesh, mesh8):
    """Rows stay on their devices; log-sum-exp, listed ids and both gradients work on a part of the vocabulary."""
    spec = dataclasses.replace(TINY, layers=1, vocab=4096)
    results = []
    for here in (mesh, mesh8):
        student, teacher = (decoder.create(spec, here, seed=seed) for seed in (0, 1))
        with jax.set_mesh(here):
            at = [parallel.place_batch(vars(positions(case[0], student)), here) for case in MIXED]

            @jax.jit
            def gradients(student, teacher, at):
                def loss(student, hidden, at, targets, losses):
                    now = Positions(**(at | {"hidden": hidden}))
                    how = {"targets": targets, "losses": losses, "over": COUNT, "tile": 2}
                    return fused.loss(student, teacher, now, **how)[0]

                both = jax.value_and_grad(loss, (0, 1))
                return [both(student, one["hidden"], one, *case) for one, case in zip(at, MIXED, strict=True)]

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
        ids = jnp.zeros(shape, jnp.int32)
        at = Positions(hidden, hidden, ids, jnp.ones(shape), {})
        return fused.loss(model, model, at, targets=FULL, losses=(FORWARD,), tile=4)[0]

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(model, jnp.zeros((*shape, spec.embed)))
    memory = lowered.compile().memory_analysis().temp_size_in_bytes
    assert memory < 4 * 64 * 4096 * 4


def test_what_was_not_recorded_is_refused(tiny, mesh):
    with jax.set_mesh(mesh), pytest.raises(config.UserError, match="recorded without"):
        fused.loss(tiny, None, positions(), targets=TOP_K, losses=(FORWARD,), tile=4)


def test_a_mix_makes_no_more_arrays_of_positions_by_vocabulary_than_one_loss(tiny, mesh):
    """One beside the logits, that all listed ids pull at."""

    def arrays(*losses):
        def loss(hidden):
            now = dataclasses.replace(at, hidden=hidden)
            return fused.loss(tiny, tiny, now, targets=TOP_K, losses=losses, tile=B * C)[0]

        text = str(jax.make_jaxpr(jax.grad(loss))(at.hidden))
        return text.count(f"f32[{B * C},{V}] = broadcast_in_dim 0.0")

    with jax.set_mesh(mesh):
        at = positions(TOP_K, tiny)
        assert arrays(FORWARD) == arrays(FORWARD, REVERSE, config.JSD(), HARD) == 1
