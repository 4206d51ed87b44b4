"""The filter of answers that speak of their context."""

import pytest

from cdjax import config, parts
from cdjax.lessons.filters.phrases import TELLING
from tests.test_keep import FORMAT, keep, rollout

TEXTS = ("12", "As  The\nInstructions say, 12", "12, as in the examples above.", "an example", "see page 3")


def kept(keep_cfg, texts=TEXTS):
    answers, dropped = keep([rollout(text) for text in texts], FORMAT, keep_cfg)
    assert sum(dropped.values()) + len(answers) == len(texts)
    return [answer.text for answer in answers]


def test_an_answer_that_tells_of_its_context_is_dropped_whatever_its_case_and_space():
    assert kept(config.Keep(filters=(config.Phrases(),))) == ["12", "an example", "see page 3"]
    assert kept(config.Keep(filters=(config.Phrases(("PAGE  3", "12")),))) == ["an example"]


def test_what_f_leaves_out_may_tell():
    answer = config.Keep("after", "So", filters=(config.Phrases(),))
    assert kept(answer, ["As instructed, I add. So 12", "I add. So 13, as instructed"]) == ["12"]


@pytest.mark.parametrize("phrases", [(), ("as told", " ")])
def test_phrases_that_are_none_or_stand_everywhere_are_refused(phrases):
    (problem,) = parts.problems(config.Phrases(phrases))
    assert problem.startswith("phrases=[") and "none of them empty" in problem


def test_the_phrases_that_tell_are_each_needed():
    assert list(parts.problems(config.Phrases())) == []
    assert not [one for one in TELLING for other in TELLING if other != one and other in one]
