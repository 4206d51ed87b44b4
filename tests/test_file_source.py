"""A file as a source: what its lines say to the inputs is learned, with the teacher's targets."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cdjax import config, tasks
from cdjax.distill import opening, plan, rounds, stages
from cdjax.workdir import metrics
from cdjax.workdir.journal import Journal
from tests.command import run_tiny
from tests.test_rounds import experiment


@pytest.fixture
def lines(tmp_path):
    """A file with two answers to every verb of the pool, and with an input that nobody asks for."""
    pool = tasks.load("past_tense").pool
    rows = [{"input": verb, "output": word} for verb in pool for word in ("done", "made")]
    rows.append({"input": "nobody asks this", "output": "no"})
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "answers.jsonl")


def answered(run):
    with jax.set_mesh(run.mesh):
        round = plan.rounds(run, 0)[0]
        return stages.ask(round, (0,), None, run.student.base, stages.show(round, 0))


def test_every_answer_of_the_file_is_learned_with_the_teachers_targets(lines, tmp_path):
    run = opening.open(experiment(sources=(config.FromFile(lines),)), tmp_path / "run")
    rollouts = answered(run)
    said = {(rollout.input, rollout.sample): run.format.text(rollout.ids) for rollout in rollouts}
    assert len(said) == 24 and {said[key] for key in said if key[1] == 0} == {"done"}
    assert {said[key] for key in said if key[1] == 1} == {"made"}
    for rollout in rollouts:
        assert np.isfinite(rollout.targets["logprobs"]).all() and len(rollout.targets["ids"]) == len(rollout.ids)


def test_a_file_that_was_edited_since_is_told(lines, tmp_path):
    cfg = experiment(sources=(config.FromFile(lines),))
    opening.open(cfg, tmp_path / "run")
    with open(lines, "a") as file:
        file.write('{"input": "go", "output": "went"}\n')
    with pytest.raises(config.UserError, match=f"read {lines} before it was changed"):
        opening.open(cfg, tmp_path / "run")


def test_a_file_without_answers_and_no_file_are_refused(tmp_path):
    (tmp_path / "other.jsonl").write_text('{"input": "fox", "output": "foxes"}\n')
    run = opening.open(experiment(sources=(config.FromFile(str(tmp_path / "other.jsonl")),)), tmp_path / "run")
    with pytest.raises(config.UserError, match="other.jsonl has an answer to 1 inputs, and to none of the 12"):
        answered(run)
    with pytest.raises(config.UserError, match="sources.0.file must be JSON lines .* 'nowhere' is no file"):
        config.check.validate(experiment(sources=(config.FromFile("nowhere"),)))


def test_it_is_chosen_on_the_command_line(lines, tmp_path):
    source = json.dumps([{"kind": "file", "file": lines}])
    assert run_tiny(tmp_path / "run", training__sources=source)["rollouts"]["sampled"] == 16


def test_in_segments_an_input_is_learned_once_an_epoch_with_all_its_answers(lines, tmp_path):
    """24 answers an epoch, two epochs: as many updates as are planned, whose learning rates never run out."""
    update = config.Update(epochs=2, batch=4, every=3)
    cfg = experiment(sources=(config.FromFile(lines),), update=update, score=config.Score(4, measures=()))
    rounds.run(config.override(cfg, {"training.optim.schedule": "linear"}), tmp_path)
    told = Journal(tmp_path / "journal.json").results()
    logged = metrics.read(tmp_path / "metrics.jsonl")
    segments = [stage for name, stage in told.items() if name.endswith("/update")]
    assert sum(segment["pairs"] for segment in segments) == 48
    assert len(logged) == told["seed 0/round 0/segments"]["planned"] and all(line["lr"] > 0 for line in logged)


def test_a_segment_may_have_no_answer_of_a_source_or_of_an_operation(lines, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(Path(lines).read_text().splitlines(keepends=True)[:2]))
    sources = (config.FromTeacher(), config.FromFile(str(few)))
    operations = experiment().operations
    small = config.override(experiment(), {"operations.0.inputs.limit": 2, "operations.0.name": "small"}).operations
    cfg = experiment(
        operations=(*operations, *small),
        sources=sources,
        update=config.Update(batch=8, every=1),
        score=config.Score(2, measures=()),
    )
    told = rounds.run(cfg, tmp_path / "run")
    assert told["rollouts"]["sampled"] >= 14
