"""Runs naive and mixed inputs, prints the table, writes results.md and the claims."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import cdjax
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.association.config import DIFFERENT, KINDS, TASKS, get_config, tiny

ROUNDS = range(3)
QUESTION = "Does a student learn which task a number stands for, and learn it anew when the numbers change places?"
PAPER = {  # Table 6, the mean of COPA, Meta-WOZ, TweetQA and ROCStories after rounds 1 and 2
    ("teacher", "correct"): (81, 81),
    ("before", "correct"): (49, 49),
    ("before", "wrong"): (48, 48),
    ("naive", "correct"): (63, 68),
    ("naive", "wrong"): (59, 61),
    ("mixed", "correct"): (69, 70),
    ("mixed", "wrong"): (15, 16),
}
Grades: TypeAlias = list[list[float]]  # [seeds][examples], the examples of each task after another
MOST_LOST = 10  # points of correct association, for two to count as about equal


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student after one round, correct or wrong association; `tasks` says which task each example is of."""

    grades: Grades
    tasks: list[int]

    def mean(self, task: int | None = None) -> float:
        of = [task is None or task == one for one in self.tasks]
        return float(np.mean(np.array(self.grades)[:, of]))

    def __str__(self) -> str:
        return claims.percent(self.grades)


Cells: TypeAlias = Mapping[tuple[str, str, int], Cell]  # student, measure, round


def main(argv: Sequence[str] | None = None) -> Cells:
    """The command; returns what the table is made of."""
    args = claims.arguments("association", QUESTION, argv)
    cells: dict[tuple[str, str, int], Cell] = {}
    runs = []
    for kind in KINDS:
        cfg = tiny(kind) if args.tiny else get_config(kind, args.data_dir)
        runs.append(cdjax.run(dataclasses.replace(cfg, seeds=args.seeds), args.workdir / kind))
        cells |= read(kind, args.workdir / kind, args.seeds)
    made = claims.made_by("association", args.seeds, runs)
    claims.publish(args, page(cells, made), judge(cells, made))
    return cells


def read(kind: str, workdir: Path, seeds: Sequence[int]) -> dict[tuple[str, str, int], Cell]:
    """The cells of one run; the teacher and the student before are scored under each round's numbers too."""
    found = Journal(workdir / "journal.json").results()
    cells = {}
    for number in ROUNDS:
        after = [found[f"seed {seed}/round {number}/score"] for seed in seeds]
        of = set(after[0]["operations"])
        cells[kind, "correct", number] = _cell(after, of)
        cells[kind, "wrong", number] = _cell([one["measures"]["wrong_association"] for one in after], of)
        cells["teacher", "correct", number] = _cell([found["teacher"]], of)
        cells["before", "correct", number] = _cell([found["before"]], of)
        if number != 1:  # before any round only the first and last numbers are asked about
            cells["before", "wrong", number] = _cell([found["before"]["measures"]["wrong_association"]], of)
    return cells


def _cell(graded: Sequence[Mapping[str, Any]], operations: set[int]) -> Cell:
    rows = [row for row, number in enumerate(graded[0]["operations"]) if number in operations]
    tasks = [graded[0]["operations"][row] % len(operations) for row in rows]
    return Cell([[one["grades"][row] for row in rows] for one in graded], tasks)


def page(cells: Cells, made: Mapping[str, Any]) -> str:
    """results.md: Table 1 with the paper's numbers beside, after every round, and Table 6."""
    seeds, n = ", ".join(map(str, made["seeds"])), len(cells["teacher", "correct", 0].tasks)
    lines = [
        "# Which task a number stands for (paper, Tables 1 and 6)",
        "",
        f"Per cent of {n} test inputs of four tasks, mean of seeds {seeds}, 95 % intervals over seeds and",
        "inputs. Round 2 gives every task the next one's number, round 3 goes back. Under wrong association low is",
        "good: the input is shown with another task's number, the other three in turn.",
        f"What differs from the paper: {DIFFERENT}.",
        "",
        "| | association | round 1, paper | ours | round 2, paper | ours | round 3 (paper: none), ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for student, measure in PAPER:
        ours = [str(cells.get((student, measure, number), "-")) for number in ROUNDS]
        first, second = PAPER[student, measure]
        lines.append(f"| {student} | {measure} | {first} | {ours[0]} | {second} | {ours[1]} | {ours[2]} |")
    tasks = sorted(set(cells["teacher", "correct", 0].tasks))
    heads = " | ".join(list(TASKS)[task] for task in tasks)
    lines += ["", "By task, correct / wrong:", "", f"| | {heads} |", "|---" * (1 + len(tasks)) + "|"]
    for student in ("teacher", "before", *KINDS):
        for number in ROUNDS[: 1 if student == "teacher" else None]:
            row = " | ".join(_both(cells, student, number, task) for task in tasks)
            lines.append(f"| {student}, round {number + 1} | {row} |")
    lines += ["", claims.source(made)]
    return "\n".join(lines) + "\n"


def _both(cells: Cells, student: str, number: int, task: int) -> str:
    found = [cells.get((student, measure, number)) for measure in ("correct", "wrong")]
    return " / ".join("-" if one is None else f"{100 * one.mean(task):.0f}" for one in found)


def judge(cells: Cells, made: Mapping[str, Any]) -> list[claims.Claim]:
    """The paper's claims on round 2, and that a third round restores the first."""

    def claim(text: str, paper: str, one: tuple[str, str, int], other: tuple[str, str, int], least: float):
        return claims.compared(text, paper, cells[one].grades, cells[other].grades, made, least=least, reason=DIFFERENT)

    return [
        claim(
            "After overwriting, more tasks are done under their new numbers than before (mixed inputs)",
            "70 and 49",
            ("mixed", "correct", 1),
            ("before", "correct", 1),
            0,
        ),
        claim(
            "After overwriting, mixed inputs are about as right as naive ones: less than 10 points behind",
            "70 and 68",
            ("mixed", "correct", 1),
            ("naive", "correct", 1),
            -MOST_LOST,
        ),
        claim(
            "After overwriting, naive inputs have a wrong association at least 20 points above mixed ones",
            "61 and 16",
            ("naive", "wrong", 1),
            ("mixed", "wrong", 1),
            20,
        ),
        claim(
            "A third round, back to the first numbers, restores the first association: less than 10 points lost",
            "none",
            ("mixed", "correct", 2),
            ("mixed", "correct", 0),
            -MOST_LOST,
        ),
    ]


if __name__ == "__main__":
    claims.command(main)
