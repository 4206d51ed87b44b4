"""Runs a student for each task, number of demonstrations and seed, and makes the paper's Table 2: see config.py."""

import argparse
import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import cdjax
from cdjax.errors import UserError
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.demonstrations import config

QUESTION = "Is it better to distil a few demonstrations than to fine-tune on them?"
STAGES = {
    "teacher": "teacher",
    "before": "before",
    "after": "seed {}/round 0/score",
    "gradient descent": "seed {}/baseline gradient_descent/score",
    config.AS_PAPER: f"seed {{}}/baseline {config.AS_PAPER}/score",
}
NAMES = {
    "teacher": "teacher, with the demonstrations",
    "before": "student before",
    "after": "student after",
    "gradient descent": "gradient descent, tuned alike",
    config.AS_PAPER: "gradient descent, as in the paper",
}
PAPER = {  # Table 2, exact set match on SPIDER, by number of demonstrations
    "teacher": {4: "27.7", 8: "28.2"},
    "before": {4: "0.3", 8: "0.3"},
    "after": {4: "22.1", 8: "27.9"},
    config.AS_PAPER: {4: "13.4", 8: "18.9"},
}
SIDES = {"round 0": "student after", "gradient_descent": "gradient descent"}  # that are tuned
Grades: TypeAlias = dict[tuple[str, int, int], dict[str, list[float]]]  # task, shots, seed -> side -> grades


def main(argv: Sequence[str] | None = None) -> Grades:
    """The command. Returns all grades."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--databases", default="", help="of SPIDER, separated by commas, in the place of the small tasks")
    own.add_argument("--model", default=config.MODEL, help="another one, for databases")
    args = claims.arguments("demonstrations", QUESTION, argv, own=[own])
    if args.model != config.MODEL and not args.databases:
        raise UserError("--model: the small tasks' page is of one model; another is for --databases")
    names = args.databases.split(",") if args.databases else config.TINY_TASKS if args.tiny else config.TASKS
    shots = config.TINY_SHOTS if args.tiny else config.SHOTS
    spider = f"--data-dir DIR --model {args.model} --databases {args.databases}"
    grades: Grades = {}
    chosen: dict[tuple[str, int, int], dict[str, Any]] = {}
    runs = []
    every = {
        (name, count, seed): config.get_config(name, count, seed, args.data_dir, args.model, tiny=args.tiny)
        for seed, name, count in itertools.product(args.seeds, names, shots)
    }
    for (name, count, seed), cfg in every.items():
        workdir = args.workdir / f"{name.replace(' ', '_')}_{count}" / f"seed_{seed}"
        runs.append(cdjax.run(cfg, workdir))
        grades[name, count, seed] = read(workdir, seed)
        chosen[name, count, seed] = runs[-1]["chosen"]
    how = [spider] if args.databases else []
    made = claims.made_by("demonstrations", args.seeds, runs, *how)
    differs = "; ".join([config.SPIDER_DIFFERENT if args.databases else config.DIFFERENT, *ends(chosen)])
    judged = judge(grades, made, differs, "SPIDER: " if args.databases else "")
    name = f"results{'_spider' if args.databases else ''}.md"
    claims.publish(args, page(grades, chosen, made, differs), judged, name)
    return grades


def read(workdir: Path, seed: int) -> dict[str, list[float]]:
    """Every side's grades of one run."""
    found = Journal(workdir / "journal.json").results()
    return {side: found[stage.format(seed)]["grades"] for side, stage in STAGES.items()}


def together(grades: Grades, count: int, side: str, name: str | None = None) -> list[list[float]]:
    """[seeds][examples], the examples of each task after another, or of one task."""
    names = [task for task in dict.fromkeys(key[0] for key in grades) if name in (None, task)]
    keys = [[(task, count, seed) for task in names] for seed in dict.fromkeys(key[2] for key in grades)]
    return [sum((grades[key][side] for key in row), []) for row in keys]


