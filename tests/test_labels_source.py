"""Written answers as a source: what the student learns is what the task says, token by token."""

import dataclasses

import jax
import numpy as np
import pytest

from cdjax import config, tasks
from cdjax.distill import opening, plan, rounds, stages
from cdjax.workdir import metrics
from tests.test_rounds import experiment

WRITTEN = experiment(sources=(config.FromLabels(),), limits=config.Limits(128, 64, 12))


def answered(run):
    with jax.set_mesh(run.mesh):
        round = plan.rounds(run, 0)[0]
        return stages.ask(round, (0,), None, run.student.base, stages.show(round, 0))


def test_the_answers_are_the_tasks_own_with_the_teachers_targets(tmp_path):
    run, task = opening.open(WRITTEN, tmp_path), tasks.load("past_tense")
    rollouts = answered(run)
    assert len(rollouts) == 12
    for rollout in rollouts:
        assert run.format.text(rollout.ids) == task.solve(rollout.input).output and rollout.stopped
        assert np.isfinite(rollout.targets["logprobs"]).all() and len(rollout.targets["ids"]) == len(rollout.ids)


def test_an_answer_longer_than_the_limit_is_cut_as_a_models_is(tmp_path):
    short = dataclasses.replace(WRITTEN, limits=config.Limits(128, 64, 4))
    run = opening.open(short, tmp_path / "short")
    rollouts = answered(run)
    whole = answered(opening.open(WRITTEN, tmp_path / "whole"))
    assert {len(rollout.ids) <= 4 for rollout in whole} == {True, False}
    for cut, answer in zip(rollouts, whole, strict=True):
        np.testing.assert_array_equal(cut.ids, answer.ids[:4])
        assert cut.stopped == (len(answer.ids) <= 4)


def test_cross_entropy_on_labels_falls(tmp_path):
    cfg = config.override(
        WRITTEN, {"training.update": config.Update(epochs=6, batch=4), "score": config.Score(2, measures=())}
    )
    rounds.run(cfg, tmp_path)
    losses = [line["cross_entropy"] for line in metrics.read(tmp_path / "metrics.jsonl")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3


def test_a_task_without_answers_is_refused(tmp_path):
    (tmp_path / "inputs.txt").write_text("".join(f"word {number}\n" for number in range(30)))
    cfg = config.override(
        WRITTEN,
        {
            "operations.0.task": "",
            "operations.0.inputs": {"file": str(tmp_path / "inputs.txt")},
            "operations.0.context": {},
        },
    )
    with pytest.raises(config.UserError, match="asks of task .* its answers .source labels., and it knows none"):
        answered(opening.open(cfg, tmp_path / "run"))
