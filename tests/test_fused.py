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
    """Positions whose targets are recorded of the teacher's logits, `model`'s at the hidden states WANTED."""
    recorded = {}
    if targets.buffers():
        logits = model.logits(jnp.asarray(WANTED)).reshape(B * C, -1)
        numbers = jax.random.uniform(jax.random.key(0), (B * C, targets.uniforms))
        recorded = targets.observe(logits, jnp.asarray(IDS).reshape(B * C), numbers)
    parts = {"hidden": HIDDEN, "teacher": WANTED, "ids": IDS, "weight": MASK.astype(np.float32)} | changes
    parts["targets"] = {name: x.reshape(B, C, *x.shape[1:]) for name, x in recorded.items()}
    return Positions(**jax.tree.map(jnp.asarray, parts))


def value_and_grad(model, batch, targets, losses, tile):
    """Mean loss with its gradient with respect to the student's weights and hidden states."""

    def loss(student, hidden):
        varied, over = dataclasses.replace(batch, hidden=hidden), batch.real.sum()
        return fused.loss(student, model, varied, targets=targets, losses=losses, over=over, tile=tile)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(model, batch.hidden)


def dense(student, hidden, teacher, batch, targets, losses):
    """The mean loss from logits of all positions, left to automatic differentiation."""
    logits = student.logits(hidden)
    logp = jax.nn.log_softmax(logits / targets.temperature).reshape(B * C, V)
    hard = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.ids[..., None], -1).reshape(B * C)
    recorded = {name: x.reshape(B * C, *x.shape[2:]) for name, x in batch.targets.items()}
    if targets.kind == "full":
        outcomes = jax.nn.log_softmax(teacher.logits(batch.teacher) / targets.temperature).reshape(B * C, V), logp
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


def assert_same(left, right, **tolerance):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 2e-4, "atol": 2e-6} | tolerance))


@pytest.mark.parametrize("changes", [{}, {"tied": False, "logit_soft_cap": 3.0}])
def test_fused_equals_dense_in_value_and_gradient(changes, mesh, monkeypatch):
    """For every objective, over tiles of positions and blocks of the vocabulary."""
    monkeypatch.setattr(logits, "OUTCOMES", 16)
    spec = dataclasses.replace(TINY, layers=1, **changes)
    student, teacher = (decoder.create(spec, mesh, seed=seed) for seed in (0, 1))
    with jax.set_mesh(mesh):
        batch = [positions(targets, teacher) for targets, _ in CASES]

    @functools.partial(jax.jit, static_argnames="whole")
    def gradients(student, teacher, batch, whole):
        def loss(student, hidden, batch, case):
            if whole:
                return dense(student, hidden, teacher, batch, *case)
            how = dict(zip(("targets", "losses"), case, strict=True))
            return fused.loss(student, teacher, dataclasses.replace(batch, hidden=hidden), **how, over=COUNT, tile=16)[
                0
            ]

        both = jax.value_and_grad(loss, (0, 1))
        return [both(student, inputs.hidden, inputs, case) for inputs, case in zip(batch, CASES, strict=True)]

    with jax.set_mesh(mesh):
        fused_results, dense_results = (gradients(student, teacher, batch, whole) for whole in (False, True))
    for case, fused_result, dense_result in zip(CASES, fused_results, dense_results, strict=True):
        assert_same(fused_result, dense_result, err_msg=str(case))