def page(grades: Grades, chosen: Mapping[Any, Mapping[str, Any]], made: Mapping[str, Any], differs: str) -> str:
    """results.md: the paper's table with ours beside, every task, and what validation examples chose."""
    tasks, shots = (list(dict.fromkeys(key[at] for key in grades)) for at in (0, 1))
    lines = [
        "# A few demonstrations, distilled or fine-tuned on (paper, 4.2, Table 2)",
        "",
        f"Per cent right of the test examples of {', '.join(tasks)}, mean of seeds",
        f"{', '.join(map(str, made['seeds']))}, each with its own demonstrations; 95 % intervals over seeds",
        f"and examples. What differs from the paper: {differs}.",
        "",
        f"| |{''.join(f' {count} shown: paper | ours |' for count in shots)}",
        "|---" * (1 + 2 * len(shots)) + "|",
    ]
    for side, title in NAMES.items():
        cells = [
            f"{PAPER.get(side, {}).get(count, '-')} | {claims.percent(together(grades, count, side))}"
            for count in shots
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "By task:", "", f"| | shown | {' | '.join(tasks)} |", "|---" * (2 + len(tasks)) + "|"]
    for side, title in NAMES.items():
        for count in shots:
            row = " | ".join(f"{100 * np.mean(together(grades, count, side, task)):.0f}" for task in tasks)
            lines.append(f"| {title} | {count} | {row} |")
    lines += ["", "How often each point was chosen, as learning rate and share of the updates:", ""]
    for side, title in SIDES.items():
        points = Counter(point(one, side) for one in chosen.values())
        lines.append(f"- {title}: {', '.join(f'{p} {n}x' for p, n in sorted(points.items()))}")
    lines += ["", claims.source(made)]
    return "\n".join(lines) + "\n"


def ends(chosen: Mapping[Any, Mapping[str, Any]]) -> list[str]:
    """Of which side a rate beyond the grid might be better: it chose one at its ends most often."""
    found = []
    for side, title in SIDES.items():
        ((rate, times),) = Counter(picked(one, side)["lr"] for one in chosen.values()).most_common(1)
        if rate in (min(config.LRS), max(config.LRS)):
            told = f"{title} chose a learning rate at an end of the grid, {rate:g}, {times} of {len(chosen)} times"
            found.append(f"{told}: one beyond might be better")
    return found


def picked(chosen: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """The chosen point of the grid."""
    (found,) = (one for name, one in chosen.items() if name.endswith(side))
    return found


def point(chosen: Mapping[str, Any], side: str) -> str:
    """The chosen point, as learning rate and share of the updates."""
    found, whole = picked(chosen, side), config.SCORED if side == "round 0" else config.EPOCHS
    return f"{found['lr']:g} at {found['epochs'] / whole:.0%}"


def judge(grades: Grades, made: Mapping[str, Any], differs: str, where: str = "") -> list[claims.Claim]:
    """After against gradient descent, for each number of demonstrations: tuned alike, and as in the paper."""
    found = []
    for count in dict.fromkeys(key[1] for key in grades):
        after = together(grades, count, "after")
        for side, paper in (
            ("gradient descent", "none"),
            (config.AS_PAPER, f"{PAPER['after'].get(count, '-')} and {PAPER[config.AS_PAPER].get(count, '-')}"),
        ):
            text = f"{where}{count} demonstrations: distilled, they are worth more than {NAMES[side]}"
            against = together(grades, count, side)
            one = claims.compared(text, paper, after, against, made, reason=differs)
            if not one.holds:
                teacher, base = (100 * np.mean(rows) for rows in (together(grades, count, "teacher"), against))
                why = f"at {base:.1f} it is no worse than the teacher, {teacher:.1f}, which the student learns from"
                why = why if base >= max(teacher, 100 * np.mean(after)) else "the interval has both signs"
                one = dataclasses.replace(one, reason=f"{why}; {differs}")
            found.append(one)
    return found


if __name__ == "__main__":
    claims.command(main)
