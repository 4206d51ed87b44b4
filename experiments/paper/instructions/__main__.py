"""Runs one student for each task, and makes the paper's numbers of section 4.1 of them: see config.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.paper import claims
from experiments.paper.instructions import config
from experiments.paper.instructions.measured import SIDES, Measured, run

QUESTION = "Can a model follow a task's instructions after they are gone from its prompt?"
PAPER = {"teacher": 43.4, "before": 9.0, "after": 34.7}
PAPER_SHARE = (PAPER["after"] - PAPER["before"]) / (PAPER["teacher"] - PAPER["before"])
SHARE, FEWER = 0.5, 5  # of the gap that the student must close, and times fewer tokens that it must read


def main(argv: Sequence[str] | None = None) -> list[Measured]:
    """The command. Returns what the table is made of."""
    args = claims.arguments("instructions", QUESTION, argv)
    found, made = run("instructions", args, config.get_config)
    claims.publish(args, page(found, made), claimed(found, made))
    return found


def page(found: Sequence[Measured], made: Mapping[str, Any]) -> str:
    """results.md: the paper's means with ours beside, and every task."""
    seeds = ", ".join(map(str, made["seeds"]))
    lines = [
        "# A task's instructions internalised (paper, 4.1)",
        "",
        f"Rouge-L in points of 100, mean of seeds {seeds}, with 95 % intervals by bootstrap:",
        "a task's over seeds and its test inputs, the mean's over seeds and tasks. `same`: how many of the student's",
        "answers are the teacher's, and `commonest`: how many of the teacher's are the one that it gives most, both in",
        "percent. A teacher that gives one answer to nearly everything has understood what may be answered, no more.",
        f"What differs from the paper: {config.DIFFERENT}.",
        "",
        "| task | test inputs | teacher | before | after | tokens a request: teacher | student | same | commonest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [f"{one.task}, {_named(one)}", str(len(one.grades["teacher"][0]))]
        cells += [claims.level(one.grades[side]) for side in SIDES]
        cells += [f"{one.tokens[side]:.0f}" for side in ("teacher", "after")]
        cells += [f"{100 * part:.0f}" for part in (same(one), commonest(one))]
        lines.append(f"| {' | '.join(cells)} |")
    means = [claims.level(by_seed(found, side), scale=1) for side in SIDES]
    tokens = [f"{np.mean([one.tokens[side] for one in found]):.0f}" for side in ("teacher", "after")]
    lines.append(f"| **mean of {len(found)} tasks** | | {' | '.join([*means, *tokens])} | | |")
    lines.append(
        f"| paper, mean of 10 tasks | | {' | '.join(str(PAPER[side]) for side in SIDES)} | 11.1 times | 1 | | |"
    )
    (share, part), (times, fewer) = closed(found), saved(found)
    lines += [
        "",
        f"Of the gap between before and teacher the student closes {100 * share:.0f} % "
        f"[{100 * part[0]:.0f}, {100 * part[1]:.0f}] (paper: {100 * PAPER_SHARE:.0f} %), with {times:.1f} times "
        f"[{fewer[0]:.1f}, {fewer[1]:.1f}] fewer tokens a request (paper: 11.1 times).",
        "",
        claims.source(made),
    ]
    return "\n".join(lines) + "\n"


def by_seed(found: Sequence[Measured], side: str) -> list[list[float]]:
    """The side's means in points of 100, [seeds][tasks]."""
    return np.transpose([one.means(side) for one in found]).tolist()


def same(one: Measured) -> float:
    """The share of the student's answers that are the teacher's, mean over seeds."""
    (taught,) = one.answers["teacher"]
    return float(
        np.mean([[said == right for said, right in zip(many, taught, strict=True)] for many in one.answers["after"]])
    )


def commonest(one: Measured) -> float:
    """The share of the teacher's answers that are the one it gives most."""
    (taught,) = one.answers["teacher"]
    return max(map(taught.count, taught)) / len(taught)


def closed(found: Sequence[Measured]) -> tuple[float, tuple[float, float]]:
    """The share of the gap between before and teacher that the student closes, of the tasks' means, with its interval.

    0 where there is no gap.
    """

    def share(after: np.ndarray, before: np.ndarray, teacher: np.ndarray, axis: int = -1) -> np.ndarray:
        won, gap = (np.asarray((side - before).mean(axis)) for side in (after, teacher))
        return np.divide(won, gap, out=np.zeros_like(gap), where=gap != 0)

    return over_tasks(share, *([one.mean(side) for one in found] for side in ("after", "before", "teacher")))


def saved(found: Sequence[Measured]) -> tuple[float, tuple[float, float]]:
    """How many times fewer tokens a request to the student has, of the tasks' means, with its interval."""

    def times(teacher: np.ndarray, student: np.ndarray, axis: int = -1) -> np.ndarray:
        return teacher.mean(axis) / student.mean(axis)

    return over_tasks(times, *([one.tokens[side] for one in found] for side in ("teacher", "after")))


def over_tasks(statistic: Callable[..., np.ndarray], *samples: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """A statistic of paired numbers, one of each a task, and its 95 % interval by bootstrap over tasks."""
    value = float(statistic(*map(np.array, samples)))
    if not np.ptp(samples, axis=1).any():
        return value, (value, value)
    rng = np.random.default_rng(0)
    drawn = stats.bootstrap(samples, statistic, paired=True, n_resamples=5000, method="percentile", rng=rng)
    return value, (float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def claimed(found: Sequence[Measured], made: Mapping[str, Any]) -> list[claims.Claim]:
    """Decided as config.py says; tasks are the unit of every interval."""
    gained, gain = claims.difference(by_seed(found, "after"), by_seed(found, "before"))
    (share, part), (times, fewer) = closed(found), saved(found)
    means = {side: np.mean([one.mean(side) for one in found]) for side in SIDES}
    sides = ", ".join(f"{side} {means[side]:.1f}" for side in SIDES)
    many = {"reason": config.DIFFERENT, **made}
    return [
        claims.Claim(
            claim="A student of a task's instructions has a higher Rouge-L on bare inputs than the model before",
            paper=f"{PAPER['before']} -> {PAPER['after']}",
            ours=f"{means['before']:.1f} -> {means['after']:.1f}: {gained:+.1f}",
            ci95=gain,
            holds=gain[0] > 0,
            **many,
        ),
        claims.Claim(
            claim="The student closes more than half of the gap between the model without instructions and with them",
            paper=f"{100 * PAPER_SHARE:.0f} %: {', '.join(f'{side} {PAPER[side]}' for side in SIDES)}",
            ours=f"{100 * share:.0f} %: {sides}",
            ci95=(100 * part[0], 100 * part[1]),
            holds=part[0] > SHARE,
            **many,
        ),
        claims.Claim(
            claim=f"A request without instructions is at least {FEWER} times shorter, in tokens",
            paper="11.1 times",
            ours=f"{times:.1f} times",
            ci95=fewer,
            holds=fewer[0] > FEWER,
            **many,
        ),
    ]


def _named(one: Measured) -> str:
    return (config.TASKS | config.TINY_TASKS)[one.task]


if __name__ == "__main__":
    claims.command(main)
