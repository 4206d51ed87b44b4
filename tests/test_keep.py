import dataclasses
import random

import numpy as np
import pytest

from cdjax import config
from cdjax.lessons import keep as lessons
from cdjax.lessons.filters import Evidence
from cdjax.lessons.keep import extract
from cdjax.sampling.store import Rollout
from cdjax.tasks.task import Example, Task, exact_match
from cdjax.views import encode
from cdjax.views.view import Format
from tests import small_tokenizer

TOKENIZER = small_tokenizer.make()
END = TOKENIZER.eos_token_id
STOPS = encode.stop_ids(TOKENIZER, config.Template(), [END])
FORMAT = Format(TOKENIZER, config.Template(), STOPS)


def rollout(text, *, given="x", sample=0, stop="\n", tokenizer=TOKENIZER):
    """An answer of the teacher; stop "" is one that ran into the length limit."""
    ids = np.array(tokenizer(text + stop)["input_ids"], np.int32)
    logprobs = np.zeros(len(ids), np.float32)
    return Rollout(given, sample, ids, logprobs, bool(stop), {}, ids * 0)


TWELVE = Task("twelve", "accuracy", exact_match, solve=lambda text: Example(text, "12"))


def keep(rollouts, format, cfg, task=TWELVE):
    return lessons.keep(rollouts, format, cfg, Evidence(task))


def said(kept):
    return encode.decode(TOKENIZER, kept.rollout.ids[kept.indices])


def test_all_keeps_every_token_and_the_stop():
    (kept,), dropped = keep([rollout(" walked")], FORMAT, config.Keep())
    assert kept.indices.tolist() == list(range(len(kept.rollout.ids)))
    assert (said(kept), kept.text, dropped) == (" walked\n", "walked", {})


@pytest.mark.parametrize("stop", ["\n", "<|im_end|>", ""])
@pytest.mark.parametrize(
    ("span", "pattern", "text"),
    [
        ("after", "answer:", "7 + 5 = 12. Final answer: 1. Final answer: 12"),
        ("regex", "#([^#]+)#", "7 + 5, #12# and #13#"),
        ("regex", r"\d+(?=#)", "7 + 5, #12#"),
    ],
)
def test_a_span_keeps_its_tokens_and_the_stop(stop, span, pattern, text):
    """A scratch-pad is left out; the student learns to stop where the teacher stopped, and only then."""
    cfg = config.Keep(span=span, pattern=pattern, filters=())
    (kept,), _ = keep([rollout(text, stop=stop)], FORMAT, cfg)
    assert kept.text == "12" and said(kept).strip(" ") == "12" + stop
    assert extract(cfg, text) == "12"


def test_a_span_is_the_fewest_tokens_that_say_it():
    """Whatever the text, also where a character is several tokens; and dropped only if no tokens say just that."""
    rng, checked = random.Random(0), 0
    for _ in range(60):
        before, inside, after = ("".join(rng.choices("ab 12é漢🙂.-", k=rng.randint(1, 5))) for _ in range(3))
        text, cfg = f"{before}<{inside}>{after}", config.Keep("regex", "<(.+)>", filters=())
        expected, one = inside.strip(), rollout(text, stop="")
        if not expected or text.count(expected) > 1:
            continue
        ends = range(len(one.ids) + 1)
        ranges = [
            (j - i, i, j) for i in ends for j in ends if encode.decode(TOKENIZER, one.ids[i:j]).strip() == expected
        ]
        if ranges:
            (kept,), _ = keep([one], FORMAT, cfg)
            assert kept.indices.tolist() == list(range(*min(ranges)[1:]))
            checked += 1
        else:
            with pytest.raises(config.UserError, match="split_token 1"):
                keep([one], FORMAT, cfg)
    assert checked > 20


def test_a_span_that_ends_inside_a_token_is_dropped():
    tokenizer = small_tokenizer.make(across_words=True)
    assert tokenizer.tokenize("Final answer: 12.") == tokenizer.tokenize("Final answer: 12") + ["."]
    rollouts = [rollout("Final answer: 12", tokenizer=tokenizer), rollout("Final answer: 77", tokenizer=tokenizer)]
    kept, dropped = keep(rollouts, Format(tokenizer, config.Template(), STOPS), config.Keep("after", "answer:"))
    assert [answer.text for answer in kept] == ["77"] and dropped == {"split_token": 1}


