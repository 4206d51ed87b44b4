"""Each experiment of the paper runs by its own command, on a random model, and its numbers are what they must be."""

import json

import numpy as np
import pytest

from cdjax import report
from experiments.paper import claims
from experiments.paper.facts import __main__ as facts


def test_facts(tmp_path, capsys):
    found = facts.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    run = next(path for path in tmp_path.iterdir() if path.is_dir())
    told = json.loads((run / "results.json").read_text())["scores"]
    weights = {"paraphrase": 2, "neighbourhood": 2, "attribute": 1}  # prompts of a fact in the sample
    for side in facts.SIDES:
        for what, field, scale in (("score", "mean", 100), ("magnitude", "magnitude", 1)):
            parts = [n * np.mean(found[part, side, what]) for part, n in weights.items()]
            assert sum(parts) / 5 == pytest.approx(scale * told[side][field])
    assert found["paraphrase", "after", "magnitude"] != found["paraphrase", "before", "magnitude"]
    shown = f"magnitude {told['after']['magnitude']:+.1f}"
    assert shown in (run / report.PAGE).read_text() and shown in report.table([run])
    mean, (low, high) = facts.overall(found, "paraphrase", "after", "score")
    assert f"| paraphrase | after | {mean:.1f} [{low:.1f}, {high:.1f}] |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 4


def test_claims_about_facts_are_decided_by_differences_within_a_fact():
    """Facts differ much, but each gains 10 to 20 points in every seed; neighbours' lose as often as they gain."""
    level = np.linspace(0, 75, 6)
    gain, turn = np.array([[10.0, 20.0]] * 6), np.array([[20.0, 0.0], [-20.0, 0.0]] * 3)
    found = {}
    for part, change in (("paraphrase", gain), ("neighbourhood", turn)):
        for what in ("score", "magnitude"):
            found[part, "teacher", what] = found[part, "before", what] = level[:, None].tolist()
            found[part, "after", what] = (level[:, None] + change).tolist()
    made = claims.made_by("facts", (0, 1), {"update": 60.0})
    near, gained, surer, lost = facts.claimed(found, (0, 1), made)
    assert near.holds and gained.holds and surer.holds and not lost.holds
    assert gained.ci95 == (pytest.approx(15), pytest.approx(15)) and lost.ci95[0] < 0 < lost.ci95[1]
    assert (gained.seeds, gained.minutes) == ((0, 1), 1.0)
    found["paraphrase", "teacher", "score"] = (level[:, None] + 15 + facts.MARGIN + 1).tolist()
    assert not facts.claimed(found, (0, 1), made)[0].holds
