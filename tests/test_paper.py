"""Each experiment of the paper runs by its own command, on a random model, and its numbers are what they must be."""

import json

import numpy as np
import pytest

from cdjax import report
from experiments.paper.facts import __main__ as facts


def test_facts(tmp_path, capsys):
    found = facts.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    runs = [path for path in tmp_path.iterdir() if path.is_dir()]
    weights = {"paraphrase": 2, "neighbourhood": 2, "attribute": 1}  # prompts of a fact in the sample
    told = [json.loads((run / "results.json").read_text())["scores"] for run in runs]
    for side in facts.SIDES:
        for what, field, scale in (("score", "mean", 100), ("magnitude", "magnitude", 1)):
            parts = [n * np.mean(found[part, side, what]) for part, n in weights.items()]
            assert sum(parts) / 5 == pytest.approx(scale * np.mean([scores[side][field] for scores in told]))
    assert (
        abs(np.subtract(found["paraphrase", "after", "magnitude"], found["paraphrase", "before", "magnitude"])).min()
        > 0
    )
    shown = f"magnitude {told[0]['after']['magnitude']:+.1f}"
    assert shown in (runs[0] / report.PAGE).read_text() and shown in report.table(runs)
    mean, (low, high) = facts.overall(found, "paraphrase", "after", "score")
    assert f"| paraphrase | after | {mean:.1f} [{low:.1f}, {high:.1f}] |" in capsys.readouterr().out
    claims = json.loads((tmp_path / "claims.json").read_text())
    gained = next(one for one in claims if one["claim"].endswith("paraphrase score rises"))
    assert len(claims) == 4 and gained["holds"] == (gained["ci95"][0] > 0)
