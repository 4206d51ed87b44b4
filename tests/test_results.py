"""What a run says about where it came from."""

import subprocess

import pytest

from cdjax import results


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of a package of one file and a page."""

    def git(*what):
        subprocess.run(["git", "-C", str(tmp_path), *what], check=True, capture_output=True)

    code, page = tmp_path / "package" / "results.py", tmp_path / "page.md"
    code.parent.mkdir()
    code.write_text("one = 1\n")
    page.write_text("none yet\n")
    (tmp_path / "setup.py").write_text("\n")
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=one", "-c", "user.email=one@one", "commit", "--quiet", "--message=one")
    monkeypatch.setattr(results, "__file__", str(code))
    return tmp_path


def test_a_commit_is_marked_if_code_was_changed_since_and_not_for_what_commands_write(checkout):
    clean = results.commit()
    assert len(clean) == 12 and int(clean, 16)
    (checkout / "page.md").write_text("a result\n")
    assert results.commit() == clean
    (checkout / "setup.py").write_text("changed = 1\n")
    assert results.commit() == clean + "+"


def test_a_package_outside_of_a_checkout_has_no_commit(checkout, monkeypatch):
    monkeypatch.setattr(results, "__file__", str(checkout / "package" / "other.py"))
    assert results.commit() == ""
