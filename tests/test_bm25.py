"""The demonstrations that are most like an input."""

import json
import sys
from pathlib import Path

import pytest

from cdjax import cli, config

pytest.importorskip("bm25s", reason="pip install 'cdjax[select]'")
TINY = str(Path(__file__).parent.parent / "configs" / "tiny.py")
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
    changes = [
        "operations.0.context.select=bm25",
        "operations.0.inputs.written=0",
        "operations.0.inputs.limit=8",
        "training.update.epochs=1",
        "training.update.batch=8",
    ]
    changes += [
        "score.examples=2",
        "score.measures=",
        "baselines=()",
        "limits.completion=4",
        "training.sampling.batch=8",
    ]
    sets = [part for change in changes for part in ("--set", change)]
    assert cli.main(["run", TINY, *sets, "--workdir", str(tmp_path)]) == 0
    told = json.loads((tmp_path / "results.json").read_text())["rollouts"]
    assert told["sampled"] == 8 == told["kept"] + sum(told["dropped"].values())
    assert json.loads((tmp_path / "config.json").read_text())["operations"][0]["context"]["select"] == {
        "kind": "bm25",
        "nearest": "last",
    }
