"""Runs one student for each task, and compares what explanations bring in context and distilled: see config.py."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from cdjax.report import plots
from experiments.paper import claims
from experiments.paper.explanations import config
from experiments.paper.instructions import config as instructions
from experiments.paper.instructions.measured import SIDES, Measured, run

QUESTION = "Where explanations help in the prompt, does a student learn what they say?"
PICTURE = "margins.svg"
PAPER_R, PAPER_P = 0.75, 0.01
NOISE = (
    "both margins are leads over the same answers, whose noise alone often makes an r as large; margins of a few "
    "points are too small for so few test inputs"
)
LEAST_TASKS = 4  # for a correlation with an interval
HALVES = 200  # random halves of the test inputs
SHUFFLES = 2000


@dataclasses.dataclass(frozen=True)
class Margin:
    """By how many points of Rouge-L a side is above the model without explanations, and the standard error of that."""

    mean: float
    error: float  # over test inputs

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.error:.1f}"


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Pearson's r over tasks."""

    r: float
    p: float  # of r = 0
    shuffled: float  # p of r by the noise that both margins share
    ci95: tuple[float, float]  # by bootstrap over tasks
    halves: float  # r where the two margins of a task come from different halves of its test inputs, mean over cuts


def main(argv: Sequence[str] | None = None) -> list[Measured]:
    """The command. Returns what the table is made of."""
    args = claims.arguments("explanations", QUESTION, argv)
    found, made = run("explanations", args, config.get_config)
    of = correlation(found) if len(found) >= LEAST_TASKS else None
    judged = [claimed(of, len(found), made)] if of else []
    claims.publish(args, page(found, of, made), judged, plots={PICTURE: scatter(found)})
    return found


def leads(one: Measured, side: str) -> np.ndarray:
    """By how many points the side is above the model without explanations on each test input, mean over seeds."""
    return 100 * (np.mean(one.grades[side], 0) - np.mean(one.grades["before"], 0))


def margin(one: Measured, side: str) -> Margin:
    """The mean lead of a side."""
    lead = leads(one, side)
    return Margin(float(lead.mean()), float(stats.sem(lead)))


def correlation(found: Sequence[Measured]) -> Correlation:
    """Of the margins in context and distilled."""
    sides = [[margin(one, side).mean for one in found] for side in ("teacher", "after")]
    drawn = stats.bootstrap(
        sides, _pearson, paired=True, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    )
    low, high = drawn.confidence_interval
    whole = stats.pearsonr(*sides)
    r, p = float(whole.statistic), float(whole.pvalue)
    return Correlation(r, p, _shuffled(found, r), (float(low), float(high)), _halves(found))


def _pearson(xs: np.ndarray, ys: np.ndarray, axis: int = -1) -> np.ndarray:
    return stats.pearsonr(xs, ys, axis=axis).statistic


def _shuffled(found: Sequence[Measured], r: float) -> float:
    """How often r is as large where sides are shuffled within every test input, so that only noise tells them apart."""
    rng, reached = np.random.default_rng(0), 0
    sides = [np.array([np.mean(one.grades[side], 0) for side in SIDES]) for one in found]
    for _ in range(SHUFFLES):
        teacher, before, after = np.transpose([rng.permuted(graded, axis=0).mean(1) for graded in sides])
        reached += int(np.corrcoef(teacher - before, after - before)[0, 1] >= r)
    return (1 + reached) / (1 + SHUFFLES)


def _halves(found: Sequence[Measured]) -> float:
    """Both margins are leads over the same answers: what is noise in these makes the margins alike, but not here."""
    rng, every = np.random.default_rng(0), []
    taught, learned = ([leads(one, side) for one in found] for side in ("teacher", "after"))
    for _ in range(HALVES):
        cuts = [np.array_split(rng.permutation(len(lead)), 2) for lead in taught]
        xs = [lead[cut[0]].mean() for lead, cut in zip(taught, cuts, strict=True)]
        ys = [lead[cut[1]].mean() for lead, cut in zip(learned, cuts, strict=True)]
        every.append(np.corrcoef(xs, ys)[0, 1])
    return float(np.mean(every))


def page(found: Sequence[Measured], of: Correlation | None, made: Mapping[str, Any]) -> str:
    """results.md: every task's margins, and their correlation."""
    seeds = ", ".join(map(str, made["seeds"]))
    lines = [
        "# Explanations, in context and distilled (paper, 4.1, figure 5)",
        "",
        f"Rouge-L in points of 100, mean of seeds {seeds}. The model without explanations,",
        "and the leads over it, with their standard errors over test inputs, of the model that reads them (in context)",
        "and of the student that does not (distilled).",
        f"What differs from the paper: {config.DIFFERENT}.",
        "",
        "| task | test inputs | without | in context | distilled | distilled, by seed |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [f"{one.task}, {_named(one)}", str(len(one.grades["before"][0])), f"{one.mean('before'):.1f}"]
        cells += [str(margin(one, side)) for side in ("teacher", "after")]
        cells.append(", ".join(f"{mean - one.mean('before'):+.1f}" for mean in one.means("after")))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"![margins]({PICTURE})", ""]
    if of:
        lines += [
            f"Pearson's r over {len(found)} tasks: {of.r:.2f}, p = {of.p:.2g}, [{of.ci95[0]:.2f}, {of.ci95[1]:.2f}] by "
            f"bootstrap over tasks (paper: {PAPER_R}, p = {PAPER_P}).",
            "Both margins are leads over the same answers, whose noise is in both. Where it is shuffled which side",
            f"gave which answer, r is as large with p = {of.shuffled:.2g}. With the two margins of a task from",
            f"different halves of its test inputs r is {of.halves:.2f}, the mean of {HALVES} cuts.",
            "",
        ]
    lines.append(claims.source(made))
    return "\n".join(lines) + "\n"


def scatter(found: Sequence[Measured]) -> str:
    """The margins of every task with a standard error to each side, as SVG."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        for one in found:
            x, y = (margin(one, side) for side in ("teacher", "after"))
            axes.errorbar(
                x.mean, y.mean, xerr=x.error, yerr=y.error, fmt="o", color=plots.COLOURS["after"], elinewidth=1
            )
            axes.annotate(_named(one), (x.mean, y.mean), (4, 4), textcoords="offset points", fontsize=8)
        for line in (axes.axhline, axes.axvline):
            line(0, color=plots.FAINT, lw=0.8)
        axes.set_xlabel("in context: with explanations - without, Rouge-L")
        axes.set_ylabel("distilled: student - the model without explanations")
        axes.grid()
        return plots.svg(figure, "what explanations bring, in context and distilled")


def claimed(of: Correlation, tasks: int, made: Mapping[str, Any]) -> claims.Claim:
    """Decided as config.py says."""
    return claims.Claim(
        claim="Tasks on which explanations help in context are those on which distilling them helps",
        paper=f"r = {PAPER_R}, p = {PAPER_P}",
        ours=f"r = {of.r:.2f}, {tasks} tasks; p = {of.p:.2g} of r = 0, but {of.shuffled:.2g} of shared noise; "
        f"on different halves of the inputs r = {of.halves:.2f}",
        ci95=of.ci95,
        holds=of.shuffled < 0.05 and of.ci95[0] > 0,
        reason=config.DIFFERENT if of.shuffled < 0.05 else f"{NOISE}; {config.DIFFERENT}",
        **made,
    )


def _named(one: Measured) -> str:
    return (instructions.TASKS | instructions.TINY_TASKS)[one.task]


if __name__ == "__main__":
    claims.command(main)
