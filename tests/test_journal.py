"""A stage runs once, and says at which commit."""

import subprocess

import pytest

from cdjax.workdir import journal
from cdjax.workdir.journal import Journal


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of a package of one file and a page."""

    def git(*what):
        subprocess.run(["git", "-C", str(tmp_path), *what], check=True, capture_output=True)

    code, page = tmp_path / "package" / "journal.py", tmp_path / "page.md"
    code.parent.mkdir()
    code.write_text("one = 1\n")
    page.write_text("none yet\n")
    (tmp_path / "setup.py").write_text("\n")
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=one", "-c", "user.email=one@one", "commit", "--quiet", "--message=one")
    monkeypatch.setattr(journal, "__file__", str(code))
    return tmp_path


def test_a_stage_runs_once(tmp_path):
    calls = []
    for _ in range(2):
        stages = Journal(tmp_path / "journal.json")
        assert stages.once("sample", lambda: calls.append(1) or {"n": 3}) == {"n": 3}
    assert calls == [1] and stages.results() == {"sample": {"n": 3}}


def test_a_stage_that_fails_is_not_done(tmp_path):
    stages = Journal(tmp_path / "journal.json")
    stages.once("first", lambda: 1)
    with pytest.raises(RuntimeError):
        stages.once("second", lambda: (_ for _ in ()).throw(RuntimeError()))
    again = Journal(tmp_path / "journal.json")
    assert again.done("first") and not again.done("second")


def test_a_stage_keeps_the_commit_that_it_ran_at(tmp_path, monkeypatch):
    for stage, commit in (("teacher", "one"), ("before", "one"), ("score", "two"), ("teacher", "three")):
        monkeypatch.setattr(journal, "commit", lambda commit=commit: commit)
        Journal(tmp_path / "journal.json").once(stage, lambda: 1)
    assert Journal(tmp_path / "journal.json").commits() == ["one", "two"]


def test_a_commit_is_marked_if_code_was_changed_since_and_not_for_what_commands_write(checkout):
    commit = journal.commit.__wrapped__
    clean = commit()
    assert len(clean) == 12 and int(clean, 16)
    (checkout / "page.md").write_text("a result\n")
    assert commit() == clean
    (checkout / "setup.py").write_text("changed = 1\n")
    assert commit() == clean + "+"


def test_a_package_outside_of_a_checkout_has_no_commit(checkout, monkeypatch):
    monkeypatch.setattr(journal, "__file__", str(checkout / "package" / "other.py"))
    assert journal.commit.__wrapped__() == ""
