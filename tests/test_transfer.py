"""The command of the transfer of a skill: `--tiny` trains a teacher and two students of it."""

import json

import numpy as np

from cdjax.language_model import load_model
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.transfer import __main__ as transfer
from tests.test_paper import RUNS


def test_transfer(tmp_path):
    """Both students begin as the model, only one replays, and each is asked for what it was not taught."""
    grades = transfer.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    updates = {}
    for kind in ("with", "without"):
        updates[kind] = Journal(tmp_path / f"{kind}_replay" / "journal.json").results()["seed 0/round 0/update"]
    assert (updates["with"]["solved"], updates["without"]["solved"]) == (4, 0)
    asked = Journal(tmp_path / "with_replay" / "journal.json").results()["before"]
    before = load_model("tiny:0").generate(
        [f"Add the two numbers.\n\nInput: {text}\nOutput:\n" for text in asked["inputs"]], max_new_tokens=96
    )
    assert asked["answers"] == [text.split("\n")[0].strip() for text in before]  # of the model, not of the teacher
    assert updates["with"]["pairs"] == updates["without"]["pairs"] + 4
    for skill in transfer.config.TRANSFER:
        assert [np.shape(grades[skill, side]) for side in ("before", *transfer.SIDES.values())] == [(1, 2)] * 3
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 2


def test_instructions_are_kept_if_those_of_tasks_unlike_the_replayed_ones_are():
    """Gains from replay on tasks like the replayed ones do not count."""
    alone, mixed = transfer.SIDES.values()
    grades = {("addition", "teacher, with the scratch-pad"): [[1.0] * 4]}
    for name in (
        "addition",
        "word_problem",
        *(task for of_kind in transfer.config.INSTRUCTIONS.values() for task in of_kind),
    ):
        likened = name not in transfer.config.INSTRUCTIONS["unlike"]
        for side, grade in (("before", 0.25), (alone, 0.1), (mixed, 1.0 if likened else 0.22)):
            grades[name, side] = [[grade] * 4] * (1 if side == "before" else 2)
    made = claims.made_by("transfer", (0, 1), RUNS)
    adds, solves, keeps, helps = transfer.judge(grades, made)
    assert adds.holds and solves.holds and keeps.holds and helps.holds
    assert keeps.ours.startswith("22.0 and 25.0") and helps.ours.startswith("22.0 and 10.0")
    assert np.shape(transfer.together(grades, "unlike", mixed)) == (2, 28)
    page = transfer.page(grades, dict.fromkeys((alone, mixed), 0.1), made)
    assert "| task1687, sentiment of a tweet | 25.0 [25.0, 25.0] | 10.0 [10.0, 10.0] | 100.0 [100.0, 100.0] |" in page
    grades |= {(name, mixed): [[0.19] * 4] * 2 for name in transfer.config.INSTRUCTIONS["unlike"]}
    assert [claim.holds for claim in transfer.judge(grades, made)] == [True, True, False, True]
