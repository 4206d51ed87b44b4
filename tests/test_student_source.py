"""On-policy distillation: the student writes, the teacher says what it would have said at every token."""

import json

import numpy as np
import pytest

from cdjax import config
from cdjax.distill import rounds, stages
from cdjax.learn import update
from cdjax.workdir import metrics
from tests.command import run_tiny
from tests.test_rounds import Killed, assert_same_end, die, experiment

ON_POLICY = experiment(sources=(config.FromStudent(),), update=config.Update(epochs=2, batch=4, every=2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An on-policy run of three segments that was never interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    rounds.run(ON_POLICY, workdir)
    return workdir


def test_the_student_comes_closer_to_the_teacher_on_its_own_answers(whole):
    kl = json.loads((whole / "results.json").read_text())["measures"]["held_out_kl"]
    assert kl["after"]["mean"] < kl["before"]["mean"]


def test_every_segment_has_answers_of_the_student_as_it_is_then(tmp_path, monkeypatch):
    writers, sample = [], stages.Request.sample

    def told(request, side, *rest):
        writers.append((side, np.asarray(request.student.decoder.embedding[...])))
        return sample(request, side, *rest)

    monkeypatch.setattr(stages.Request, "sample", told)
    rounds.run(ON_POLICY, tmp_path)
    assert [side for side, _ in writers] == ["student"] * 3
    assert all((one != other).any() for (_, one), (_, other) in zip(writers, writers[1:], strict=False))


@pytest.mark.parametrize("step", [3, 5])
def test_killed_inside_a_segment_and_resumed_equals_never_killed(step, whole, tmp_path, monkeypatch):
    report = update._report
    with monkeypatch.context() as patch:
        patch.setattr(update, "_report", lambda number, *rest: die() if number == step else report(number, *rest))
        with pytest.raises(Killed):
            rounds.run(ON_POLICY, tmp_path)
    rounds.run(ON_POLICY, tmp_path)
    assert_same_end(tmp_path, whole)


def test_it_is_chosen_on_the_command_line(tmp_path):
    segments = {"training__update__every": "2", "training__update__batch": "2"}
    run_tiny(tmp_path, training__sources="student", **segments)
    losses = [line["loss"] for line in metrics.read(tmp_path / "metrics.jsonl")]
    assert len(losses) == 4 and np.isfinite(losses).all()
