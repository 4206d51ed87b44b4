"""Runs every seed, and makes the paper's Table 3 and accuracy by number of digits of them: see config.py."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import cdjax
from cdjax.report import plots
from cdjax.tasks import addition
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.scratchpad import config, model

QUESTION = "Can a model add without the scratch-pad it was taught?"
PAPER = {"teacher": 93, "before": 0, "after": 95, "Sc->Dir": 72, "Sc+Dir": 61}
NAMES = {"teacher": "teacher, with the scratch-pad", "before": "student before", "after": "student after"}
COLOURS = plots.COLOURS | {"Sc->Dir": "#d9932f", "Sc+Dir": "#a2476f"}
SEEDS = tuple(range(3, 13))  # on 0 and 1 the settings were found
MARGIN = 0.05  # that the student may be behind the teacher
Grades: TypeAlias = dict[str, list[list[float]]]  # a column of the table -> [seeds][examples]


def main(argv: Sequence[str] | None = None) -> Grades:
    """The command. Returns the grades that the table is made of."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--digits", type=int, choices=range(1, 9), help="the longest numbers; 3 if not said, the paper has 8"
    )
    args = claims.arguments("scratchpad", QUESTION, argv, seeds=SEEDS, files=False, own=[own])
    digits = args.digits or (1 if args.tiny else 3)
    told, journals = [], []
    for seed in args.seeds:
        folder = args.workdir / f"digits_{digits}" / f"seed_{seed}"
        source = "tiny:0" if args.tiny else model.write(folder / "model", seed)
        told.append(cdjax.run(config.get_config(source, seed, digits, tiny=args.tiny), folder / "run"))
        journals.append(Journal(folder / "run" / "journal.json").results())
    lengths = [addition.digits(text) for text in journals[0]["teacher"]["inputs"]]
    grades = graded(journals, args.seeds)
    made = claims.made_by("scratchpad", args.seeds, told, f"--digits {digits}")
    suffix = "" if digits == 3 else f"_{digits}"
    plots = {f"digits{suffix}.svg": curves(grades, lengths)}
    text = page(grades, lengths, told, made).replace("digits.svg", f"digits{suffix}.svg")
    claims.publish(args, text, claimed(grades, told, digits, made), f"results{suffix}.md", plots)
    return grades


