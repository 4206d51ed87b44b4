import dataclasses

import jax
import numpy as np
import pytest

from cdjax import config, language_model, parallel
from cdjax.model.reader import Reader

CONTEXT = "Write the past tense.\nwalk: walked\n"
WORDS = ["go: ", "I want to see: "]


@pytest.fixture(scope="module")
def model(mesh):
    return language_model.load_model("tiny:0", mesh=mesh)


def test_logits_are_those_of_each_row_alone(model):
    rows = np.random.default_rng(0).integers(0, model.spec.vocab, (3, 8))
    logits = model.logits(rows)
    assert logits.shape == (3, 8, model.spec.vocab) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[1:2, :5], model.logits(rows[1:2, :5].tolist()), atol=2e-5)


def test_eight_devices_give_the_logits_of_one(model, mesh8):
    split = Reader(jax.device_put(model.decoder, parallel.shardings(model.decoder, mesh8)))
    rows = np.arange(15).reshape(3, 5)  # not a multiple of the devices
    eight = language_model.LanguageModel(split, model.tokenizer, mesh8, model.stop_ids, model.source)
    np.testing.assert_allclose(model.logits(rows), eight.logits(rows), atol=2e-5)


def test_greedy_text_is_the_most_likely_next_token(model):
    ids = model.tokenizer(WORDS[1], add_special_tokens=False)["input_ids"]
    answer = model.generate(WORDS[1], max_new_tokens=1)
    best = int(model.logits([ids])[0, -1].argmax())
    assert answer == [model.tokenizer.decode([best])]


def test_context_stands_word_for_word_before_every_prompt(model):
    shared = model.generate(WORDS, context=CONTEXT, max_new_tokens=6, temperature=1.0, seed=3)
    inside = model.generate([CONTEXT + word for word in WORDS], max_new_tokens=6, temperature=1.0, seed=3)
    assert shared == inside and shared[0] != shared[1]
    assert shared != model.generate(WORDS, max_new_tokens=6, temperature=1.0, seed=3)
    view = model._view(WORDS, CONTEXT)
    assert len(view.context) > 5 and [model.tokenizer.decode(ids) for ids in view.whole] == [CONTEXT + w for w in WORDS]


def test_a_seed_gives_the_same_text_again(model):
    texts = [model.generate(WORDS, max_new_tokens=6, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_text_ends_before_an_end_token(model):
    asked = dict(max_new_tokens=6, temperature=1.0, seed=3)
    every_fourth = dataclasses.replace(model, stop_ids=tuple(range(0, model.spec.vocab, 4)))
    pairs = list(zip(every_fourth.generate(WORDS, **asked), model.generate(WORDS, **asked), strict=True))
    assert all(free.startswith(ended) for ended, free in pairs)
    assert any(0 < len(ended) < len(free) for ended, free in pairs)
    every = dataclasses.replace(model, stop_ids=tuple(range(model.spec.vocab)))
    assert every.generate(WORDS, **asked) == ["", ""]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": ""}, "no token"),
        ({"max_new_tokens": 0}, "at least 1 token"),
        ({"max_new_tokens": 5000}, "over the model's 2048"),
        ({"temperature": -1.0}, "temperature must be 0"),
    ],
)
def test_bad_requests_are_refused(model, wrong, message):
    with pytest.raises(config.UserError, match=message):
        model.generate(**{"prompts": "a", "max_new_tokens": 1, **wrong})


@pytest.mark.parametrize("ids", [[1, 2], [[0.5]], [[]], [[512]], [[-1]], [[1] * 2049]])
def test_logits_need_ids_of_the_vocabulary(model, ids):
    with pytest.raises(config.UserError, match="ids"):
        model.logits(ids)


def test_unknown_arguments_of_load_model_are_named():
    with pytest.raises(config.UserError, match="float32, bfloat16 or auto, got 'float16'"):
        language_model.load_model("tiny:0", dtype="float16")
    with pytest.raises(config.UserError, match="none, dots, full, got 'some'"):
        language_model.load_model("tiny:0", remat="some")
