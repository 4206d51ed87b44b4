"""An earlier run as a source: its answers are learned again, read by the teacher of this run."""

import json

import numpy as np
import pytest

from cdjax import config
from cdjax.distill import opening, rounds
from cdjax.sampling.store import Store
from cdjax.workdir import metrics
from tests.command import run_tiny
from tests.test_file_source import answered
from tests.test_rounds import experiment


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A run that has ended, whose teacher wrote."""
    workdir = tmp_path_factory.mktemp("earlier")
    rounds.run(experiment(), workdir)
    return workdir


def test_the_answers_are_the_earlier_ones_with_what_their_teacher_recorded(earlier, tmp_path):
    """The law of rereading: the same model under the same view finds what its decode step knew."""
    run = opening.open(experiment(sources=(config.FromRollouts(str(earlier)),)), tmp_path)
    before = {rollout.input: rollout for rollout in Store(earlier / "rollouts/seed_0/round_0/operation_0").read(0)}
    rollouts = answered(run)
    assert len(rollouts) == 12
    for rollout in (one for one in rollouts if one.input in before):
        recorded = before[rollout.input]
        np.testing.assert_array_equal(rollout.ids, recorded.ids)
        np.testing.assert_array_equal(rollout.targets["ids"], recorded.targets["ids"])
        np.testing.assert_allclose(rollout.targets["logprobs"], recorded.targets["logprobs"], atol=1e-4)


def test_learning_the_answers_again_is_the_same_learning(earlier, tmp_path):
    rounds.run(experiment(sources=(config.FromRollouts(str(earlier)),)), tmp_path)
    found = [[line["loss"] for line in metrics.read(workdir / "metrics.jsonl")] for workdir in (earlier, tmp_path)]
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_answers_of_another_operation_and_of_no_run_are_refused(earlier, tmp_path):
    plural = experiment(task="plural", sources=(config.FromRollouts(str(earlier)),))
    with pytest.raises(config.UserError, match="round_0 has 12 answers, and none to the 12 inputs asked"):
        answered(opening.open(plural, tmp_path / "run"))
    for source in (config.FromRollouts("nowhere"), config.FromRollouts(str(earlier), round=1)):
        with pytest.raises(config.UserError, match="sources.0.run=.* must be the directory of a run with answers"):
            config.check.validate(experiment(sources=(source,)))


def test_it_is_chosen_on_the_command_line(tmp_path):
    run_tiny(tmp_path / "first")
    source = json.dumps([{"kind": "rollouts", "run": str(tmp_path / "first")}])
    assert run_tiny(tmp_path / "second", training__sources=source)["rollouts"]["sampled"] == 8


def test_the_answers_of_all_sources_of_the_earlier_run_are_read(tmp_path):
    two = experiment(sources=(config.FromLabels(), config.FromTeacher()), score=config.Score(4, measures=()))
    rounds.run(two, tmp_path / "two")
    rollouts = answered(opening.open(experiment(sources=(config.FromRollouts(str(tmp_path / "two")),)), tmp_path))
    assert len(rollouts) == 12
