"""Metrics outlive kills."""

import json

import numpy as np

from cdjax.workdir import metrics


def test_lines_are_read_back_as_they_were_appended(tmp_path):
    log = metrics.Metrics(tmp_path / "run" / "metrics.jsonl")
    log.append(stage="update", step=1, loss=np.float32(0.5), text="é")
    log.append(stage="sample", seconds=2, text="one\u2028two\x85three")
    assert metrics.read(log.path) == [
        {"stage": "update", "step": 1, "loss": 0.5, "text": "é"},
        {"stage": "sample", "seconds": 2, "text": "one\u2028two\x85three"},
    ]


def test_a_kill_in_the_middle_of_a_line_loses_only_that_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert metrics.read(path) == [{"step": 1}]
    metrics.Metrics(path).append(step=2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2}]


def test_a_step_run_again_after_a_kill_counts_once(tmp_path):
    log = metrics.Metrics(tmp_path / "metrics.jsonl")
    for step, loss in ((1, 3.0), (2, 2.0), (2, 2.5), (3, 1.0)):
        log.append(seed=0, round=0, stage="update", step=step, loss=loss)
    log.append(seed=1, round=0, stage="update", step=2, loss=9.0)
    assert [line["loss"] for line in metrics.read(log.path)] == [3.0, 2.5, 1.0, 9.0]


def test_a_run_that_has_not_begun_has_no_metrics(tmp_path):
    assert metrics.read(tmp_path / "metrics.jsonl") == []