@pytest.mark.parametrize("loss", [FORWARD, REVERSE], ids=str)
def test_top_k_is_the_dense_divergence_of_buckets(loss, tiny, mesh):
    targets = config.TopK(5, 2.0)
    with jax.set_mesh(mesh):
        batch = positions(targets, tiny)

    def buckets(logits):
        p = jax.nn.softmax(logits / 2.0)
        listed = jnp.take_along_axis(p, batch.targets["ids"], -1)
        inside = jnp.sum(jax.nn.one_hot(batch.targets["ids"], V), -2)
        return 2.0 * jnp.log(jnp.concatenate([listed, jnp.sum(p * (1 - inside), -1, keepdims=True)], -1))

    def dense(model, hidden):
        teacher = buckets(jax.lax.stop_gradient(model.logits(batch.teacher)))
        return divergence.divergence(teacher, buckets(model.logits(hidden)), MASK, loss, temperature=2.0)

    with jax.set_mesh(mesh):
        expected = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, batch.hidden)
        assert_same(value_and_grad(tiny, batch, targets, (loss,), 3), expected)


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
    batch = dataclasses.replace(positions(), targets={"ids": jnp.asarray(np.stack(draws).reshape(B, C, 96), jnp.int32)})
    p = counts / 96
    entropy = -np.sum(p * np.log(np.maximum(p, 1e-30)), -1)[MASK].mean()

    def dense(model, hidden):
        teacher = jnp.log(jnp.asarray(p, jnp.float32))
        return divergence.divergence(teacher, model.logits(hidden), MASK, FORWARD)

    with jax.set_mesh(mesh):
        full = jax.jit(jax.value_and_grad(dense, argnums=(0, 1)))(tiny, batch.hidden)
        sampled = value_and_grad(tiny, batch, config.Draws(96), (FORWARD,), 3)
    np.testing.assert_allclose(sampled[0], full[0] + entropy, rtol=1e-5)
    assert_same(sampled[1], full[1])


def test_sampled_loss_is_the_cross_entropy_to_the_draws(tiny, mesh):
    targets = config.Draws(6, 2.0)
    with jax.set_mesh(mesh):
        batch = positions(targets, tiny)
        loss, _ = value_and_grad(tiny, batch, targets, (FORWARD,), 3)
        logp = log_softmax(np.asarray(tiny.logits(jnp.asarray(HIDDEN)), np.float64) / 2.0, -1)
    np.testing.assert_allclose(
        loss, -4 * np.take_along_axis(logp, np.asarray(batch.targets["ids"]), -1).mean(-1)[MASK].mean(), rtol=1e-5
    )


def test_a_mix_is_the_weighted_sum_and_tells_each_loss(tiny, mesh):
    """Cross-entropy is at temperature 1; a divergence is told without its weight and temperature^2."""
    targets = config.TopK(5, 2.0)

    def sums(*losses):
        return jax.jit(lambda model, batch: fused.loss(model, None, batch, targets=targets, losses=losses, tile=3)[1])(
            tiny, batch
        )

    with jax.set_mesh(mesh):
        batch = positions(targets, tiny)
        mixed = sums(config.ForwardKL(0.75), config.CrossEntropy(0.25), config.JSD(weight=0.0), config.JSD(0.1))
        soft, hard, jsd = sums(FORWARD), sums(HARD), sums(config.JSD(0.1))
        logp = log_softmax(np.asarray(tiny.logits(batch.hidden), np.float64), -1)
    by_ids = -np.take_along_axis(logp, IDS[..., None], -1)[..., 0][MASK].sum()
    np.testing.assert_allclose(hard["loss"], by_ids, rtol=1e-5)
    np.testing.assert_allclose(mixed["loss"], 0.25 * hard["loss"] + 0.75 * soft["loss"] + jsd["loss"], rtol=1e-6)
    np.testing.assert_allclose(soft["loss"], 4 * soft["kl"], rtol=1e-6)
    np.testing.assert_allclose(mixed["jsd 2"] * 4, jsd["loss"], rtol=1e-6)
    assert mixed["forward_kl"] == mixed["kl"] and mixed["jsd"] != mixed["jsd 2"]
    assert set(soft) == {"loss", "count", "cross_entropy", "kl", "teacher_top_mass", "student_top_mass"}
    np.testing.assert_allclose(
        mixed["teacher_top_mass"], np.exp(batch.targets["logprobs"]).sum(-1)[MASK].sum(), rtol=1e-5
    )
    assert mixed["count"] == MASK.sum()


