"""A teacher that reads several prompts at once, and answers by the mean of their probabilities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config, parallel
from cdjax.model import decoder
from cdjax.model.reader import Reader
from cdjax.sampling import answers, choose, generate
from cdjax.sampling.store import Store
from cdjax.views import encode, render
from tests import small_tokenizer, test_views
from tests.conftest import TINY, Both
from tests.test_sampling import PROMPTS, STOPS, assert_same

RNG = np.random.default_rng(1)
CONTEXTS = tuple(RNG.integers(1, 64, n).astype(np.int32) for n in (7, 3, 11))
SEVERAL = dataclasses.replace(PROMPTS, context=CONTEXTS[0], others=CONTEXTS[1:])
BOTH = Both(config.TopK(5), config.Draws(3))
GREEDY = config.Sampling(temperature=0.0, batch=3)
SHOWN = tuple(config.Demonstration(word, word.upper()) for word in ("one", "two", "three", "four", "five"))


def sample(model, mesh, prompts=SEVERAL, **changes):
    wanted = dict(stops=np.array(STOPS, np.int32), sampling=config.Sampling(batch=3), targets=BOTH, steps=6, seed=1)
    return answers.sample(Reader(model), mesh, prompts, **{**wanted, **changes})


def test_equal_prompts_are_one_prompt(tiny, mesh):
    alone = dataclasses.replace(SEVERAL, context=CONTEXTS[2], others=())
    thrice = dataclasses.replace(alone, others=CONTEXTS[2:] * 2)
    assert_same(sample(tiny, mesh, thrice), sample(tiny, mesh, alone), atol=2e-5)


def whole_forwards(model, mesh, prompts, rollouts):
    """[G, V] log-probabilities before each token of the answers, by a forward pass for each context."""

    @jax.jit
    def logs(tokens):
        real = jnp.ones(tokens.shape, bool)
        return jax.nn.log_softmax(model.logits(model(tokens, decoder.row_positions(real, None), real)[0]))

    with jax.set_mesh(mesh):
        for suffix, rollout in zip(prompts.suffixes, rollouts, strict=True):
            texts = [np.concatenate([context, suffix, rollout.ids]) for context in prompts.contexts]
            padded = [np.pad(text, (0, 32 - len(text))) for text in texts]
            each = np.asarray(logs(jnp.stack(padded)))
            ends = [len(text) - 1 - len(rollout.ids) for text in texts]
            yield np.stack([found[end : end + len(rollout.ids)] for found, end in zip(each, ends, strict=True)])


@pytest.mark.parametrize(("window", "sampling"), [(None, GREEDY), (6, config.Sampling(batch=3))])
def test_what_is_recorded_is_the_mean_of_whole_forwards(mesh, window, sampling):
    model = decoder.create(dataclasses.replace(TINY, window=window), mesh, seed=0)
    model = jax.tree.map(lambda weights: 12 * weights if weights.ndim > 1 else weights, model)  # contexts matter more
    rollouts, apart = sample(model, mesh, sampling=sampling), 0.0
    for rollout, each in zip(rollouts, whole_forwards(model, mesh, SEVERAL, rollouts), strict=True):
        mean = np.log(np.mean(np.exp(each.astype(np.float64)), 0))
        rows = np.arange(len(rollout.ids))
        np.testing.assert_allclose(rollout.logprobs, mean[rows, rollout.ids], atol=1e-4)
        np.testing.assert_allclose(rollout.targets["top_k.logprobs"], -np.sort(-mean, -1)[:, :5], atol=1e-4)
        if sampling == GREEDY:
            np.testing.assert_array_equal(rollout.ids, mean.argmax(-1))
        apart = max(apart, np.abs(each.mean(0) - mean).max())
    assert apart > 0.5  # a mean of logarithms would be something else


def test_the_mean_is_of_probabilities():
    logits = RNG.normal(size=(3, 4, 70)).astype(np.float32) * 8
    wanted = np.mean(np.asarray(jax.nn.softmax(logits)), 0)
    np.testing.assert_allclose(np.exp(choose.mean(jnp.asarray(logits))), wanted, rtol=1e-4)


def test_a_sample_depends_on_neither_batch_nor_mesh(tiny, mesh, mesh8, capfd):
    tiny8 = jax.device_put(tiny, parallel.shardings(tiny, mesh8))
    rollouts = sample(tiny, mesh)
    assert len({tuple(one.ids.tolist()) for one in rollouts}) > 5
    assert_same(rollouts, sample(tiny8, mesh8, sampling=config.Sampling(batch=4)), atol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err


def test_decoding_lowers_for_a_tpu(tiny, mesh):
    with jax.set_mesh(mesh):
        reader = Reader(tiny).after(*CONTEXTS).unstacked()
        state = generate.start(reader, 4, 16, targets=BOTH, steps=6)
        leaves, tree = jax.tree.flatten(state)

        def decode(leaves):
            stops = jnp.zeros(64, bool)
            return generate.decode(reader, tree.unflatten(leaves), stops, 4, choice=choose.Choice(), targets=BOTH)

        lowered = jax.jit(decode).trace(leaves).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text()


def test_a_store_knows_every_prompt(tiny, mesh, tmp_path):
    sample(tiny, mesh, store=Store(tmp_path))
    changed = dataclasses.replace(SEVERAL, others=(CONTEXTS[1], CONTEXTS[2] + 1))
    with pytest.raises(config.UserError, match="prompts was"):
        sample(tiny, mesh, changed, store=Store(tmp_path))


def test_every_prompt_must_fit_the_model(tiny, mesh):
    with pytest.raises(config.UserError, match=r"'input 4' has 19 tokens, with 2030 more"):
        sample(tiny, mesh, steps=2030)
    with pytest.raises(config.UserError, match="sampling.draft=2 cannot go with an ensemble"):
        sample(tiny, mesh, sampling=config.Sampling(draft=2))


# --- the views ------------------------------------------------------------------------------------------------------


def test_each_prompt_shows_some_of_the_demonstrations():
    context = config.Context(demonstrations=SHOWN, ensemble=6, drawn=3)
    tokenizer = small_tokenizer.make()
    prompts, _ = test_views.encoded(test_views.ARROW, context, ["cat", "cow"])
    shown = []
    for ids in prompts.contexts:
        text = encode.decode(tokenizer, np.concatenate([ids, prompts.suffixes[1]]))
        lines = text.splitlines()
        assert lines[-1] == "cow ->" and len(set(lines)) == 4
        shown.append(tuple(lines[:-1]))
    known = {f"{one.input} -> {one.output}" for one in SHOWN}
    assert set().union(*shown) == known and len(set(shown)) == 6
    fewer, _ = test_views.encoded(test_views.ARROW, dataclasses.replace(context, ensemble=2), ["cat", "cow"])
    assert [ids.tolist() for ids in fewer.contexts] == [ids.tolist() for ids in prompts.contexts[:2]]


def test_every_prompt_of_an_input_must_be_within_the_budget():
    long = config.Demonstration("x" * 40, "y")
    context = config.Context(demonstrations=(*SHOWN, long), ensemble=3, drawn=2)
    members = render.members(render.complete(context, test_views.TASK))
    assert {long in one.demonstrations for one in members} == {True, False}
    plain = [dataclasses.replace(context, demonstrations=one.demonstrations, ensemble=0, drawn=0) for one in members]
    sizes = [len(test_views.encoded(test_views.ARROW, one, ["cat"])[0].whole[0]) for one in plain]
    test_views.encoded(test_views.ARROW, context, ["cat"], budget=max(sizes))
    with pytest.raises(config.UserError, match=f"'cat', is {max(sizes)} tokens of {max(sizes) - 1} allowed"):
        test_views.encoded(test_views.ARROW, context, ["cat"], budget=max(sizes) - 1)


def test_some_demonstrations_can_be_skipped():
    (ids,) = test_views.encoded(test_views.ARROW, config.Context(shots=1, select=config.First(skip=1)), ["cat"])[
        0
    ].whole
    assert encode.decode(small_tokenizer.make(), ids) == "box -> boxes\ncat ->"
    with pytest.raises(config.UserError, match="context.shots is 2 after 1 skipped, but task 'days' has 2"):
        test_views.encoded(test_views.ARROW, config.Context(shots=2, select=config.First(skip=1)), ["cat"])
