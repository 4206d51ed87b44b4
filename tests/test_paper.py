"""Every experiment of the paper runs from its command to its claims, on a random model."""

import json

from cdjax.journal import Journal
from experiments.paper.association import __main__ as association


def test_association(tmp_path):
    """Every round is asked under its own numbers, and every test input once under another task's."""
    cells = association.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    shown = [int(one.student.instruction.removeprefix("Task ")) for one in association.tiny("mixed").operations()]
    for kind in association.KINDS:
        found = Journal(tmp_path / kind / "journal.json").results()
        for number, numbers in enumerate(((1, 2), (2, 1), (1, 2))):
            scored = found[f"seed 0/round {number}/score"]
            wrong, asked = scored["wrong_association"], set(zip(scored["operations"], scored["inputs"], strict=True))
            assert sorted(asked) == sorted(zip(wrong["operations"], wrong["inputs"], strict=True)) and len(asked) == 6
            for own, view in zip(wrong["operations"], wrong["views"], strict=True):
                assert shown[own] == numbers[own % 2] != shown[view] and view in scored["operations"]
            assert cells[kind, "wrong", number].grades == [wrong["grades"]]
            joined = [found[f"seed 0/round {number}/operation {own}/inputs"]["tasks"] for own, _ in asked]
            assert all(joined) if kind == "mixed" else not any(joined)
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 4
