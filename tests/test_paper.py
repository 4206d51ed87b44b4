"""Each experiment of the paper runs by its own command, on a random model, and its numbers are what they must be."""

import json
import re

import numpy as np
import pytest

from experiments.paper.scratchpad import __main__ as scratchpad


def test_scratchpad(tmp_path, capsys):
    grades = scratchpad.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    run = tmp_path / "digits_1" / "seed_0" / "run"
    told = json.loads((run / "results.json").read_text())
    assert list(grades) == list(scratchpad.PAPER) and {np.shape(rows) for rows in grades.values()} == {(1, 12)}
    assert {name: np.mean(rows) for name, rows in grades.items()} == pytest.approx(
        {name: score["mean"] for name, score in told["scores"].items()}
    )
    stages = json.loads((run / "journal.json").read_text())
    assert all("#" not in answer for answer in stages["teacher"]["result"]["answers"])  # f took it out
    lines = next(run.glob("rollouts/seed_0/**/samples.jsonl")).read_text().splitlines()
    pads = [text for line in lines if re.search("#(.+)#", text := json.loads(line)["text"])]
    assert len(pads) >= told["rollouts"]["kept"] > 0  # the teacher has learned the form of a scratch-pad
    assert grades["before"] == [[0.0] * 12]  # a scratch-pad is no direct answer
    teacher, student = scratchpad.requests([told])
    assert f"{teacher / student:.1f} times fewer" in capsys.readouterr().out
    near, better, fewer = json.loads((tmp_path / "claims.json").read_text())[:3]
    assert [near["holds"], better["holds"]] == [
        np.mean(grades["after"]) >= np.mean(grades["teacher"]) - scratchpad.MARGIN,
        better["ci95"][0] > 0,
    ]
    assert fewer["ci95"][0] == pytest.approx(teacher / student)


def test_accuracy_by_digits_adds_up_to_the_whole():
    lengths = [1, 2, 2, 3]
    rows = [[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    parts = {length: scratchpad.part(rows, lengths, length) for length in (1, 2, 3)}
    assert parts[2] == [[0.0, 1.0], [0.0, 1.0]]
    assert sum(np.mean(own) * len(own[0]) for own in parts.values()) / 4 == pytest.approx(np.mean(rows))
