import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cdjax import config
from cdjax.learn import update
from cdjax.lessons import batches
from cdjax.model import cache, decoder
from cdjax.model.reader import Reader
from cdjax.model.spec import DecoderSpec
from cdjax.sampling import read
from tests.test_batches import make_pairs

SMALL = DecoderSpec(vocab=64, embed=32, layers=1, heads=4, kv_heads=2, head_dim=8, mlp=32)
TOP_K, FULL = config.TopK(4), config.Full()
SGD = optax.sgd(1.0)  # the step is minus the gradient
CONTEXT = np.array([5, 9, 44], np.int32)


@functools.cache
def model_on(mesh, seed=0):
    return decoder.create(SMALL, mesh, seed=seed)


def reader_on(mesh, seed=0):
    return Reader(model_on(mesh, seed))


@dataclasses.dataclass(frozen=True)
class Standing:
    """A student of keys and values before all rows, which begin as those of CONTEXT."""

    axes = ("layers", "length", "kv_heads", "length", "head_dim")

    def init(self, decoder, *, seed, context):
        with jax.set_mesh(decoder.embedding[...].sharding.mesh):
            prefix = Reader(decoder).after(CONTEXT).prefix
        return {"k": nnx.Param(prefix.k, axes=self.axes), "v": nnx.Param(prefix.v, axes=self.axes)}, decoder

    def reader(self, trainable, frozen):
        prefix = cache.Prefix(trainable["k"][...], trainable["v"][...], jnp.array([len(CONTEXT)]))
        return Reader(frozen, prefix)


@functools.cache
def compiled(mesh, targets=TOP_K, student=config.Whole()):
    """The update, its first student's parameters and the frozen rest."""
    params, frozen = student.init(model_on(mesh), seed=0, context=None)
    return update.make_update(student, SGD, targets, (config.ForwardKL(),), mesh), params, frozen


def batch_of(mesh, pairs, size=8, micro_batches=1):
    """The pairs in one batch, with the teacher's rows."""
    cfg = config.Update(batch=size, micro_batches=micro_batches)
    (batch,) = batches.Batches(pairs, cfg, 0, mesh, teacher=True)
    return batch


def step(mesh, batch, teacher=None, **parts):
    """One SGD step from the first student: parameters and mean metrics, on the host."""
    run, params, frozen = compiled(mesh, **parts)
    with jax.set_mesh(mesh):
        state, metrics = run(update.start(params, SGD, mesh), frozen, teacher, batch)
    return jax.device_get(state.params), {name: float(a) / float(b) for name, (a, b) in metrics.items()}


def assert_same(left, right, **tolerance):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def differ(left, right):
    return [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)]


def test_micro_batches_equal_one_batch(mesh):
    """The pieces hold different numbers of tokens, and one of them none."""
    pairs = make_pairs(7)
    pieces = batch_of(mesh, pairs, micro_batches=8)
    assert sorted((pieces.weight != 0).sum(1).tolist()) == sorted([0, *(len(pair.kept) for pair in pairs)])
    assert_same(step(mesh, pieces), step(mesh, batch_of(mesh, pairs)))


