"""Runs both students, prints the table, writes results.md and the claims."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import cdjax
from cdjax import config
from cdjax.distill import opening
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.window.config import ALL, DIFFERENT, STUDENTS, get_config, tiny

QUESTION = "Can a student learn from more demonstrations than fit into a prompt?"
PAPER = {"teacher": "-", "before": "14.22 ± 0.8", "after": "16.2 ± 0.6"}  # exact set match in percent
Scored: TypeAlias = dict[tuple[str, str], list[list[float]]]  # student, side -> [seeds][examples]


@dataclasses.dataclass(frozen=True)
class Found:
    """What the table is made of. Examples stand in the same order under every student, side and seed."""

    scored: Scored
    inputs: list[tuple[str, str]]  # each example's task and input
    tokens: dict[str, tuple[int, int]]  # a task's longest prompt with four demonstrations, and shortest with all
    window: int

    def side(self, side: str) -> list[list[float]]:
        """One side's grades as [students][examples], means over seeds: a student's seeds are not students."""
        return [np.mean(rows, 0).tolist() for (_, of), rows in self.scored.items() if of == side]

    def cell(self, student: str, side: str, task: str) -> str:
        of = [task in (one, "all") for one, _ in self.inputs]
        return claims.percent(np.array(self.scored[student, side])[:, of].tolist())


def main(argv: Sequence[str] | None = None) -> Found:
    """The command; returns what the table is made of."""
    args = claims.arguments("window", QUESTION, argv)
    scored: Scored = {}
    runs = []
    for student in STUDENTS:
        cfg = tiny(student) if args.tiny else get_config(student, args.data_dir)
        cfg, workdir = dataclasses.replace(cfg, seeds=args.seeds), args.workdir / student.replace(" ", "_")
        runs.append(cdjax.run(cfg, workdir))
        sides, inputs = read(cfg, workdir)
        scored |= {(student, side): grades for side, grades in sides.items()}
    found = Found(scored, inputs, prompt_tokens(cfg, workdir), cfg.limits.teacher_prompt)
    made = claims.made_by("window", args.seeds, runs)
    claims.publish(args, page(found, made), judge(found, made))
    return found


def read(cfg: config.Experiment, workdir: Path) -> tuple[dict[str, list[list[float]]], list[tuple[str, str]]]:
    """Every side's grades in one student's run, and each example's task and input; none may have been left out."""
    found = Journal(workdir / "journal.json").results()
    if found["teacher"]["over_budget"]:
        raise config.UserError(f"{found['teacher']['over_budget']} test inputs do not fit the window; widen it")
    after = [found[f"seed {seed}/round 0/score"]["grades"] for seed in cfg.seeds]
    sides = {name: [found[name]["grades"]] for name in ("teacher", "before")} | {"after": after}
    tasks = [cfg.operations[number].title for number in found["teacher"]["operations"]]
    return sides, list(zip(tasks, found["teacher"]["inputs"], strict=True))


def prompt_tokens(cfg: config.Experiment, workdir: Path) -> dict[str, tuple[int, int]]:
    """The longest prompt of an ensemble and the shortest with all its demonstrations, over test inputs."""
    run, sizes = opening.open(cfg, workdir), {}
    for assignment in run.assignments:
        view = assignment.views.teacher
        asked = [one.input for one in assignment.task.test[: cfg.score.examples]]
        some, _ = dataclasses.replace(view, overflow="drop").prompts(asked)
        whole, _ = dataclasses.replace(view, context=ALL, budget=2**31, overflow="error").prompts(asked)
        longest = max(map(len, some.contexts)) + max(map(len, some.suffixes))
        sizes[assignment.name] = (longest, min(map(len, whole.whole)))
    return sizes


def page(found: Found, made: Mapping[str, Any]) -> str:
    """results.md: every task and both students, and the paper's numbers."""
    seeds, heads = ", ".join(map(str, made["seeds"])), [f"{one}, {side}" for one in STUDENTS for side in PAPER]
    lines = [
        "# More demonstrations than the window holds (paper, text-to-SQL with eight examples)",
        "",
        f"Per cent of {len(found.inputs)} test inputs answered right, mean of seeds {seeds}, and 95 % intervals over",
        "seeds and inputs.",
        f"The window is {found.window} tokens. The teacher reads eight prompts of four demonstrations, out of eight",
        "that do not fit into one; a student has the first four or the last four of them, before and after.",
        "",
        f"| | tokens with 4, at most | with 8, at least | {' | '.join(heads)} |",
        "|---" * (3 + len(heads)) + "|",
    ]
    for task in (*found.tokens, "all"):
        sizes = found.tokens.get(task, ("", ""))
        cells = [found.cell(student, side, task) for student in STUDENTS for side in PAPER]
        lines.append(f"| {' | '.join([task, *map(str, sizes), *cells])} |")
    lines += ["", "| | paper, exact set match | ours, both students |", "|---|---|---|"]
    for side, paper in PAPER.items():
        lines.append(f"| {side} | {paper} | {100 * np.mean(found.side(side)):.1f} |")
    lines += ["", "Over students, each the mean of its seeds, and over inputs:", ""]
    for one in judge(found, made):
        verdict, (low, high) = "holds" if one.holds else "does not hold", one.ci95
        lines.append(f"- {one.claim}: **{verdict}** ({one.ours} [{low:.1f}, {high:.1f}])")
    lines += ["", f"What differs from the paper: {DIFFERENT}."]
    lines += ["", claims.source(made)]
    return "\n".join(lines) + "\n"


def judge(found: Found, made: Mapping[str, Any]) -> list[claims.Claim]:
    """The paper's claim, and that there is something to learn."""

    def claim(text: str, paper: str, one: str, other: str) -> claims.Claim:
        return claims.compared(text, paper, found.side(one), found.side(other), made, reason=DIFFERENT)

    return [
        claim(
            "Eight demonstrations, of which four fit, are learned: a student with its own four is better than before",
            "after 16.2 ± 0.6, before 14.22 ± 0.8",
            "after",
            "before",
        ),
        claim("An ensemble of prompts with four of eight demonstrations is better than four", "-", "teacher", "before"),
    ]


if __name__ == "__main__":
    claims.command(main)
