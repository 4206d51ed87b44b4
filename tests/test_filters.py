"""Filters that ask for more than the answers themselves. Those that every run has are in test_keep.py."""

import pytest

from cdjax import config, parts
from cdjax.distill import rounds
from cdjax.lessons.filters import Evidence
from cdjax.sampling.store import Store
from tests.test_keep import FORMAT, TWELVE, keep, lessons, rollout
from tests.test_rounds import experiment

BARE = {"a": rollout("12 12 12 12 12 12", given="a"), "b": rollout("12", given="b")}
ANSWERS = [rollout(" ".join(["12"] * n), given=given) for given in "ab" for n in (1, 3, 6, 20)]


def ratio(answer):
    return len(answer.ids) / len(BARE[answer.input].ids)


@pytest.mark.parametrize(("least", "most"), [(0.0, 100.0), (0.5, 2.0), (1.0, 1.0), (0.0, 1.0), (0.9, 100.0)])
def test_an_answer_is_as_long_as_the_bare_one_within_bounds(least, most):
    cfg = config.Keep(filters=(config.LengthRatio(least, most),))
    kept, dropped = lessons.keep(ANSWERS, FORMAT, cfg, Evidence(TWELVE, lambda: BARE))
    assert [one.rollout for one in kept] == [one for one in ANSWERS if least <= ratio(one) <= most]
    counts = {
        "too_short": sum(ratio(one) < least for one in ANSWERS),
        "too_long": sum(ratio(one) > most for one in ANSWERS),
    }
    assert dropped == {reason: n for reason, n in counts.items() if n}


def test_bare_answers_are_drawn_only_when_a_filter_asks():
    assert len(keep(ANSWERS, FORMAT, config.Keep())[0]) == len(ANSWERS)
    with pytest.raises(ValueError, match="there is no model here"):
        keep(ANSWERS, FORMAT, config.Keep(filters=(config.LengthRatio(),)))
    with pytest.raises(config.UserError, match="unfinished 1"):
        keep([rollout("12", stop="")], FORMAT, config.Keep(filters=(config.Finished(), config.LengthRatio())))


def test_bounds_that_leave_nothing_are_refused():
    assert list(parts.problems(config.LengthRatio(2.0, 1.0))) == [
        "least=2 is more than most=1: no answer would be kept"
    ]
    assert list(parts.problems(config.LengthRatio(0.0, 0.0))) == ["most must be more than 0, got 0"]


def test_the_bare_answers_of_a_run_are_the_answers_of_a_run_without_context(tmp_path):
    greedy = experiment(sampling=config.Sampling(temperature=0.0, batch=16), update=config.Update())
    ratio = config.Keep(filters=(config.LengthRatio(1.0, 1.0),))
    greedy = config.override(greedy, {"operations.0.keep": ratio})
    rounds.run(greedy, tmp_path / "shown")
    told = rounds.run(config.override(greedy, {"operations.0.context": config.Context()}), tmp_path / "bare")
    assert (told["rollouts"]["kept"], told["rollouts"]["dropped"]) == (12, {})
    folder = "rollouts/seed_0/round_0/operation_0"
    stores = Store(tmp_path / "shown" / folder / "bare"), Store(tmp_path / "bare" / folder)
    first, second = ({one.input: one.ids.tolist() for one in store.read(0)} for store in stores)
    assert first == second and len(first) == 12