def graded(journals: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Grades:
    """Every column of the paper's table, in its order."""
    stages = {"teacher": "teacher", "before": "before", "after": "seed {}/round 0/score"}
    stages |= {name: f"seed {{}}/baseline {name}/score" for name in ("Sc->Dir", "Sc+Dir")}
    return {
        name: [found[stage.format(seed)]["grades"] for seed, found in zip(seeds, journals, strict=True)]
        for name, stage in stages.items()
    }


def page(grades: Grades, lengths: Sequence[int], told: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> str:
    """results.md: the paper's table with ours beside, by seed and by number of digits."""
    most = max(lengths)
    each = ", ".join(f"{count} of {length}" for length, count in sorted(Counter(lengths).items()))
    teacher, student = requests(told)
    lines = [
        f"# A scratch-pad internalised: addition of up to {most} digits (paper, 4.3, Table 3)",
        "",
        f"Accuracy in percent on {len(lengths)} problems that nobody learned from ({each} digits), seeds "
        f"{', '.join(map(str, made['seeds']))}, with 95 % intervals over seeds and problems.",
        f"What differs from the paper: {config.different(most)}.",
        "How many of these are learned with their two numbers exchanged, and which seeds were added: "
        "[config.py](config.py).",
        "",
        f"| | paper | ours | seeds |{''.join(f' digits: {length} |' for length in sorted(set(lengths)))}",
        "|---" * (4 + len(set(lengths))) + "|",
    ]
    for name, rows in grades.items():
        cells = [NAMES.get(name, name), str(PAPER[name]), claims.percent(rows)]
        cells.append(", ".join(f"{100 * np.mean(row):.1f}" for row in rows))
        cells += [claims.percent(part(rows, lengths, length)) for length in sorted(set(lengths))]
        lines.append(f"| {' | '.join(cells)} |")
    kept, sampled = (sum(one["rollouts"][what] for one in told) for what in ("kept", "sampled"))
    minutes = [f"{sum(one['seconds'].values()) / 60:.0f}" for one in told]
    lines += [
        "",
        f"Tokens a request, prompt and answer: teacher {teacher:.1f}, student {student:.1f}, {teacher / student:.1f} "
        f"times fewer (paper: 8.0 times). {kept} of the teacher's {sampled} answers were kept. Minutes a seed: "
        f"{', '.join(minutes)}, {claims.hardware()}.",
        "",
        "![accuracy by number of digits](digits.svg)",
        "",
        claims.source(made),
    ]
    return "\n".join(lines) + "\n"


def requests(told: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Mean tokens of a request to the teacher and to the student."""
    teacher, student = (
        float(np.mean([one["tokens_per_request"][side] for one in told])) for side in ("teacher", "student")
    )
    return teacher, student


def part(rows: Sequence[Sequence[float]], lengths: Sequence[int], length: int) -> list[list[float]]:
    """The grades of problems of one length."""
    return [[grade for grade, own in zip(row, lengths, strict=True) if own == length] for row in rows]


def curves(grades: Grades, lengths: Sequence[int]) -> str:
    """Accuracy against the number of digits, one line a column of the table, with intervals, as SVG."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes, xs = figure.subplots(), sorted(set(lengths))
        for number, (name, rows) in enumerate(grades.items()):
            by_length = [part(rows, lengths, length) for length in xs]
            means = np.array([np.mean(own) for own in by_length])
            ends = np.array([claims.share(own)[1] for own in by_length]).T
            spread = np.abs(ends - means)
            at = np.array(xs) + 0.02 * (number - 2)  # so that intervals do not lie on one another
            axes.errorbar(at, means, yerr=spread, marker="o", ms=5, capsize=3, label=name, color=COLOURS[name])
        axes.set_xticks(xs)
        axes.set_xlabel("digits of each number")
        axes.set_ylabel("accuracy")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False)
        axes.grid(axis="y")
        return plots.svg(figure, "accuracy by number of digits")


def claimed(
    grades: Grades, told: Sequence[Mapping[str, Any]], digits: int, made: Mapping[str, Any]
) -> list[claims.Claim]:
    """Decided as config.py says: by the mean for the margin, by the interval for what is better."""
    mean = {name: 100 * float(np.mean(rows)) for name, rows in grades.items()}
    best = max(("Sc->Dir", "Sc+Dir"), key=mean.__getitem__)
    near, better = (claims.difference(grades["after"], grades[name]) for name in ("teacher", best))
    teacher, student = requests(told)
    little = f"{best} is at {mean[best]:.1f}, which leaves so little to gain that {len(told)} seeds do not show it; "
    title = f"addition of up to {digits} digits without the scratch-pad"
    return [
        claims.Claim(
            claim=f"{title}: at most {100 * MARGIN:.0f} points under the teacher with it",
            paper="teacher 93, after 95 (before 0)",
            ours=f"teacher {mean['teacher']:.1f}, after {mean['after']:.1f} (before {mean['before']:.1f})",
            ci95=(100 * near[1][0], 100 * near[1][1]),
            holds=near[0] >= -MARGIN,
            reason=config.different(digits),
            **made,
        ),
        claims.Claim(
            claim=f"{title}: better than fine-tuning on the same labels",
            paper="after 95, Sc->Dir 72, Sc+Dir 61",
            ours=f"after {mean['after']:.1f}, Sc->Dir {mean['Sc->Dir']:.1f}, Sc+Dir {mean['Sc+Dir']:.1f}",
            ci95=(100 * better[1][0], 100 * better[1][1]),
            holds=better[1][0] > 0,
            reason=("" if better[1][0] > 0 else little) + config.different(digits),
            **made,
        ),
        claims.Claim(
            claim=f"{title}: fewer tokens",
            paper="8.0 times",
            ours=f"{teacher / student:.1f} times: {teacher:.0f} -> {student:.0f}",
            ci95=(teacher / student, teacher / student),
            holds=teacher > student,
            reason="a scratch-pad grows with the square of the digits, an answer with their number",
            **made,
        ),
    ]


if __name__ == "__main__":
    claims.command(main)
