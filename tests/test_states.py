"""Losses over residual streams: distances at kept tokens, in chosen layers of both sides."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cdjax import config
from cdjax.distill import opening
from cdjax.learn import update
from cdjax.losses import fused, named, states
from cdjax.model import decoder
from cdjax.model.reader import Reader
from tests.test_batches import make_pairs
from tests.test_fused import positions
from tests.test_rounds import experiment
from tests.test_update import CONTEXT, SMALL, assert_same, batch_of, differ

FULL, SGD = config.Full(), optax.sgd(1.0)
MSE, COSINE = config.HiddenMSE(), config.HiddenCosine()
KINDS = (MSE, COSINE)
DEEP = dataclasses.replace(SMALL, layers=3)
RNG = np.random.default_rng(0)
STUDENT, TEACHER = ({n: RNG.normal(0, 3, (2, 5, 8)).astype(np.float32) for n in (1, 2)} for _ in range(2))
WEIGHT = np.array([[1, 0, 2, 0.5, 0], [0, 0, 0, 0, 1]], np.float32)
COUNT = int((WEIGHT != 0).sum())


def value_and_grad(losses, student=STUDENT, teacher=TEACHER, weight=WEIGHT):
    """The sum over tokens divided by their number, by the student's streams, and what is told."""

    def loss(student):
        return states.loss(student, known, jnp.asarray(weight), losses=losses, over=COUNT)

    student, known = jax.tree.map(jnp.asarray, (student, teacher))
    (value, told), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(student)
    return value, told, grad


def distance(loss, student, teacher):
    """The written formula."""
    if loss.kind == "hidden_mse":
        return ((student - teacher) ** 2).mean(-1)
    norms = jnp.linalg.norm(student, axis=-1) * jnp.linalg.norm(teacher, axis=-1)
    return 1 - (student * teacher).sum(-1) / norms


@pytest.mark.parametrize("loss", KINDS, ids=str)
def test_a_loss_is_the_written_formula_in_value_and_gradient(loss):
    """The mean over pairs of layers, times its weight and the tokens'; it is told without them."""
    crossed = dataclasses.replace(loss, layers=(1, 2), teacher_layers=(2, 1), weight=0.3)

    def dense(student):
        both = [distance(loss, student[own], TEACHER[other]) for own, other in ((1, 2), (2, 1))]
        each = (both[0] + both[1]) / 2
        return 0.3 * (WEIGHT * each).sum() / COUNT, each[WEIGHT != 0].sum()

    (wanted, unweighted), slope = jax.value_and_grad(dense, has_aux=True)(jax.tree.map(jnp.asarray, STUDENT))
    value, told, grad = value_and_grad((crossed,))
    np.testing.assert_allclose([value, told["loss"] / COUNT, told[loss.kind]], [wanted, wanted, unweighted], rtol=1e-5)
    assert_same(grad, slope)


@pytest.mark.parametrize("loss", KINDS, ids=str)
def test_equal_streams_have_no_distance_and_no_gradient(loss):
    """Exactly."""
    value, _, grad = value_and_grad((dataclasses.replace(loss, layers=(1, 2)),), STUDENT, STUDENT)
    assert value == 0 and not any(np.any(np.asarray(x)) for x in grad.values())


@pytest.mark.parametrize("loss", KINDS, ids=str)
@pytest.mark.parametrize("junk", [0.0, np.nan, np.inf])
def test_what_stands_at_a_token_of_weight_0_does_nothing(loss, junk):
    wild = [{n: np.where(WEIGHT[..., None] != 0, x, junk) for n, x in side.items()} for side in (STUDENT, TEACHER)]
    given, quiet = (value_and_grad((dataclasses.replace(loss, layers=(1,)),), *sides) for sides in (wild, ()))
    assert not any(differ(given, quiet))
    assert not np.any(np.asarray(given[2][1])[WEIGHT == 0]) and np.any(np.asarray(given[2][1])[WEIGHT != 0])


@pytest.mark.parametrize("loss", KINDS, ids=str)
def test_a_stream_of_zeros_has_a_finite_gradient(loss):
    _, _, grad = value_and_grad((dataclasses.replace(loss, layers=(1,)),), {1: np.zeros_like(STUDENT[1])})
    assert np.isfinite(grad[1]).all()


