"""One run for each task of Natural-Instructions -> what its test inputs were graded, under every side.

In: the options of the command, a config for a task. Out: `Measured`, one more after every run.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import cdjax
from cdjax.config import Experiment
from cdjax.journal import Journal
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

    def means(self, side: str, examples: Sequence[int] | None = None) -> np.ndarray:
        """The side's mean over these examples, or all, for each seed, in points of 100."""
        every = np.array(self.grades[side])
        return 100 * (every if examples is None else every[:, examples]).mean(1)

    def mean(self, side: str) -> float:
        return float(self.means(side).mean())


def each(
    experiment: str, args: argparse.Namespace, get_config: Callable[..., Experiment]
) -> Iterator[tuple[list[Measured], dict[str, Any]]]:
    """Runs one task after another; gives those measured so far, and what made them."""
    folder = args.data_dir or (str(config.SAMPLE) if args.tiny else "")
    found: list[Measured] = []
    seconds: Counter[str] = Counter()
    for task in config.TINY_TASKS if args.tiny else config.TASKS:
        workdir = args.workdir / task
        seconds.update(cdjax.run(get_config(task, folder, args.seeds, tiny=args.tiny), workdir)["seconds"])
        jax.clear_caches()  # the next task has other lengths: what was compiled for this one would only take memory
        found.append(measure(task, workdir, args.seeds))
        yield found, claims.made_by(experiment, args.seeds, seconds)


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
