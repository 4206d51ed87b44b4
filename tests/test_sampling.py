import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config, parallel
from cdjax.model import decoder
from cdjax.model.reader import Reader
from cdjax.sampling import answers, choose, generate, read, slots
from cdjax.sampling.choose import Choice
from cdjax.sampling.store import Store
from cdjax.views.prompts import Prompts
from tests.conftest import TINY, Both

RNG = np.random.default_rng(0)
CONTEXT = np.arange(1, 8, dtype=np.int32)
TOKENS = RNG.integers(1, 64, (8, 9)).astype(np.int32)
REAL = np.arange(9)[None] >= np.array([0, 1, 2, 3, 0, 8, 4, 1])[:, None]  # left-padded rows
BOTH = Both()
STOPS = (3, 9, 20, 31, 40, 44)
WITH_PREFIX = dict(context=CONTEXT, choice=Choice(), stops=STOPS)
BARE = dict(context=CONTEXT[:0], choice=Choice(temperature=0.0), stops=())
PROMPTS = Prompts(
    inputs=tuple(f"input {i}" for i in range(7)),
    context=CONTEXT,
    suffixes=tuple(RNG.integers(1, 64, n).astype(np.int32) for n in (5, 1, 7, 3, 8, 5, 2)),
)


@pytest.fixture(scope="module")
def tiny8(tiny, mesh8):
    """`tiny` on eight devices."""
    return jax.device_put(tiny, parallel.shardings(tiny, mesh8))


def sampled(reader, mesh, batch, choice, stops):
    ends = jnp.zeros(64, bool).at[jnp.asarray(stops, int)].set(True)
    with jax.set_mesh(mesh):
        batch = parallel.place_batch(batch, mesh)
        samples = generate.generate(reader, *batch, ends, choice=choice, targets=BOTH, steps=6)
    return types.SimpleNamespace(**jax.device_get(vars(samples)))


def run(model, mesh, *, rows=slice(None), real=REAL, context=CONTEXT, choice=Choice(), stops=STOPS):
    keys = jax.random.split(jax.random.key(7), 8)[rows]
    with jax.set_mesh(mesh):
        reader = Reader(model).after(np.asarray(context, np.int32))
    return sampled(reader, mesh, (TOKENS[rows], real[rows], keys), choice, stops), reader


def ask(model, mesh, **changes):
    settings = dict(stops=np.array(STOPS, np.int32), sampling=config.Sampling(batch=3), targets=BOTH, steps=6, seed=1)
    return answers.sample(Reader(model), mesh, PROMPTS, **{**settings, **changes})


def assert_same(one, two, atol=0.0):
    """Equal rollouts or samples, and at least one: ids exactly, floats within `atol`."""
    one, two = ([vars(part) for part in side] for side in (one, two))
    assert one and jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, atol=atol, rtol=0)


def cut(samples, rows):
    """Some rows of samples."""
    return types.SimpleNamespace(**jax.tree.map(lambda x: x[rows], vars(samples)))


