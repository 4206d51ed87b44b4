"""The demonstrations that are most like an input."""

import json
import sys

import pytest

from cdjax import config
from tests.command import run_tiny

pytest.importorskip("bm25s", reason="pip install 'cdjax[select]'")
INPUTS = ("the cat sat", "the dog sat", "a cat and a dog", "7 + 5", "the", "+", "?", "The Cat")
SHOWN = tuple(config.Demonstration(text, str(number)) for number, text in enumerate(INPUTS))


def nearest(text, shots, **how):
    (row,) = config.BM25(**how)(SHOWN, [text], shots)
    return [one.input for one in row]


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("cat", ["The Cat", "the cat sat", "a cat and a dog"]),
        ("what is 5 + 5?", ["7 + 5"]),
        ("+", ["the cat sat"]),
        ("  the CAT sat", ["The Cat", "the dog sat"]),
        ("* +", ["the cat sat", "the dog sat"]),
        ("", ["the cat sat", "the dog sat"]),
    ],
)
def test_what_shares_rare_words_comes_next_to_the_input_and_of_equals_the_earlier(text, like):
    assert nearest(text, len(like), nearest="first") == like
    assert nearest(text, len(like)) == like[::-1]


def test_a_row_depends_on_no_other_and_never_has_its_own_answer():
    rows = config.BM25()(SHOWN, INPUTS, 6)
    assert rows == [config.BM25()(SHOWN, [text], 6)[0] for text in INPUTS]
    assert all(text not in {one.input for one in row} for text, row in zip(INPUTS, rows, strict=True))
    with pytest.raises(config.UserError, match="for the input 'the' there are 7 other demonstrations"):
        config.BM25()(SHOWN, ["the"], 8)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(config.UserError, match=r"needs the package bm25s; pip install 'cdjax\[select\]'"):
        nearest("cat", 1)


def test_a_run_of_the_command_line_selects_by_it(tmp_path):
    told = run_tiny(tmp_path, operations__0__context__select="bm25")["rollouts"]
    assert told["sampled"] == 8 == told["kept"] + sum(told["dropped"].values())
    (operation,) = json.loads((tmp_path / "config.json").read_text())["operations"]
    assert operation["context"]["select"] == {"kind": "bm25", "nearest": "last"}