@pytest.mark.parametrize("student", [config.Whole(), Standing()], ids=["whole", "standing"])
def test_one_device_equals_eight(student, mesh, mesh8, capfd):
    pairs, teacher = make_pairs(8), functools.partial(reader_on, seed=1)
    single = step(mesh, batch_of(mesh, pairs), teacher(mesh), targets=FULL, student=student)
    eight = step(mesh8, batch_of(mesh8, pairs, micro_batches=2), teacher(mesh8), targets=FULL, student=student)
    assert single[1]["grad_norm"] > 1e-3
    assert_same(single, eight, rtol=1e-4)
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("student", [config.Whole(), Standing()], ids=["whole", "standing"])
@pytest.mark.parametrize("targets", [TOP_K, FULL], ids=str)
def test_packed_pairs_learn_as_pairs_alone(targets, student, mesh):
    """Value and gradient: the sum over batches of one pair each, on both sides."""
    pairs, teacher = make_pairs(6), reader_on(mesh, seed=1)
    packed = batch_of(mesh, pairs)
    assert packed.student.tokens.shape[2] < 6 and packed.teacher.tokens.shape[2] < 6
    params, frozen = student.init(model_on(mesh), seed=0, context=None)

    @jax.jit
    def sums(params, frozen, teacher, batch):
        reader = student.reader(params, frozen)
        return update.batch_loss(reader, teacher, batch, targets=targets, losses=(config.ForwardKL(),))[0]

    with jax.set_mesh(mesh):
        whole = jax.value_and_grad(sums)(params, frozen, teacher, packed)
        alone = [jax.value_and_grad(sums)(params, frozen, teacher, batch_of(mesh, [pair])) for pair in pairs]
    assert_same(whole, jax.tree.map(lambda *parts: sum(parts), *alone), rtol=1e-4)


def test_a_pair_is_read_as_prompt_and_completion(mesh):
    """As scoring reads them, where a sampled completion gets the log-probabilities that the sampler recorded."""
    *_, pair = make_pairs(4)
    prompt, ids = (jnp.asarray(part)[None] for part in (pair.student_prompt, pair.rollout[pair.kept]))
    with jax.set_mesh(mesh):
        packed = jax.jit(Reader.hidden)(Reader(model_on(mesh)), batch_of(mesh, [pair]).student)
        real = jnp.ones(prompt.shape, bool), jnp.ones(ids.shape, bool)
        expected = read.completion_hidden(reader_on(mesh), prompt, real[0], ids, real[1])
        _, streams = jax.jit(functools.partial(Reader.states, layers=(0, -1)))(
            Reader(model_on(mesh)), batch_of(mesh, [pair]).student
        )
        last = model_on(mesh).final_norm(streams[-1])
    np.testing.assert_allclose(packed[:, : ids.shape[1]], expected, atol=1e-5)
    np.testing.assert_allclose(last, packed, atol=1e-6)
    before = np.concatenate([pair.student_prompt[-1:], pair.rollout[pair.kept][:-1]])
    np.testing.assert_array_equal(streams[0][0, : len(before)], model_on(mesh).embedding[...][before])


def test_what_stands_in_padding_does_nothing(mesh):
    batch = batch_of(mesh, make_pairs(6))
    real, rows = batch.weight != 0, batch.student
    blank = rows.texts == 0
    assert blank.any() and not real.all()
    other = dataclasses.replace(
        batch,
        student=dataclasses.replace(
            rows,
            tokens=jnp.where(blank, 7, rows.tokens),
            positions=jnp.where(blank, 9, rows.positions),
            predictors=jnp.where(real, rows.predictors, 5),
        ),
        ids=jnp.where(real, batch.ids, 7),
        targets={
            "ids": jnp.where(real[..., None], batch.targets["ids"], 7),
            "logprobs": jnp.where(real[..., None], batch.targets["logprobs"], jnp.nan),
        },
    )
    assert not any(differ(step(mesh, batch), step(mesh, other)))


@pytest.mark.parametrize("targets", [TOP_K, FULL], ids=str)
def test_a_token_of_weight_0_is_not_kept(targets, mesh):
    """The same step as without it, in value, gradient and count."""
    pairs = [pair for pair in make_pairs(8) if len(pair.kept) > 1]
    light = [dataclasses.replace(pair, weight=np.array([0] + [1] * (len(pair.kept) - 1), np.float32)) for pair in pairs]
    fewer = [
        dataclasses.replace(
            pair,
            student_prompt=np.concatenate([pair.student_prompt, pair.rollout[pair.kept[:1]]]),
            kept=pair.kept[1:],
            targets={name: x[1:] for name, x in pair.targets.items()},
            weight=pair.weight[1:],
        )
        for pair in pairs
    ]
    weighted, removed = (
        step(mesh, batch_of(mesh, some), reader_on(mesh, 1), targets=targets) for some in (light, fewer)
    )
    assert_same(weighted, removed)
    assert all(differ(weighted[0], step(mesh, batch_of(mesh, pairs), reader_on(mesh, 1), targets=targets)[0]))