def assert_follows(ids, probabilities):
    """A chi-square test at about five sigma; ids of probability 0 never occur."""
    seen = np.bincount(ids, minlength=len(probabilities))
    assert seen[probabilities == 0].sum() == 0
    expected = len(ids) * probabilities[probabilities > 0]
    statistic = ((seen[probabilities > 0] - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 5, (statistic, freedom)


# --- the sampler and the scorer agree -------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [WITH_PREFIX, BARE], ids=["prefix", "bare"])
def test_scoring_reproduces_what_the_sampler_recorded(tiny, mesh, view):
    samples, reader = run(tiny, mesh, **view)
    with jax.set_mesh(mesh):
        rows = [jnp.asarray(x) for x in (TOKENS, REAL, samples.ids, samples.real)]
        scored = read.logprobs(reader, *rows)
        hidden = jax.jit(read.completion_hidden)(reader, *rows)
        soft = np.asarray(jax.nn.log_softmax(tiny.logits(hidden) / BOTH.top_k.temperature))
    assert samples.real.sum() > 20
    np.testing.assert_allclose(scored, samples.logprobs, atol=2e-5)
    top = np.argsort(-soft, -1, kind="stable")[..., : BOTH.top_k.k]
    np.testing.assert_array_equal(samples.targets["top_k.ids"][samples.real], top[samples.real])
    recorded = samples.targets["top_k.logprobs"][samples.real]
    np.testing.assert_allclose(recorded, np.take_along_axis(soft, top, -1)[samples.real], atol=2e-5)


def test_greedy_is_the_most_likely_token_of_the_whole_forward(tiny, mesh):
    samples, _ = run(tiny, mesh, **BARE)
    whole = np.concatenate([TOKENS, samples.ids], 1)
    real = np.concatenate([REAL, samples.real], 1)
    with jax.set_mesh(mesh):

        def logits(model, tokens, real):
            return model.logits(model(tokens, decoder.row_positions(real, None), real)[0])

        best = np.asarray(jax.jit(logits)(tiny, whole, real)).argmax(-1)
    np.testing.assert_array_equal(samples.ids, best[:, 8:-1])


def test_shared_prefix_equals_the_context_in_every_prompt(tiny, mesh):
    rows, tokens = range(len(PROMPTS.suffixes)), np.zeros((7, 15), np.int32)
    for row, ids in enumerate(PROMPTS.whole):
        tokens[row, 15 - len(ids) :] = ids
    keys = jnp.stack([jax.random.fold_in(jax.random.fold_in(jax.random.key(1), row), 0) for row in rows])
    samples = sampled(Reader(tiny), mesh, (tokens, tokens > 0, keys), Choice(), STOPS)
    for row, rollout in zip(rows, ask(tiny, mesh), strict=True):
        kept = samples.real[row]
        np.testing.assert_array_equal(rollout.ids, samples.ids[row, kept])
        np.testing.assert_array_equal(rollout.targets["draws.ids"], samples.targets["draws.ids"][row, kept])
        logprobs = "top_k.logprobs"
        np.testing.assert_allclose(rollout.targets[logprobs], samples.targets[logprobs][row, kept], atol=2e-5)


# --- what a row gets is its own -------------------------------------------------------------------------------------


def test_a_sample_does_not_depend_on_its_batch(tiny, mesh):
    together, _ = run(tiny, mesh)
    for row in (0, 5):
        alone, _ = run(tiny, mesh, rows=slice(row, row + 1))
        assert_same([cut(together, slice(row, row + 1))], [alone], atol=2e-5)


def test_every_step_has_noise_of_its_own(tiny, mesh):
    samples, _ = run(tiny, mesh, stops=())  # a new model is nearly uniform over its vocabulary
    assert all(len(set(row)) > 2 for row in samples.ids.tolist())
    assert len({tuple(row) for row in samples.ids.tolist()}) == 8
    assert np.mean(samples.ids[..., None] == samples.targets["draws.ids"]) < 0.2  # what is recorded has its own


def test_a_row_ends_with_its_first_stop_token(tiny, mesh):
    samples, _ = run(tiny, mesh)
    lengths = samples.real.sum(1)
    assert samples.stopped.any() and not samples.stopped.all()
    for row, length in enumerate(lengths):
        assert samples.real[row, :length].all() and not set(samples.ids[row, : length - 1]) & set(STOPS)
        assert samples.stopped[row] == (samples.ids[row, length - 1] in STOPS)
        assert samples.stopped[row] or length == 6


def test_a_row_of_padding_only_fills_the_batch(tiny, mesh):
    real = REAL.copy()
    real[2] = False
    samples, _ = run(tiny, mesh, real=real)
    assert not samples.real[2].any() and not samples.stopped[2]
    others = [0, 1, 3, 4, 5, 6, 7]
    assert_same([cut(samples, others)], [cut(run(tiny, mesh)[0], others)], atol=2e-5)


# --- choosing -------------------------------------------------------------------------------------------------------


def test_largest_is_top_k_with_its_ties():
    logits = jnp.asarray(np.round(RNG.normal(size=(16, 5000)) * 2), jnp.float32)
    for k in (0, 1, 7, 32):
        actual, expected = jax.jit(choose.largest, static_argnums=1)(logits, k), jax.lax.top_k(logits, k)
        assert all(np.array_equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    "choice",
    [Choice(0.7), Choice(1.5, top_k=9), Choice(1.0, top_p=0.6), Choice(0.9, top_k=40, top_p=0.8)],
    ids=["temperature", "top_k", "top_p", "both"],
)
def test_choices_follow_the_distribution_that_was_asked_for(choice):
    logits = RNG.normal(size=150) * 1.5  # over more than two blocks
    order = np.argsort(-logits)[: choice.top_k or None]
    weights = np.exp(logits[order] / choice.temperature)
    share = np.cumsum(weights) / weights.sum()
    weights[1:][share[:-1] >= choice.top_p] = 0  # an entry stays while those before it have less than the share
    probabilities = np.zeros(150)
    probabilities[order] = weights / weights.sum()
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (20_000, 150))
    assert_follows(np.asarray(jax.jit(choice)(rows, jax.random.uniform(jax.random.key(0), 20_000))), probabilities)


def test_draws_follow_their_weights_and_skip_zeros():
    weights = np.where(RNG.random(1000) < 0.3, 0, RNG.random(1000)).astype(np.float32)
    weights[:70] = weights[-70:] = 0
    uniforms = jax.random.uniform(jax.random.key(1), (1, 200_000)).at[0, :2].set(jnp.array([0.0, 1 - 2**-24]))
    ids = np.asarray(jax.jit(choose.draw)(jnp.asarray(weights)[None], uniforms))[0]
    assert_follows(ids, weights / weights.sum())
    assert ids[:2].tolist() == [np.flatnonzero(weights)[0], np.flatnonzero(weights)[-1]]


def test_greedy_takes_the_first_of_equals():
    logits = jnp.zeros((2, 200)).at[0, jnp.array([130, 70])].set(1.0)
    assert Choice(0.0)(logits, jnp.zeros(2)).tolist() == [70, 0]


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_a_choice_out_of_range_is_refused(wrong):
    with pytest.raises(config.UserError, match=f"{next(iter(wrong))} must be"):
        Choice(**wrong)


# --- the stage ------------------------------------------------------------------------------------------------------


def test_rollouts_do_not_depend_on_batch_or_mesh(tiny, mesh, tiny8, mesh8, capfd):
    rollouts, threes, eight = (
        ask(model, where, sampling=config.Sampling(per_input=2, batch=batch))
        for model, where, batch in ((tiny, mesh, 64), (tiny, mesh, 3), (tiny8, mesh8, 4))
    )
    assert [(r.input, r.sample) for r in rollouts] == [(text, s) for text in PROMPTS.inputs for s in (0, 1)]
    assert len({tuple(r.ids.tolist()) for r in rollouts}) > 10
    assert_same(rollouts, threes, atol=2e-5)
    assert_same(rollouts, eight, atol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err


def test_recording_changes_no_sample(tiny, mesh):
    bare = ask(tiny, mesh, targets=config.Labels())
    assert [r.ids.tolist() for r in bare] == [r.ids.tolist() for r in ask(tiny, mesh)]
    assert all(r.targets == {} for r in bare)


def test_finished_rows_make_room(tiny, mesh, monkeypatch):
    """Three slots take fewer steps than three rows at a time, each waiting for its longest."""
    steps = []

    def counted(model, state, *rest, **choice):
        before = np.asarray(state.ages)
        after = slots_decode(model, state, *rest, **choice)
        steps.append(int((np.asarray(after.ages) - before).max()))
        return after

    slots_decode = slots.generate.decode
    monkeypatch.setattr(slots.generate, "decode", counted)
    rollouts = ask(tiny, mesh, sampling=config.Sampling(per_input=2, batch=3))
    lengths = [
        len(rollout.ids)
        for rollout in sorted(rollouts, key=lambda rollout: -len(PROMPTS.suffixes[int(rollout.input[-1])]))
    ]
    assert sum(lengths) / 3 <= sum(steps) < sum(max(lengths[start : start + 3]) for start in range(0, 14, 3))


def test_killed_and_resumed_equals_never_killed(tiny, mesh, tmp_path, monkeypatch):
    settings = dict(sampling=config.Sampling(per_input=2, batch=3))
    never = ask(tiny, mesh, **settings, store=Store(tmp_path / "other"))

    def kill(count):
        if len(list(tmp_path.glob("store/*.npz"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(tiny, mesh, **settings, store=Store(tmp_path / "store"), progress=kill)
    asked, counts, run = [], [], slots.Slots.run

    def watched(self, requests, seed):
        asked.extend(requests)
        return run(self, requests, seed)

    monkeypatch.setattr(slots.Slots, "run", watched)
    assert_same(ask(tiny, mesh, **settings, store=Store(tmp_path / "store"), progress=counts.append), never)
    assert len(asked) == 14 - 6 and counts[:2] == [3, 3] and sum(counts) == 14


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"targets": config.TopK(4)}, {"stops": np.array([1], np.int32)}, "weights"]
)
def test_a_store_of_another_request_is_refused(tiny, mesh, tmp_path, change):
    ask(tiny, mesh, store=Store(tmp_path))
    model = decoder.create(TINY, mesh, seed=1) if change == "weights" else tiny
    changes = {} if change == "weights" else change
    with pytest.raises(config.UserError, match="model was" if change == "weights" else f"{next(iter(change))} was"):
        ask(model, mesh, store=Store(tmp_path), **changes)


def test_identity_is_that_of_the_weights(tiny, tiny8):
    assert answers.identity(Reader(tiny)) == answers.identity(Reader(tiny8))
    moved = jax.tree.map(lambda x: x, tiny)
    moved.embedding[...] = moved.embedding[...].at[3, 4].multiply(1.0001)
    assert answers.identity(Reader(moved)) != answers.identity(Reader(tiny))
    with jax.set_mesh(tiny.embedding[...].sharding.mesh):
        assert answers.identity(Reader(tiny).after(CONTEXT)) != answers.identity(Reader(tiny))


def test_greedy_answers_come_in_input_order_whatever_the_seed(tiny, mesh):
    one, two = (
        ask(tiny, mesh, sampling=config.Sampling(temperature=0.0, batch=3), targets=config.Labels(), seed=seed)
        for seed in (1, 5)
    )
    assert [rollout.input for rollout in one] == list(PROMPTS.inputs)
    assert [rollout.ids.tolist() for rollout in one] == [rollout.ids.tolist() for rollout in two]


def test_a_prompt_that_does_not_fit_is_named(tiny, mesh):
    with pytest.raises(config.UserError, match=r"'input 4' has 15 tokens, with 2034 more"):
        ask(tiny, mesh, steps=2034)
    with pytest.raises(config.UserError, match="token 64, the model's vocabulary ends at 63"):
        answers.check_fits(Reader(tiny), Prompts(("x",), CONTEXT, (np.array([64], np.int32),)), 1)


def test_what_stands_before_a_prompt_takes_its_room(tiny, mesh):
    with jax.set_mesh(mesh):
        reader = Reader(tiny).after(CONTEXT)
    with pytest.raises(config.UserError, match=f"'input 4' has {15 + len(CONTEXT)} tokens, with 2027 more"):
        answers.check_fits(reader, PROMPTS, 2027)


def test_widths_are_few():
    widths = [slots.width(length) for length in range(1, 1025)]
    assert all(width >= length and width % 8 == 0 for length, width in enumerate(widths, 1))
    assert sorted(set(widths)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]


def test_decoding_writes_the_cache_in_place(tiny, mesh):
    def compiled(columns):
        targets = config.TopK(4)
        with jax.set_mesh(mesh):
            reader = Reader(tiny).unstacked()
            state = generate.start(reader, 8, columns, targets=targets, steps=4)
            leaves, tree = jax.tree.flatten(state)

            def decode(leaves):
                stops = jnp.zeros(64, bool)
                return generate.decode(reader, tree.unflatten(leaves), stops, 8, choice=Choice(), targets=targets)

            done = jax.jit(decode, donate_argnums=0).lower(leaves).compile()
        return sum(buffer.nbytes for buffer in (*state.past.k, *state.past.v)), done.memory_analysis()

    (_, small), (cache, large) = compiled(1024), compiled(4096)
    assert large.alias_size_in_bytes >= cache
    assert large.temp_size_in_bytes - small.temp_size_in_bytes < cache / 100
