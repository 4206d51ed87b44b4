"""A round in segments: answers written anew between updates, while the optimizer goes on."""

import dataclasses
import json

import numpy as np
import pytest

from cdjax import config
from cdjax.distill import opening, rounds, scores, stages, succession, updates
from cdjax.learn import update
from cdjax.workdir import metrics
from cdjax.workdir.journal import Journal
from tests.test_rounds import Killed, assert_same_end, die, experiment, outcome, weights

EVERY = config.Update(epochs=2, batch=4, every=2, checkpoint_every=1)  # 12 inputs: 6 updates in 3 segments


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in segments, with a teacher that follows them, never interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    rounds.run(experiment(update=EVERY, plan=config.Plan(ema=0.5, ema_every="segment")), workdir)
    return workdir


def test_a_segment_as_long_as_the_round_is_the_round(tmp_path):
    for name, every in (("once", 0), ("long", 6)):
        cfg = experiment(update=config.Update(epochs=2, batch=4, every=every))
        rounds.run(cfg, tmp_path / name)
    assert_same_end(tmp_path / "once", tmp_path / "long")


def test_answers_are_written_anew_and_the_schedule_goes_on(whole):
    found = Journal(whole / "journal.json").results()
    names = [f"seed 0/round 0/segment {number}" for number in range(3)]
    assert [found[f"{name}/update"]["step"] for name in names] == [2, 4, 6]
    assert [found[f"{name}/operation 0/sample"]["sampled"] for name in names] == [8, 8, 8]
    lines = metrics.read(whole / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    samples = [whole / f"rollouts/seed_0/round_0/segment_{number}/operation_0/samples.jsonl" for number in range(3)]
    inputs = [json.loads(line)["input"] for path in samples for line in path.read_text().splitlines()]
    assert sorted(inputs) == sorted(2 * sorted(set(inputs))) and len(set(inputs)) == 12


def test_every_segment_learns_from_the_mean_of_the_teachers_and_students_before(tmp_path, monkeypatch):
    teachers, students, learn = [], [], updates.learn

    def told(segment, student, teacher, *rest):
        teachers.append(np.asarray(segment.run.teaching(teacher)[0].decoder.embedding[...]))
        state = learn(segment, student, teacher, *rest)
        students.append(np.asarray(state.params.embedding[...]))
        return state

    monkeypatch.setattr(updates, "learn", told)
    rounds.run(experiment(update=EVERY, plan=config.Plan(ema=0.5, ema_every="segment")), tmp_path)
    assert len(teachers) == 3 and (teachers[0] != teachers[1]).any()
    for before, after, student in zip(teachers, teachers[1:], students, strict=False):
        np.testing.assert_array_equal(after, 0.5 * before + 0.5 * student)


@pytest.mark.parametrize("step", [3, 4, 5])
def test_killed_inside_a_segment_and_resumed_equals_never_killed(step, whole, tmp_path, monkeypatch):
    """In the middle of the second segment, at its end, and in the third, whose teacher is on disk."""
    report = update._report
    with monkeypatch.context() as patch:
        patch.setattr(update, "_report", lambda number, *rest: die() if number == step else report(number, *rest))
        with pytest.raises(Killed):
            rounds.run(experiment(update=EVERY, plan=config.Plan(ema=0.5, ema_every="segment")), tmp_path)
    rounds.run(experiment(update=EVERY, plan=config.Plan(ema=0.5, ema_every="segment")), tmp_path)
    assert_same_end(tmp_path, whole)


@pytest.mark.parametrize("where", ["ask", "keep_answers", "follow"])
def test_killed_between_the_stages_of_a_segment_and_resumed_equals_never_killed(where, whole, tmp_path, monkeypatch):
    module = succession if where == "follow" else stages
    original = getattr(module, where)
    with monkeypatch.context() as patch:
        patch.setattr(module, where, lambda part, *rest: die() if part.segment == 1 else original(part, *rest))
        with pytest.raises(Killed):
            rounds.run(experiment(update=EVERY, plan=config.Plan(ema=0.5, ema_every="segment")), tmp_path)
    rounds.run(experiment(update=EVERY, plan=config.Plan(ema=0.5, ema_every="segment")), tmp_path)
    assert_same_end(tmp_path, whole)


def test_a_run_in_segments_leaves_its_student(whole):
    run = opening.reopen(whole)
    assert rounds.last_student(run, 0) is not None and outcome(whole)[0]["rollouts"]["sampled"] == 24
    kept = sorted(path.name for path in (whole / "checkpoints/seed_0/round_0").iterdir())
    assert kept == ["segment_2"]


def test_the_schedule_has_an_update_for_every_batch_of_every_segment(tmp_path):
    """Also where the shares of the inputs do not come out even, and solved examples are replayed in each."""
    cfg = experiment(
        inputs=config.Inputs(pool=True, limit=10),
        sources=(config.FromTeacher(), config.Written((config.Labelled("plural", 3),))),
        optim=config.Optim(lr=1e-3, schedule="linear"),
        update=config.Update(epochs=1, batch=4, every=2),
        score=config.Score(examples=2, measures=()),
        keep=config.Keep(filters=()),
    )
    rounds.run(cfg, tmp_path)
    found = Journal(tmp_path / "journal.json").results()
    assert found["seed 0/round 0/segments"] == {"segments": 2, "planned": 4}
    rates = [line["lr"] for line in metrics.read(tmp_path / "metrics.jsonl")]
    np.testing.assert_allclose(rates, [1e-3, 7.5e-4, 5e-4, 2.5e-4], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score.every": "segment"}, "is for rounds in segments: set training.update.every"),
        ({"training.update.every": -1}, "update.every must be at least 0, got -1"),
        ({"training.update.every": 2, "training.tune.lrs": "1e-3"}, "choose one learning rate, without tune.lrs"),
        ({"plan.ema": 1.5}, "plan.ema must be between 0 and 1, got 1.5"),
        ({"plan.ema": 0.5, "plan.ema_every": "segment"}, "with plan.ema_every='segment' for training.update.every"),
        (
            {"plan.ema": 0.5, "plan.ema_every": "segment", "training.update.every": 2, "plan.repeat": 2},
            "averages inside a round, and the plan has several",
        ),
        ({"plan.order": "recursive", "plan.ema": 0.5, "student.kind": "kv_prefix"}, "sides that are unlike"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(config.UserError, match=message):
        config.check.validate(config.override(experiment(), changes))


def test_scores_inside_a_round_change_nothing_and_are_told(whole, tmp_path):
    """After every segment but the last, whose score is the round's; weights and answers are those of a run without."""
    plan, score = config.Plan(ema=0.5, ema_every="segment"), dataclasses.replace(experiment().score, every="segment")
    rounds.run(experiment(update=EVERY, plan=plan, score=score), tmp_path)
    without, with_segments = outcome(whole)[0], outcome(tmp_path)[0]
    assert list(with_segments["segments"]) == ["round 0, segment 0", "round 0, segment 1"] and not without["segments"]
    assert with_segments["scores"] == without["scores"] and with_segments["rollouts"] == without["rollouts"]
    kl = with_segments["measures"]["held_out_kl"]
    assert kl["round 0, segment 0"]["mean"] != kl["round 0, segment 1"]["mean"]
    assert kl["after"] == without["measures"]["held_out_kl"]["after"]
    for ours, theirs in zip(weights(tmp_path), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "round 0, segment 1" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("call", [1, 2])
def test_killed_while_a_student_is_scored_inside_a_round_and_resumed_equals_never_killed(call, tmp_path, monkeypatch):
    score = config.Score(examples=4, measures=(), every="segment")
    cfg, calls, original = experiment(update=EVERY, score=score), [], scores.score_student

    def dying(*arguments):
        calls.append(arguments)
        return die() if len(calls) == call else original(*arguments)

    rounds.run(cfg, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(scores, "score_student", dying)
        with pytest.raises(Killed):
            rounds.run(cfg, tmp_path / "again")
    rounds.run(cfg, tmp_path / "again")
    assert_same_end(tmp_path / "again", tmp_path / "whole")