def test_small_angles_keep_their_digits():
    """Where 1 - cos in float32 is rounding alone."""
    near = {1: (TEACHER[1] * (1 + RNG.normal(0, 1e-6, TEACHER[1].shape))).astype(np.float32)}
    a, b = (np.float64(side[1]) for side in (near, TEACHER))
    cos = (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    value, _, _ = value_and_grad((config.HiddenCosine((1,)),), near)
    np.testing.assert_allclose(value, (WEIGHT * (1 - cos)).sum() / COUNT, rtol=0.01)
    assert 0 < value < 1e-11


@functools.cache
def compiled(mesh, losses):
    """The update, its first student's parameters and the frozen rest."""
    params, frozen = config.Whole().init(decoder.create(DEEP, mesh, seed=0), seed=0, context=None)
    return update.make_update(config.Whole(), SGD, FULL, losses, mesh), params, frozen


def stepped(mesh, losses, pairs, *, seed=1, micro_batches=1, taught_by=DEEP):
    """One step of SGD towards another model that reads CONTEXT, and what it tells; seed 0 is the student itself."""
    run, params, frozen = compiled(mesh, losses)
    with jax.set_mesh(mesh):
        teacher = Reader(decoder.create(taught_by, mesh, seed=seed))
        teacher = teacher.after(CONTEXT) if seed else teacher
        state, metrics = run(update.start(params, SGD, mesh), frozen, teacher, batch_of(mesh, pairs, 8, micro_batches))
    told = {name: float(a) / float(b) for name, (a, b) in metrics.items()}
    return jax.device_get(state.params), told


MIX = (config.ForwardKL(), config.HiddenMSE((1, -1), (2, 3), weight=0.5), config.HiddenCosine((0, 2), weight=0.25))


def test_micro_batches_equal_one_batch(mesh):
    pairs = make_pairs(7)
    assert_same(stepped(mesh, MIX, pairs, micro_batches=8), stepped(mesh, MIX, pairs))


def test_one_device_equals_eight(mesh, mesh8, capfd):
    one, eight = (stepped(where, MIX, make_pairs(8)) for where in (mesh, mesh8))
    assert one[1]["hidden_mse"] > 1e-6 and one[1]["hidden_cosine"] > 1e-3
    assert_same(one, eight, rtol=1e-4)
    assert "rematerialization" not in capfd.readouterr().err


def test_a_mix_is_the_sum_of_its_losses_and_tells_each(mesh):
    pairs = make_pairs(8)
    (mixed, told), *apart = (stepped(mesh, losses, pairs) for losses in (MIX, *((loss,) for loss in MIX)))
    start = stepped(mesh, (config.ForwardKL(weight=0.0),), pairs)[0]
    moves = [jax.tree.map(jnp.subtract, params, start) for params, _ in apart]
    assert_same(mixed, jax.tree.map(lambda *leaves: sum(leaves), start, *moves), rtol=1e-4)
    assert told["loss"] == pytest.approx(sum(part["loss"] for _, part in apart), rel=1e-5)
    assert told["hidden_mse"] == pytest.approx(apart[1][1]["loss"] / 0.5, rel=1e-5)
    assert {"kl", "cross_entropy", "forward_kl", "hidden_cosine"} < told.keys()


def test_a_student_that_reads_what_the_teacher_reads_has_nothing_to_learn(mesh):
    """Exactly, in every layer."""
    pairs = [
        dataclasses.replace(pair, teacher_prompt=pair.student_prompt, kept=np.arange(len(pair.kept), dtype=np.int32))
        for pair in make_pairs(8)
    ]
    pairs = [dataclasses.replace(pair, rollout=pair.rollout[:-1]) for pair in pairs]
    losses = tuple(dataclasses.replace(loss, layers=(0, 1, 2, 3)) for loss in KINDS)
    _, told = stepped(mesh, losses, pairs, seed=0)
    assert told["loss"] == told["grad_norm"] == 0
    assert stepped(mesh, losses, make_pairs(8), seed=0)[1]["loss"] > 1e-3


def test_a_layers_loss_moves_no_layer_after_it(mesh):
    loss = (config.HiddenMSE((1,)),)
    after, before = (stepped(mesh, losses, make_pairs(8))[0] for losses in (loss, (config.HiddenMSE(weight=0.0),)))
    for a, b in zip(*(jax.tree.leaves(params.blocks) for params in (after, before)), strict=True):
        assert np.any(a != b, tuple(range(1, a.ndim))).tolist() == [True, False, False]


def test_losses_over_states_alone_make_no_gradient_of_logits(tiny, mesh):
    def products(losses):
        def loss(model, hidden):
            return fused.loss(model, tiny, dataclasses.replace(at, hidden=hidden), targets=FULL, losses=losses)[0]

        return str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(tiny, at.hidden)).count("dot_general[")

    at = positions()
    with jax.set_mesh(mesh):
        assert products((MSE,)) == products((MSE, config.ForwardKL())) - 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.targets": "top_k"}, "losses.0: hidden_mse needs states, and .*; use targets.kind=full"),
        ({"training.losses.0.layers": "()"}, "losses.0.layers is empty"),
        (
            {"training.losses.0.teacher_layers": "1,2"},
            r"training.losses.0.teacher_layers=\[1, 2\] must be one for each of layers=\[-1\]",
        ),
        ({"training.losses.0.weight": -1.0}, "losses.0.weight must be at least 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    cfg = config.override(experiment(losses=(MSE,), targets=FULL), changes)
    with pytest.raises(config.UserError, match=message):
        config.check.validate(cfg)


def test_layers_that_the_model_does_not_have_are_refused_when_a_run_is_opened(tmp_path):
    cfg = experiment(losses=(config.ForwardKL(), config.HiddenMSE((-1, 9), (1, -9))), targets=FULL)
    with pytest.raises(config.UserError, match="losses.1.layers has 9, .*; training.losses.1.teacher_layers has -9, "):
        opening.open(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_streams_of_two_widths_are_refused_before_anything_is_compiled(mesh):
    with pytest.raises(config.UserError, match="losses.0.layers of width 32 .* teacher's of width 64"):
        stepped(mesh, (MSE,), make_pairs(8), taught_by=dataclasses.replace(DEEP, embed=64))


def test_a_second_loss_of_a_kind_has_a_name_of_its_own():
    assert [*named((MSE, config.ForwardKL(), config.HiddenMSE((0,))))] == ["hidden_mse", "forward_kl", "hidden_mse 2"]
