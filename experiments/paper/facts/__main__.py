"""Runs one student for each fact, and makes the paper's Table 5 of them: see config.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import cdjax
from cdjax.tasks import Example, counterfact
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.facts import config

QUESTION = "Can a model be taught one edited fact by distilling the prompt that states it?"
SIDES = ("teacher", "before", "after")
PARTS = ("paraphrase", "neighbourhood", "attribute")
PAPER = {  # score / magnitude; the paper's own table has no attribute prompts
    ("paraphrase", "teacher"): "73 / 29",
    ("paraphrase", "before"): "34 / -3",
    ("paraphrase", "after"): "79 / 28",
    ("neighbourhood", "teacher"): "58 / 8",
    ("neighbourhood", "before"): "80 / 4",
    ("neighbourhood", "after"): "48 / -2",
}
MARGIN = 5  # points that the student may be behind the teacher
Measured: TypeAlias = dict[tuple[str, str, str], list[list[float]]]  # part, side, what -> [facts][seeds], in percent


def main(argv: Sequence[str] | None = None) -> Measured:
    """The command. Returns what the table is made of."""
    args = claims.arguments("facts", QUESTION, argv)
    folder = args.data_dir or (str(config.SAMPLE) if args.tiny else "")
    rows, runs, facts = counterfact.read(Path(folder)), [], []
    cases = counterfact.cases(rows, config.TINY_FACTS if args.tiny else config.FACTS, config.CASES_SEED)
    for case in cases:
        cfg, workdir = config.get_config(case, folder, args.seeds, tiny=args.tiny), args.workdir / str(case)
        runs.append(cdjax.run(cfg, workdir))
        facts.append(measure(workdir, counterfact.parts(rows, case), args.seeds))
    found = {key: [fact[key] for fact in facts] for key in facts[0] if all(key in fact for fact in facts)}
    made = claims.made_by("facts", args.seeds, runs)
    claims.publish(args, page(found, cases, made), claimed(found, made))
    return found


def measure(workdir: Path, parts: Mapping[str, Sequence[Example]], seeds: Sequence[int]) -> dict[Any, list[float]]:
    """One fact's score and magnitude of each part and side, a number a seed: the mean over the part's prompts."""
    found = Journal(workdir / "journal.json").results()
    stages = {"teacher": ["teacher"], "before": ["before"], "after": [f"seed {one}/round 0/score" for one in seeds]}
    measured = {}
    for side, names in stages.items():
        for what, field, scale in (("score", "grades", 100), ("magnitude", "magnitudes", 1)):
            known = [dict(zip(found[name]["inputs"], found[name][field], strict=True)) for name in names]
            for part, examples in parts.items():
                each = [scale * float(np.mean([one[example.input] for example in examples])) for one in known]
                measured[part, side, what] = each
    return measured


def page(found: Measured, cases: Sequence[int], made: Mapping[str, Any]) -> str:
    """results.md: the paper's table with ours beside, and every fact."""
    seeds = ", ".join(map(str, made["seeds"]))
    lines = [
        "# Facts edited by distilling the prompt that states the edit (paper, A.2, Table 5)",
        "",
        f"{len(cases)} facts, seeds {seeds}. A score is the share of prompts where the right",
        "object is more likely than the other one, a magnitude by how much, both in percent; means and 95 % intervals",
        "over seeds and facts.",
        f"What differs from the paper: {config.DIFFERENT}.",
        "",
        "| prompts | side | score | magnitude | paper: score / magnitude |",
        "|---|---|---|---|---|",
    ]
    for part in PARTS:
        for side in SIDES if (part, "after", "score") in found else ():
            score, magnitude = (np.transpose(found[part, side, what]) for what in ("score", "magnitude"))
            cells = [claims.percent((score / 100).tolist()), claims.level(magnitude.tolist(), scale=1)]
            lines.append(f"| {' | '.join([part, side, *cells, PAPER.get((part, side), '-')])} |")
    sides = [(part, side) for part in PARTS for side in SIDES if (part, side, "magnitude") in found]
    lines += ["", "Magnitudes of every fact, mean over seeds:", ""]
    lines += [f"| case | {' | '.join(f'{part}, {side}' for part, side in sides)} |", "|---" * (len(sides) + 1) + "|"]
    for row, case in enumerate(cases):
        each = (f"{np.mean(found[part, side, 'magnitude'][row]):+.1f}" for part, side in sides)
        lines.append(f"| {case} | {' | '.join(each)} |")
    lines += ["", claims.source(made)]
    return "\n".join(lines) + "\n"


def claimed(found: Measured, made: Mapping[str, Any]) -> list[claims.Claim]:
    """The claims, each decided by a difference that is paired over facts, as config.py says."""

    def between(part: str, what: str, one: str, other: str) -> tuple[float, tuple[float, float]]:
        return claims.difference(*(np.array(found[part, side, what]).T.tolist() for side in (one, other)))

    def claim(text: str, paper: str, part: str, what: str, sides: tuple[str, str], holds: bool) -> claims.Claim:
        one, other = (np.mean(found[part, side, what]) for side in sides)
        mean, interval = between(part, what, *sides)
        ours = f"{sides[1]} {other:.1f}, {sides[0]} {one:.1f}: {mean:+.1f}"
        few = "" if holds else f"{len(found[part, 'after', what])} facts do not tell; "
        reason = few + config.DIFFERENT
        return claims.Claim(claim=text, paper=paper, ours=ours, ci95=interval, holds=holds, reason=reason, **made)

    after, kept = ("after", "teacher"), ("after", "before")
    near = between("paraphrase", "score", *after)[0] >= -MARGIN
    gained = between("paraphrase", "score", *kept)[1][0] > 0
    surer = between("paraphrase", "magnitude", *kept)[1][0] > 0
    spread = between("neighbourhood", "score", *kept)[1][1] < 0
    return [
        claim(
            f"an edited fact: paraphrase score at most {MARGIN} points under the teacher's",
            "teacher 73, after 79: +6",
            "paraphrase",
            "score",
            after,
            near,
        ),
        claim(
            "an edited fact: paraphrase score rises", "before 34, after 79: +45", "paraphrase", "score", kept, gained
        ),
        claim(
            "an edited fact: paraphrase magnitude rises",
            "before -3, after 28: +31",
            "paraphrase",
            "magnitude",
            kept,
            surer,
        ),
        claim(
            "an edited fact: neighbourhood score falls, specificity is lost",
            "before 80, after 48: -32",
            "neighbourhood",
            "score",
            kept,
            spread,
        ),
    ]


if __name__ == "__main__":
    claims.command(main)
