"""pass@k is the share of all choices of k answers that have a right one among them."""

import dataclasses
import itertools
import json

import pytest

from cdjax import config
from cdjax.distill import opening
from cdjax.score.exam import Subject
from cdjax.score.measures.pass_at_k import estimate
from tests.command import run_tiny
from tests.test_rounds import experiment


@pytest.mark.parametrize("right", [(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (1, 0, 1, 0, 1), (1, 1, 1, 1, 1)])
def test_the_estimate_is_that_of_every_choice(right):
    for k in range(1, 6):
        choices = list(itertools.combinations(right, k))
        assert estimate([bool(one) for one in right], k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_every_input_counts_once_and_more_tries_are_never_worse(tmp_path):
    """The task calls every answer right that begins with a letter of the first half of the alphabet."""
    run = opening.open(experiment(), tmp_path)
    (assignment,) = run.assignments
    task = dataclasses.replace(assignment.task, grade=lambda example, answer: float(answer[:1].lower() < "n"))
    exam = dataclasses.replace(run.exam, assignments=(dataclasses.replace(assignment, task=task),))
    model = run.student.model
    subject = Subject(exam, (0,), exam.tests(), model, model, model, tmp_path, 4)
    told = [config.PassAtK(k=k, samples=4, examples=3, temperature=1.0)(subject) for k in (1, 2, 4)]
    assert [len(one["grades"]) for one in told] == [3, 3, 3]
    for fewer, more in itertools.pairwise(told):
        assert all(a <= b for a, b in zip(fewer["grades"], more["grades"], strict=True))
    assert 0 < told[0]["mean"] < told[2]["mean"] and set(told[2]["grades"]) <= {0.0, 1.0}


def test_more_answers_than_are_sampled_are_refused():
    with pytest.raises(config.UserError, match="score.measures.0.samples=2 must be at least k=3"):
        config.check.validate(experiment(score=config.Score(measures=(config.PassAtK(k=3, samples=2),))))


def test_it_is_asked_for_on_the_command_line(tmp_path):
    measure = json.dumps([{"kind": "pass_at_k", "k": 2, "examples": 2}])
    told = run_tiny(tmp_path, score__measures=measure)["measures"]["pass_at_k"]
    assert told["after"]["metric"] == "pass@2" and told["after"]["n"] == 2
    assert "pass@k: one of k sampled answers is right, pass@2" in (tmp_path / "report.html").read_text()
