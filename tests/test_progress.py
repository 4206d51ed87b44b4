"""Progress speaks where there is a terminal and where there is none."""

from rich import console

from cdjax import progress


def test_progress_without_a_terminal_is_seldom_and_ends_with_the_whole(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress("teacher", 10) as advance:
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
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress("teacher", 100, done=80) as advance:
        now[0] = 10.0
        advance(10)
    assert capsys.readouterr().err == "teacher: 90/100, 1.0/s, 0:10 left\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    screen = console.Console
    monkeypatch.setattr(progress.console, "Console", lambda **kwargs: screen(force_terminal=True, width=120, **kwargs))
    with progress.progress("teacher", 4) as advance:
        advance(4, loss=0.5)
    err = capsys.readouterr().err
    assert "teacher" in err and "4/4" in err and "/s" in err and "loss 0.5" in err


def test_every_new_shape_is_told_once(capsys):
    call = progress.tell_compilations(lambda x, y: x + y, lambda x, y: f"the sum for {x} tokens")
    assert [call(1, 2), call(1, 3), call(2, 2), call(1, 2)] == [3, 4, 4, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[::2] == ["compiling the sum for 1 tokens", "compiling the sum for 2 tokens"]
    assert lines[1::2] == [f"compiled the sum for {x} tokens in 0.0 s" for x in (1, 2)]