def test_an_answer_with_no_token_to_learn_is_unfinished():
    rollouts = [rollout("Answer: ", stop=""), rollout("Answer: "), rollout("Answer: 1", stop="")]
    kept, dropped = keep(rollouts, FORMAT, config.Keep("after", "Answer:", filters=()))
    assert [answer.text for answer in kept] == ["", "1"] and dropped == {"unfinished": 1}


def test_what_a_stop_token_says_before_the_stop_counts():
    tokenizer = small_tokenizer.make(across_words=True)
    format = Format(tokenizer, config.Template(), encode.stop_ids(tokenizer, config.Template(), [END]))
    ids = np.array(tokenizer("f(x)\n")["input_ids"], np.int32)
    assert tokenizer.decode(ids[-1:].tolist()) == ")\n"
    assert format.text(ids) == "f(x)"
    (kept,), _ = keep([rollout("f(x)", tokenizer=tokenizer)], format, config.Keep("regex", r"\(.\)"))
    assert kept.text == "(x)" and kept.indices.tolist() == list(range(1, len(ids)))
    for text, stop in ((" 12", "\n"), (" 12", "<|im_end|>"), ("12 ", "")):
        assert FORMAT.text(rollout(text, stop=stop).ids) == "12"


MANY = [
    rollout("12", given="a"),
    rollout("12", given="a", sample=1),
    rollout("13", given="a", sample=2),
    rollout("12", given="b"),
    rollout("12", given="b", sample=1, stop=""),
    rollout(" ", given="c"),
    rollout("twelve", given="d"),
    rollout("14", given="e"),
    rollout("15", given="e", sample=1),
]


@pytest.mark.parametrize(
    ("cfg", "reasons"),
    [
        (config.Keep(), {"unfinished": 1, "empty": 1}),
        (config.Keep(filters=()), {}),
        (config.Keep(filters=(config.NonEmpty(),)), {"empty": 1}),
        (config.Keep(filters=(config.Correct(),)), {"wrong": 5}),
        (config.Keep(filters=(config.Duplicate(),)), {"duplicate": 2}),
        (config.Keep(filters=(config.Majority(),)), {"minority": 2}),
        (config.Keep(filters=(config.Majority(), config.Duplicate())), {"minority": 2, "duplicate": 2}),
        (config.Keep(filters=(config.Duplicate(), config.Majority())), {"duplicate": 2, "minority": 2}),
        (config.Keep(filters=(config.Correct(), config.Majority())), {"wrong": 5}),
        (config.Keep("regex", r"\d+"), {"no_span": 2, "unfinished": 1}),
    ],
)
def test_drop_reasons_sum_to_the_input(cfg, reasons):
    kept, dropped = keep(MANY, FORMAT, cfg)
    assert dropped == reasons
    assert sum(dropped.values()) + len(kept) == len(MANY)
    assert [one.rollout for one in kept] == [one for one in MANY if any(one is k.rollout for k in kept)]


def test_the_majority_wins_and_a_tie_goes_to_the_first():
    kept, _ = keep(MANY, FORMAT, config.Keep(filters=(config.Majority(),)))
    assert {(answer.rollout.input, answer.text) for answer in kept} == set(
        zip("abcde", ["12", "12", "", "twelve", "14"], strict=True)
    )


def test_votes_count_only_answers_that_passed():
    votes = [rollout("13", sample=i, stop="") for i in range(3)] + [rollout("12", sample=3)]
    kept, dropped = keep(votes, FORMAT, config.Keep(filters=(config.Finished(), config.Majority())))
    assert [answer.text for answer in kept] == ["12"] and dropped == {"unfinished": 3}


def test_nothing_kept_is_an_error_with_the_counts():
    with pytest.raises(config.UserError, match=r"none of 2 answers was kept \(unfinished 1, empty 1\)"):
        keep([rollout("12", stop=""), rollout("")], FORMAT, config.Keep())
    with pytest.raises(config.UserError, match="there were none"):
        keep([], FORMAT, config.Keep())
    with pytest.raises(config.UserError, match="'correct', and the answers of task 'twelve' are not known"):
        keep(MANY, FORMAT, config.Keep(filters=(config.Correct(),)), dataclasses.replace(TWELVE, solve=None))
