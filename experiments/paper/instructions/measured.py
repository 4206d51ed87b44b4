"""One run for each task of Natural-Instructions -> what its test inputs were graded, under every side.

In: the options of the command, a config for a task. Out: `Measured` of every task, and what made them.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import cdjax
from cdjax.config import Experiment
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.instructions import config

SIDES = ("teacher", "before", "after")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One task. Grades are Rouge-L in 0 .. 1, [seeds][examples], of the same examples in the same order."""

    task: str
    grades: dict[str, list[list[float]]]  # teacher and before have one seed: nothing is drawn there
    tokens: dict[str, float]  # of a request, the prompt and its answer
    answers: dict[str, list[list[str]]]  # as the grades

    def means(self, side: str) -> np.ndarray:
        """The side's mean over examples for each seed, in points of 100."""
        return 100 * np.mean(self.grades[side], axis=1)

    def mean(self, side: str) -> float:
        return float(self.means(side).mean())


def run(
    experiment: str, args: argparse.Namespace, get_config: Callable[..., Experiment]
) -> tuple[list[Measured], dict[str, Any]]:
    """Runs one task after another."""
    folder = args.data_dir or (str(config.SAMPLE) if args.tiny else "")
    found, runs = [], []
    for task in config.TINY_TASKS if args.tiny else config.TASKS:
        workdir = args.workdir / task
        runs.append(cdjax.run(get_config(task, folder, args.seeds, tiny=args.tiny), workdir))
        jax.clear_caches()  # the next task has other lengths: what was compiled for this one would only take memory
        found.append(measure(task, workdir, args.seeds))
    return found, claims.made_by(experiment, args.seeds, runs)


def measure(task: str, workdir: Path, seeds: Sequence[int]) -> Measured:
    """What a finished run says."""
    found = Journal(workdir / "journal.json").results()
    graded = {name: [found[name]] for name in ("teacher", "before")}
    graded["after"] = [found[f"seed {seed}/round 0/score"] for seed in seeds]
    return Measured(
        task,
        {side: [one["grades"] for one in many] for side, many in graded.items()},
        {side: float(np.mean([one["tokens"] for one in many])) for side, many in graded.items()},
        {side: [one["answers"] for one in many] for side, many in graded.items()},
    )