@pytest.mark.parametrize(("student", "leaves"), [(config.Whole(), 11), (config.LowRank(rank=2), 14)])
def test_only_the_chosen_leaves_move(student, leaves, mesh):
    run, params, frozen = compiled(mesh, student=student)
    batch = batch_of(mesh, make_pairs(8))
    before = jax.device_get(frozen)
    with jax.set_mesh(mesh):
        state = update.start(params, SGD, mesh)
        for _ in range(2):
            state, _ = run(state, frozen, None, batch)
    assert all(differ(state.params, params))
    assert not any(differ(frozen, before))
    assert len(jax.tree.leaves(params)) == leaves


def test_equal_weights_and_no_context_have_no_divergence(mesh):
    """Exactly: the teacher reads what the student reads, so there is nothing to learn."""
    pairs = [
        dataclasses.replace(pair, teacher_prompt=pair.student_prompt, kept=np.arange(len(pair.kept), dtype=np.int32))
        for pair in make_pairs(8)
    ]
    pairs = [dataclasses.replace(pair, rollout=pair.rollout[:-1]) for pair in pairs]
    params, metrics = step(mesh, batch_of(mesh, pairs), reader_on(mesh), targets=FULL)
    assert metrics["kl"] == metrics["loss"] == 0.0 and metrics["grad_norm"] < 1e-6
    _, apart = step(mesh, batch_of(mesh, make_pairs(8)), reader_on(mesh), targets=FULL)
    assert apart["kl"] > 1e-3


def test_the_teacher_is_read_at_the_kept_tokens(mesh):
    """A student that is shown what f drops has nothing left to learn."""
    pairs = [
        dataclasses.replace(pair, student_prompt=np.concatenate([pair.teacher_prompt, pair.rollout[: pair.kept[0]]]))
        for pair in make_pairs(8)
    ]
    _, metrics = step(mesh, batch_of(mesh, pairs), reader_on(mesh), targets=FULL)
    assert all(pair.kept[0] > 0 for pair in pairs) and abs(metrics["kl"]) < 1e-7


def test_a_shared_context_is_read_before_every_prompt_of_the_teacher(mesh):
    pairs = make_pairs(8)
    longer = [
        dataclasses.replace(pair, teacher_prompt=np.concatenate([CONTEXT, pair.teacher_prompt])) for pair in pairs
    ]
    with jax.set_mesh(mesh):
        teacher = reader_on(mesh).after(CONTEXT)
    shared = step(mesh, batch_of(mesh, pairs), teacher, targets=FULL)
    assert_same(shared, step(mesh, batch_of(mesh, longer), reader_on(mesh), targets=FULL))
    assert shared[1]["kl"] != step(mesh, batch_of(mesh, pairs), reader_on(mesh), targets=FULL)[1]["kl"]


def test_what_stands_before_a_student_is_read_before_every_text_of_its_rows(mesh):
    pairs = make_pairs(8)
    longer = [
        dataclasses.replace(pair, student_prompt=np.concatenate([CONTEXT, pair.student_prompt])) for pair in pairs
    ]
    _, standing = step(mesh, batch_of(mesh, pairs), reader_on(mesh, 1), targets=FULL, student=Standing())
    _, written = step(mesh, batch_of(mesh, longer), reader_on(mesh, 1), targets=FULL)
    np.testing.assert_allclose(standing["kl"], written["kl"], rtol=1e-5)


