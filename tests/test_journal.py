import pytest

from cdjax.journal import Journal


def test_a_stage_runs_once(tmp_path):
    calls = []
    for _ in range(2):
        journal = Journal(tmp_path / "journal.json")
        assert journal.once("sample", lambda: calls.append(1) or {"n": 3}) == {"n": 3}
    assert calls == [1] and journal.results() == {"sample": {"n": 3}}


def test_a_stage_that_fails_is_not_done(tmp_path):
    journal = Journal(tmp_path / "journal.json")
    journal.once("first", lambda: 1)
    with pytest.raises(RuntimeError):
        journal.once("second", lambda: (_ for _ in ()).throw(RuntimeError()))
    again = Journal(tmp_path / "journal.json")
    assert again.done("first") and not again.done("second")
