"""Distils both tones, has every answer judged, and makes the paper's Table 4: see config.py."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import cdjax
from cdjax.language_model import LanguageModel
from cdjax.tasks import Example
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.generation import config

QUESTION = "Can a model be taught the tone that a prompt asks for?"
SHOWN, CHECKED = 8, 64  # labelled reviews in the judge's prompt, and to see how often it is right
PAPER = {  # Table 4: positive in percent, Rouge-L, entropy in nats
    ("positive", "teacher"): (94.0, 4.8, 13.0),
    ("neutral", "teacher"): (54, 3.6, 9.9),
    ("positive", "before"): (24, 0.6, 2.5),
    ("neutral", "before"): (24, 0.6, 2.5),
    ("positive", "after"): (96, 4.8, 14.4),
    ("neutral", "after"): (34, 7.0, 14.2),
}


@dataclasses.dataclass(frozen=True)
class Judge:
    """The original model with labelled reviews in its prompt."""

    model: LanguageModel
    shown: Sequence[Example]

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """1.0 for each text that the model calls positive, 0.0 for one it calls anything else."""
        context = "".join(f"Review: {one.input}\nSentiment: {one.output}\n\n" for one in self.shown)
        said = self.model.generate([f"Review: {text}\nSentiment:" for text in texts], context=context, max_new_tokens=2)
        return [float(answer.strip().startswith("positive")) for answer in said]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model's answers to the test openings: how many are positive, their Rouge-L, the entropy of their words."""

    positive: list[list[float]]  # [seeds][openings]
    rouge: list[list[float]]
    entropy: float


Cells: TypeAlias = dict[tuple[str, str], Cell]  # tone, side


def main(argv: Sequence[str] | None = None) -> Cells:
    """The command. Returns what the table is made of."""
    args = claims.arguments("generation", QUESTION, argv)
    known = config.reviews(config.SAMPLE if args.tiny and not args.data_dir else Path(args.data_dir))
    args.workdir.mkdir(parents=True, exist_ok=True)
    config.write_openings(known, args.workdir / "openings")
    judge, called = appoint("tiny:0" if args.tiny else config.MODEL, known)
    cells: Cells = {}
    forgetting, runs = {}, []
    for tone in config.TEACHERS:
        cfg = config.get_config(tone, args.workdir / "openings", args.seeds, tiny=args.tiny)
        told = cdjax.run(cfg, args.workdir / tone)
        runs.append(told)
        forgetting[tone] = told["measures"]["forgetting"]["after"]["mean"]
        found = Journal(args.workdir / tone / "journal.json").results()
        stages = {"teacher": ["teacher"], "before": ["before"]}
        stages["after"] = [f"seed {seed}/round 0/score" for seed in args.seeds]
        cells |= {(tone, side): measure([found[name] for name in names], judge) for side, names in stages.items()}
    made = claims.made_by("generation", args.seeds, runs)
    claims.publish(args, page(cells, called, forgetting, made), decide(cells, made))
    return cells


def appoint(source: str, known: Sequence[Example]) -> tuple[Judge, dict[str, float]]:
    """The judge, with short reviews of both kinds in its prompt, and the share of each kind that it calls positive.

    Of long ones it judges the second halves alone, as it does of what is written after an opening.
    """
    short: dict[str, list[Example]] = {"positive": [], "negative": []}
    long: dict[str, list[Example]] = {"positive": [], "negative": []}
    for one in known:
        (short if len(one.input.split()) < config.WORDS else long)[one.output].append(one)
    shown = [one for pair in zip(*short.values(), strict=False) for one in pair]
    judge = Judge(cdjax.load_model(source), shown[:SHOWN])
    called = {label: judge([config.halves(one.input)[1] for one in many[:CHECKED]]) for label, many in long.items()}
    return judge, {label: float(np.mean(each)) for label, each in called.items()}


def measure(scored: Sequence[Mapping[str, Any]], judge: Judge) -> Cell:
    """The cell of one side's answers, an entry a seed."""
    answers = [list(one["answers"]) for one in scored]
    entropies = [entropy(each) for each in answers]
    return Cell([judge(each) for each in answers], [list(one["grades"]) for one in scored], float(np.mean(entropies)))


def entropy(texts: Sequence[str]) -> float:
    """Of the words of all texts together, in nats."""
    counts = Counter(word for text in texts for word in text.casefold().split())
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


def page(cells: Cells, called: Mapping[str, float], forgetting: Mapping[str, float], made: Mapping[str, Any]) -> str:
    """results.md: the paper's table with ours beside."""
    count = len(cells["positive", "teacher"].positive[0])
    positive, negative = (f"{100 * called[label]:.0f} %" for label in ("positive", "negative"))
    lines = [
        "# The tone of a text, distilled (paper, A.1, Table 4)",
        "",
        f"{count} openings of negative reviews, means of seeds {', '.join(map(str, made['seeds']))}, 95 % intervals",
        "over seeds and openings. The judge, the original model, is shown second halves of labelled reviews, too: it",
        f"calls positive {positive} of positive and {negative} of negative ones.",
        f"What differs from the paper: {config.DIFFERENT}.",
        "",
        "| tone | side | positive, paper | ours | Rouge-L, paper | ours | entropy, paper | ours |",
        "|---" * 8 + "|",
    ]
    for (tone, side), cell in cells.items():
        paper = PAPER[tone, side]
        ours = [claims.percent(cell.positive), claims.level(cell.rouge), f"{cell.entropy:.1f}"]
        each = " | ".join(f"{number:g} | {own}" for number, own in zip(paper, ours, strict=True))
        lines.append(f"| {tone} | {side} | {each} |")
    lines += ["", "Forgetting, KL to the model before on unrelated text, nats a token:", ""]
    lines += [f"- {tone}: {value:.4f}" for tone, value in forgetting.items()]
    lines += ["", claims.source(made)]
    return "\n".join(lines) + "\n"


def decide(cells: Cells, made: Mapping[str, Any]) -> list[claims.Claim]:
    """The students take on their teacher's tone, and only the one that was asked to."""

    def claim(text: str, paper: str, one: tuple[str, str], other: tuple[str, str], least: float = 0.0) -> claims.Claim:
        return claims.compared(
            text, paper, cells[one].positive, cells[other].positive, made, least=least, reason=config.DIFFERENT
        )

    return [
        claim("reviews: the student of the praising teacher is more often positive than before", "96 and 24",
              ("positive", "after"), ("positive", "before")),
        claim("reviews: the student of the praising teacher is less than 10 points behind it", "96 and 94",
              ("positive", "after"), ("positive", "teacher"), -10),
        claim("reviews: the student of the praising teacher is more often positive than that of the neutral one",
              "96 and 34", ("positive", "after"), ("neutral", "after")),
    ]  # fmt: skip


if __name__ == "__main__":
    claims.command(main)