def test_a_policy_gradient_is_the_advantage_times_the_score(tiny, mesh):
    grade = RNG.normal(size=(B, C)).astype(np.float32)
    with jax.set_mesh(mesh):
        batch = dataclasses.replace(positions(), targets={"grade": jnp.asarray(grade)})
        (_, (by_weights, by_hidden)) = value_and_grad(tiny, batch, Graded(), (config.PolicyGradient(2.0),), 3)
        q = np.asarray(jax.nn.softmax(tiny.logits(batch.hidden)))
    by_logits = 2.0 * ((grade - 1)[..., None] * (q - np.eye(V)[IDS])) * MASK[..., None] / COUNT
    table = np.asarray(tiny.embedding[...])
    np.testing.assert_allclose(by_hidden, by_logits @ table, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(
        by_weights.embedding[...], np.einsum("bcv,bcd->vd", by_logits, HIDDEN), rtol=2e-4, atol=2e-5
    )


def test_every_field_of_targets_and_losses_changes_the_gradient(tiny, mesh):
    @jax.jit
    def gradients(model, batch):
        def loss(hidden, batch, targets, losses):
            varied = dataclasses.replace(batch, hidden=hidden)
            return fused.loss(model, model, varied, targets=targets, losses=losses)[0]

        return [jax.grad(loss)(inputs.hidden, inputs, *case) for inputs, case in zip(batch, CASES, strict=True)]

    with jax.set_mesh(mesh):
        grads = gradients(tiny, [positions(targets, tiny) for targets, _ in CASES])
    for i, gradient in enumerate(grads):
        assert all(np.abs(gradient - other).max() > 1e-4 for other in grads[:i]), CASES[i]


def test_masked_positions_get_no_gradient(tiny, mesh):
    """NaN at a masked position reaches neither value nor gradient."""
    with jax.set_mesh(mesh):
        batch = positions(TOP_K, tiny)
        wild = jax.tree.map(
            lambda x: jnp.where(MASK[..., None], x, jnp.nan) if x.dtype == jnp.float32 else x,
            vars(batch) | {"weight": IDS},
        )
        wild = dataclasses.replace(batch, **wild | {"weight": batch.weight})
        quiet, with_nan = (value_and_grad(tiny, inputs, TOP_K, (FORWARD, HARD), 3) for inputs in (batch, wild))
    for a, b in zip(jax.tree.leaves(quiet), jax.tree.leaves(with_nan), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.any(np.asarray(with_nan[1][1])[~MASK]) and np.all(np.any(np.asarray(with_nan[1][1])[MASK], -1))


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_a_weight_scales_a_position_and_none_takes_it_out(number, tiny, mesh):
    """Loss and gradient are linear in the weights, and where they are 0 a position is as if it were masked."""
    targets, losses = CASES[number]
    weight = np.where(MASK, RNG.choice(np.array([0, 0.5, 2], np.float32), MASK.shape), 0).astype(np.float32)

    @jax.jit
    def sums(batch):
        def loss(hidden, batch):
            varied = dataclasses.replace(batch, hidden=hidden)
            return fused.loss(tiny, tiny, varied, targets=targets, losses=losses, tile=3)

        return jax.value_and_grad(loss, has_aux=True)(batch.hidden, batch)

    def of(weight):
        return sums(dataclasses.replace(batch, weight=jnp.asarray(weight, jnp.float32)))

    with jax.set_mesh(mesh):
        batch = positions(targets, tiny)
        (total, metric_sums), grad = of(weight)
        parts = [of(weight == value) for value in (0.5, 2)]
        kept = of(weight != 0)[0][1]
    np.testing.assert_allclose(total, 0.5 * parts[0][0][0] + 2 * parts[1][0][0], rtol=1e-4)
    assert_same(grad, 0.5 * parts[0][1] + 2 * parts[1][1])
    assert metric_sums["count"] == (weight != 0).sum() and not np.any(np.asarray(grad)[weight == 0])
    for name in metric_sums.keys() - {"loss"}:
        np.testing.assert_allclose(metric_sums[name], kept[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: str(CASES[number]))
def test_a_constant_temperature_of_every_position_is_the_targets_own(number, tiny, mesh):
    targets, losses = CASES[number]
    with jax.set_mesh(mesh):
        batch = positions(targets, tiny)
        constant = dataclasses.replace(batch, temperature=jnp.where(batch.real, targets.temperature, jnp.nan))
        of_targets, of_positions = (value_and_grad(tiny, inputs, targets, losses, 3) for inputs in (batch, constant))
    assert_same(of_targets, of_positions)


def test_each_position_may_have_a_temperature_of_its_own(tiny, mesh):
    """The loss is the sum, over temperatures, of the loss of the positions with that temperature."""
    cold = MASK & (RNG.random(MASK.shape) < 0.5)

    def value(weight, temperature, targets=FULL):
        batch = positions(weight=weight.astype(np.float32), temperature=temperature)
        how = {"targets": targets, "losses": (REVERSE, HARD), "tile": 3}
        return jax.jit(lambda model: jax.value_and_grad(lambda model: fused.loss(model, tiny, batch, **how)[0])(model))(
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
    terms = fused.terms

    def counted(*args):
        jax.debug.callback(lambda: seen.append(1))
        return terms(*args)

    monkeypatch.setattr(fused, "terms", counted)
    mask = np.zeros(B * C, bool)
    mask[np.random.default_rng(1).permutation(B * C)[:real]] = True
    batch, how = (
        positions(weight=mask.reshape(B, C).astype(np.float32)),
        {"targets": FULL, "losses": (FORWARD,)},
    )
    with jax.set_mesh(mesh):
        sums = jax.jit(lambda model, batch: fused.loss(model, model, batch, **how, tile=4)[1])(tiny, batch)
        jax.block_until_ready(sums)
        jax.effects_barrier()
    assert sums["count"] == real and len(seen) == tiles


def test_frozen_weights_get_no_gradient_and_cost_nothing(tiny, mesh):
    """A low-rank student's table is not trained, so its gradient, a third product, is not made."""

    def products(argnums):
        def loss(model, hidden):
            return fused.loss(model, None, dataclasses.replace(batch, hidden=hidden), **how)[0]

        return str(jax.make_jaxpr(jax.grad(loss, argnums))(tiny, batch.hidden)).count("dot_general[")

    batch, how = positions(), {"targets": config.Labels(), "losses": (HARD,)}
    with jax.set_mesh(mesh):
        assert products((0, 1)) == 3 and products(1) == 2


def test_one_device_equals_eight_and_gathers_no_logits(mesh, mesh8):
    """Rows stay on their devices; log-sum-exp, listed ids and both gradients work on a part of the vocabulary."""
    spec = dataclasses.replace(TINY, layers=1, vocab=4096)
    results = []
    for devices in (mesh, mesh8):
        student, teacher = (decoder.create(spec, devices, seed=seed) for seed in (0, 1))
        with jax.set_mesh(devices):
            batch = [parallel.place_batch(vars(positions(case[0], student)), devices) for case in MIXED]

            @jax.jit
            def gradients(student, teacher, batch):
                def loss(student, hidden, batch, targets, losses):
                    varied = Positions(**(batch | {"hidden": hidden}))
                    how = {"targets": targets, "losses": losses, "over": COUNT, "tile": 2}
                    return fused.loss(student, teacher, varied, **how)[0]

                both = jax.value_and_grad(loss, (0, 1))
                return [
                    both(student, inputs["hidden"], inputs, *case) for inputs, case in zip(batch, MIXED, strict=True)
                ]

            compiled = gradients.lower(student, teacher, batch).compile()
            results.append(jax.device_get(compiled(student, teacher, batch)))
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
        batch = Positions(hidden, hidden, ids, jnp.ones(shape), {})
        return fused.loss(model, model, batch, targets=FULL, losses=(FORWARD,), tile=4)[0]

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(model, jnp.zeros((*shape, spec.embed)))
    memory = lowered.compile().memory_analysis().temp_size_in_bytes
    assert memory < 4 * 64 * 4096 * 4


def test_what_was_not_recorded_is_refused(tiny, mesh):
    with jax.set_mesh(mesh), pytest.raises(config.UserError, match="recorded without"):
        fused.loss(tiny, None, positions(), targets=TOP_K, losses=(FORWARD,), tile=4)


def test_a_mix_makes_no_more_arrays_of_positions_by_vocabulary_than_one_loss(tiny, mesh):
    """There is one beside the logits, for the derivatives of all listed ids."""

    def arrays(*losses):
        def loss(hidden):
            varied = dataclasses.replace(batch, hidden=hidden)
            return fused.loss(tiny, tiny, varied, targets=TOP_K, losses=losses, tile=B * C)[0]

        text = str(jax.make_jaxpr(jax.grad(loss))(batch.hidden))
        return text.count(f"f32[{B * C},{V}] = broadcast_in_dim 0.0")

    with jax.set_mesh(mesh):
        batch = positions(TOP_K, tiny)
        assert arrays(FORWARD) == arrays(FORWARD, REVERSE, config.JSD(), HARD) == 1
