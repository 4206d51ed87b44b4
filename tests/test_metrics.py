"""Metrics outlive kills; progress speaks where there is a terminal and where there is none."""

import json

import numpy as np
from rich import console

from cdjax import metrics


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


def test_progress_without_a_terminal_is_seldom_and_ends_with_the_whole(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    with metrics.progress("teacher", 10) as advance:
        for _ in range(10):
            now[0] += 2.0
            advance(loss=0.25)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "teacher: 3/10, 0.5/s, 0:14 left loss 0.25",
        "teacher: 6/10, 0.5/s, 0:08 left loss 0.25",
        "teacher: 9/10, 0.5/s, 0:02 left loss 0.25",
        "teacher: 10/10, 0.5/s loss 0.25",
    ]


def test_work_of_an_earlier_run_does_not_count_towards_the_rate(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    with metrics.progress("teacher", 100, done=80) as advance:
        now[0] = 10.0
        advance(10)
    assert capsys.readouterr().err == "teacher: 90/100, 1.0/s, 0:10 left\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    screen = console.Console
    monkeypatch.setattr(metrics.console, "Console", lambda **kwargs: screen(force_terminal=True, width=120, **kwargs))
    with metrics.progress("teacher", 4) as advance:
        advance(4, loss=0.5)
    err = capsys.readouterr().err
    assert "teacher" in err and "4/4" in err and "/s" in err and "loss 0.5" in err


def test_every_new_shape_is_told_once(capsys):
    call = metrics.tell_compilations(lambda x, y: x + y, lambda x, y: f"the sum for {x} tokens")
    assert [call(1, 2), call(1, 3), call(2, 2), call(1, 2)] == [3, 4, 4, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[::2] == ["compiling the sum for 1 tokens", "compiling the sum for 2 tokens"]
    assert lines[1::2] == [f"compiled the sum for {x} tokens in 0.0 s" for x in (1, 2)]