@pytest.mark.parametrize("where", ["mesh", "mesh8"])
def test_each_pair_is_read_after_its_own_context(where, request):
    """Several contexts in one batch, in micro-batches: as if each stood in every row that reads it."""
    mesh = request.getfixturevalue(where)
    contexts = [np.array(ids, np.int32) for ids in ([5, 9, 44], [], [7, 2, 3, 11, 12])]
    pairs = [dataclasses.replace(pair, context=number % 3) for number, pair in enumerate(make_pairs(24))]
    whole = [
        dataclasses.replace(
            pair, teacher_prompt=np.concatenate([contexts[pair.context], pair.teacher_prompt]), context=0
        )
        for pair in pairs
    ]
    with jax.set_mesh(mesh):
        teacher = reader_on(mesh).after(*contexts)
    shared = step(mesh, batch_of(mesh, pairs, 24, 2), teacher, targets=FULL)
    assert_same(shared, step(mesh, batch_of(mesh, whole, 24, 2), reader_on(mesh), targets=FULL), rtol=1e-4)


def test_the_model_that_was_given_outlives_its_training(mesh):
    run, params, frozen = compiled(mesh)
    with jax.set_mesh(mesh):
        first = update.start(params, SGD, mesh)
        state, _ = run(first, frozen, None, batch_of(mesh, make_pairs(8)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params)), "donated"
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))


def falling(state, batch):
    """An update that needs no model: the loss is what the batch says."""
    state = dataclasses.replace(state, params=state.params * 0.5 + batch, step=state.step + 1)
    return state, {"loss": (jnp.sum(batch) * 3, jnp.float32(3)), "grad_norm": (jnp.float32(1), jnp.float32(1))}


def run_loop(losses, start=0, params=0.0, **hooks):
    seen = []
    state = update.TrainState(jnp.float32(params), (), jnp.int32(start))
    batch = [jnp.float32(loss) for loss in losses]
    state = update.train(falling, state, batch, on_step=lambda n, values: seen.append((n, values["loss"])), **hooks)
    return float(state.params), seen


def test_the_loop_reports_every_step_once_in_order():
    _, seen = run_loop([4, 3, 2])
    assert seen == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_a_resumed_loop_ends_where_an_uninterrupted_one_does():
    saved = []
    whole, seen = run_loop([5, 4, 3, 2, 1], save=lambda state, n: saved.append((n, float(state.params))), every=2)
    assert [n for n, _ in saved] == [2, 4]
    again, rest = run_loop([5, 4, 3, 2, 1], start=2, params=saved[0][1])
    assert again == whole and rest == seen[2:]


def test_the_next_step_runs_while_a_state_is_saved(monkeypatch):
    began, saved = [], []
    step = falling
    monkeypatch.setitem(globals(), "falling", lambda state, batch: (began.append(float(batch)), step(state, batch))[1])
    run_loop([5, 4, 3, 2, 1], save=lambda state, n: saved.append((n, len(began), int(state.step))), every=2)
    assert saved == [(2, 3, 2), (4, 5, 4)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(bad):
    saved = []
    with pytest.raises(update.Diverged, match="step 4.*lower training.optim.lr"):
        run_loop([5, 4, 3, bad, 2, 1], save=lambda state, n: saved.append(n), every=2)
    assert saved == [2]


def test_the_next_step_is_dispatched_before_the_last_one_is_read():
    order = []

    def noisy(state, batch):
        order.append("dispatch")
        return falling(state, batch)

    state = update.TrainState(jnp.float32(0), (), jnp.int32(0))
    update.train(noisy, state, [jnp.float32(1)] * 3, on_step=lambda n, values: order.append(n))
    assert order == ["dispatch", "dispatch", 1, "dispatch", 2, 3]


def test_losses_that_the_targets_do_not_serve_are_refused_before_compiling(mesh):
    with pytest.raises(config.UserError, match="reverse_kl needs probabilities"):
        update.make_update(config.Whole(), SGD, config.Draws(), (config.ReverseKL(),), mesh)
