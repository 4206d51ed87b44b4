"""Asks the questions that the paper left open, and writes one page with a plot for each: see config.py."""

import argparse
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cdjax
from cdjax.config import Experiment
from cdjax.report import plots
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.questions.config import QUESTIONS, Question, get_config

MEASURES = {
    "accuracy": "accuracy, %",
    "held_out_kl": "KL to the teacher on held-out inputs",
    "forgetting": "KL to the model before on unrelated text",
}
Scored: TypeAlias = dict[str, Any]  # what a stage "score" left: grades, measures; and its `steps`
Found: TypeAlias = dict[str, list[list[Scored]]]  # variant -> [rounds][seeds]


def main(argv: Sequence[str] | None = None) -> dict[str, Found]:
    """The command. Returns what the page is made of, all questions whose runs are in the directory.

    Unless these are all questions the page stays in the directory, where it replaces none that has more.
    """
    own = argparse.ArgumentParser(add_help=False)
    several = f"separated by commas: {', '.join(QUESTIONS)}; all if not said"
    own.add_argument("--only", type=lambda text: tuple(text.split(",")), default=tuple(QUESTIONS), help=several)
    args = claims.arguments("questions", "What the paper left open", argv, seeds=(0, 1, 2), files=False, own=[own])
    if unknown := set(args.only) - set(QUESTIONS):
        raise SystemExit(f"--only: no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    if len(args.seeds) < 2 and not args.tiny:
        raise SystemExit("--seeds: a divergence has its interval over seeds, so give two or more")
    for name in args.only:
        for cfg, workdir in runs(name, args).values():
            cdjax.run(cfg, workdir)
            shutil.rmtree(workdir / "checkpoints", ignore_errors=True)  # what is scored; of all runs they are 50 GB
            jax.clear_caches()  # and what is compiled for one run is of no use to the next
    answers = {name: found for name in QUESTIONS if (found := answer(name, args))}
    made = {name: claims.made_by("questions", args.seeds, told(name, args), f"--only {name}") for name in answers}
    if len(answers) < len(QUESTIONS):
        args.out = args.workdir
    plots = {f"{name}.svg": plot(QUESTIONS[name], found) for name, found in answers.items()}
    decided = [judged(QUESTIONS[name], found, made[name]) for name, found in answers.items()]
    claims.publish(args, page(answers, made), decided, plots=plots)
    return answers


def runs(name: str, args: argparse.Namespace) -> dict[str, tuple[Experiment, Path]]:
    """Every variant's experiment and directory; variants that change nothing are one run for all questions."""
    unchanged, found = get_config({}, args.seeds, tiny=args.tiny), {}
    for variant, changes in QUESTIONS[name].variants.items():
        cfg = get_config(changes, args.seeds, tiny=args.tiny)
        folder = "base" if cfg == unchanged else f"{name}_{variant}".replace(",", "").replace(" ", "_")
        found[variant] = cfg, args.workdir / folder
    return found


def answer(name: str, args: argparse.Namespace) -> Found:
    """What the runs of a question found; nothing where one of them has not ended."""
    every = runs(name, args)
    ended = all(_results(workdir).get("seeds") == list(args.seeds) for _, workdir in every.values())
    return {variant: read(workdir, args.seeds) for variant, (_, workdir) in every.items()} if ended else {}


def told(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What the run of each variant left in its `results.json`."""
    return [_results(workdir) for _, workdir in runs(name, args).values()]


def _results(workdir: Path) -> dict[str, Any]:
    path = workdir / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read(workdir: Path, seeds: Sequence[int]) -> list[list[Scored]]:
    """What every round's student scored, for each seed."""
    found = Journal(workdir / "journal.json").results()
    rounds = sum(name.startswith(f"seed {seeds[0]}/round") and name.endswith("/score") for name in found)

    def scored(at: str) -> Scored:
        return found[f"{at}/score"] | {"steps": found[f"{at}/update"]["steps"]}

    return [[scored(f"seed {seed}/round {number}") for seed in seeds] for number in range(rounds)]


def values(scored: Sequence[Scored], measure: str) -> list[float]:
    """The measure for each seed, accuracy in points of 100."""
    if measure == "accuracy":
        return [100 * float(np.mean(one["grades"])) for one in scored]
    return [one["measures"][measure]["mean"] for one in scored]


def difference(one: Sequence[Scored], other: Sequence[Scored], measure: str) -> tuple[float, tuple[float, float]]:
    """One minus other and its 95 % interval: over seeds and test examples for accuracy, over seeds for a divergence."""
    if measure == "accuracy":
        return claims.difference(*(100 * np.array([scored["grades"] for scored in many]) for many in (one, other)))
    return claims.students_t(np.subtract(values(one, measure), values(other, measure)))


def judged(question: Question, found: Found, made: Mapping[str, Any]) -> claims.Claim:
    """The claim as config.py states it, on the last round."""
    claim = question.claim
    one, other = (found[variant][-1] for variant in (claim.one, claim.other))
    mean, interval = difference(one, other, claim.measure)
    means = [f"{name}: {np.mean(values(found[name][-1], claim.measure)):.3g}" for name in (claim.one, claim.other)]
    return claims.Claim(
        claim=f"left open: {claim.text}",
        paper="none",
        ours=f"{'; '.join(means)}; a difference of {mean:+.3g}",
        ci95=interval,
        holds=interval[0] > claim.least,
        reason=question.found,
        **made,
    )


def page(answers: Mapping[str, Found], made: Mapping[str, Mapping[str, Any]]) -> str:
    """results.md: a table and a plot for every question."""
    lines = [
        "# What the paper left open",
        "",
        "Means over seeds after the last round. Differences are to the first line, with 95 % intervals: over",
        "seeds and test examples for accuracy, over seeds for divergences (nats a token). How, and what was decided",
        "before: [config.py](config.py).",
        "",
    ]
    for name, found in answers.items():
        lines += [*_section(name, found, judged(QUESTIONS[name], found, made[name])), ""]
    return "\n".join(lines)


def _section(name: str, found: Found, claim: claims.Claim) -> list[str]:
    question, first = QUESTIONS[name], next(iter(found.values()))[-1]
    heads = " | ".join(f"{title} | difference" for title in MEASURES.values())
    lines = [f"## {question.title}", "", f"| {name} | updates | {heads} |", "|---" * (2 + 2 * len(MEASURES)) + "|"]
    for variant, rounds in found.items():
        cells = [f"{np.mean([[one['steps'] for one in scored] for scored in rounds], 1).sum():g}"]
        cells += [cell for measure in MEASURES for cell in _cells(rounds[-1], first, measure)]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    if question.rounds:
        lines += ["", *_by_round(found)]
    verdict, (low, high) = "holds" if claim.holds else "does not hold", claim.ci95
    return [
        *lines,
        "",
        f"That {question.claim.text}: **{verdict}** ({claim.ours}, [{low:.3g}, {high:.3g}]). {question.found}".rstrip(),
        "",
        f"![{name}]({name}.svg)",
        "",
        claims.source(dataclasses.asdict(claim)),
    ]


def _by_round(found: Found) -> list[str]:
    most = max(map(len, found.values()))
    lines = [f"| after round | {' | '.join(map(str, range(1, most + 1)))} |", "|---" * (1 + most) + "|"]
    for measure, title in MEASURES.items():
        for variant, rounds in found.items():
            cells = dict.fromkeys(range(1, most + 1), "")
            cells |= {_at(number, rounds, most): _mean(scored, measure) for number, scored in enumerate(rounds)}
            lines.append(f"| {variant}: {title} | {' | '.join(cells.values())} |")
    return lines


def _at(number: int, rounds: Sequence[Any], most: int) -> int:
    """Where a round stands on the scale of the variant that has most of them: one of both tasks counts for two."""
    return (number + 1) * most // len(rounds)


def _mean(scored: Sequence[Scored], measure: str) -> str:
    return f"{np.mean(values(scored, measure)):.{_digits(measure)}f}"


def _digits(measure: str) -> int:
    return 1 if measure == "accuracy" else 3


def _cells(scored: Sequence[Scored], first: Sequence[Scored], measure: str) -> tuple[str, str]:
    mean, digits = _mean(scored, measure), _digits(measure)
    if scored is first:
        return mean, "-"
    apart, (low, high) = difference(scored, first, measure)
    return mean, f"{apart:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def plot(question: Question, found: Found) -> str:
    """Every measure against the variant, or against the round with a line for each variant; a dot a seed."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        for axes, (measure, title) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
            (_lines if question.rounds else _dots)(axes, found, measure)
            axes.set_title(title.replace(" on ", "\non "), loc="left", fontsize=9)
            axes.grid(axis="y")
        return plots.svg(figure, question.title)


def _lines(axes: Axes, found: Found, measure: str) -> None:
    most = max(len(rounds) for rounds in found.values())
    for number, (variant, rounds) in enumerate(found.items()):
        at = [_at(number, rounds, most) for number in range(len(rounds))]
        every = np.array([values(scored, measure) for scored in rounds])
        colour = plots.SEEDS[number % len(plots.SEEDS)]
        axes.plot(at, every.mean(1), color=colour, lw=1.8, label=variant)
        axes.plot(np.repeat(at, every.shape[1]), every.ravel(), "o", ms=3.5, color=colour, alpha=0.6)
    axes.set_xticks(range(1, most + 1))
    axes.set_xlabel("round")
    if measure == "accuracy":
        axes.legend(frameon=False, fontsize=8)


def _dots(axes: Axes, found: Found, measure: str) -> None:
    for at, rounds in enumerate(found.values()):
        each = values(rounds[-1], measure)
        axes.plot([at] * len(each), each, "o", ms=4, color=plots.COLOURS["after"], alpha=0.6)
        axes.plot([at - 0.25, at + 0.25], [np.mean(each)] * 2, color=plots.INK, lw=1.5)
    axes.set_xticks(range(len(found)), list(found), rotation=30, ha="right", fontsize=8)


if __name__ == "__main__":
    claims.command(main)
