"""Distils with replay and without, asks every student for what it was not taught, and writes a table: see config.py."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cdjax
from cdjax import tasks
from cdjax.journal import Journal
from cdjax.language_model import LanguageModel
from cdjax.views import render
from experiments.paper import claims
from experiments.paper.transfer import config

QUESTION = "Does a skill that a model has internalised help elsewhere, and what does it cost?"
HERE = Path(__file__).parent
SIDES = {False: "after, without replay", True: "after, with replay"}
PAPER = {  # of an 11-billion-parameter model; before and after with replay
    "addition": ("1", "17"),
    "word_problem": ("17", "30"),
    "instructions, replayed tasks": ("57", "58"),
}
SHOWN = 2  # solved examples before a question that transfers
Grades: TypeAlias = dict[tuple[str, str], list[list[float]]]  # what is measured, of whom -> [seeds][examples]


def main(argv: Sequence[str] | None = None) -> Grades:
    """The command. Returns the grades that the table is made of."""
    args = claims.arguments("transfer", QUESTION, argv)
    grades: Grades = {}
    forgetting, seconds = {}, Counter[str]()
    for mixed, side in SIDES.items():
        workdir = args.workdir / ("with_replay" if mixed else "without_replay")
        cfg = config.get_config(mixed, args.data_dir, args.seeds, tiny=args.tiny)
        told = cdjax.run(cfg, workdir)
        seconds.update(told["seconds"])
        forgetting[side] = told["forgetting"]["mean"]
        found = Journal(workdir / "journal.json").results()
        grades["addition", "teacher, with the scratch-pad"] = [found["teacher"]["grades"]]
        grades["addition", "before"] = [found["before"]["grades"]]
        grades["addition", side] = [found[f"seed {seed}/round 0/score"]["grades"] for seed in args.seeds]
        students = []
        for seed in args.seeds:
            cdjax.export(workdir, workdir / f"student_{seed}", seed)
            students.append(str(workdir / f"student_{seed}"))
        for whose, models in (("before", [cfg.model]), (side, students)):
            if ("things", whose) not in grades:
                each = [skills(cdjax.load_model(model), args.data_dir, tiny=args.tiny) for model in models]
                grades |= {(skill, whose): [one[skill] for one in each] for skill in each[0]}
    made = claims.made_by("transfer", args.seeds, seconds)
    text = page(grades, forgetting, made)
    print(text)
    if not args.tiny:
        (HERE / "results.md").write_text(text, encoding="utf-8")
    claims.record(judge(grades, made), args.claims)
    return grades


def skills(model: LanguageModel, data_dir: str, *, tiny: bool) -> dict[str, list[float]]:
    """A model's graded answers to what it was not taught: transfer, and instructions replayed and not."""
    asked = {kind: [(f"{kind}:{config.DIGITS}", cdjax.Context(shots=SHOWN))] for kind in config.TRANSFER}
    if not tiny:
        for kind, names in (("replayed", config.REPLAYED), ("other", config.OTHERS)):
            asked[f"instructions, {kind} tasks"] = [(config.instructed(name), config.FOLLOWED) for name in names]
    return {
        skill: [grade for name, view in many for grade in answered(model, name, view, data_dir, 2 if tiny else None)]
        for skill, many in asked.items()
    }


def answered(model: LanguageModel, name: str, view: cdjax.Context, data_dir: str, count: int | None) -> list[float]:
    """The grades of a model's greedy answers to a task's test examples under a view."""
    task = tasks.load(name, data_dir=data_dir)
    wanted = task.test[: count or config.TESTED]
    whole = render.complete(view, task)
    prompts = [render.plain(config.TEMPLATE, whole, one.input) for one in wanted]
    answers = model.generate(prompts, max_new_tokens=24)
    return [task.grade(one, answer.split("\n")[0].strip()) for one, answer in zip(wanted, answers, strict=True)]


def page(grades: Grades, forgetting: Mapping[str, float], made: Mapping[str, Any]) -> str:
    """results.md: what was measured of whom, with the paper's numbers beside."""
    whose = list(dict.fromkeys(side for _, side in grades))
    lines = [
        "# A skill that was internalised, elsewhere (paper, 4.3, transfer)",
        "",
        f"Per cent, means of seeds {', '.join(map(str, made['seeds']))} with 95 % intervals over examples;",
        "instructions by Rouge-L. The paper has TK-Instruct with 11 billion parameters, 8 digits and 65,536 replayed",
        f"examples; ours is SmolLM2 with 135 million, {config.DIGITS} digits, {config.REPLAY} examples a task.",
        "",
        f"| | paper, before and after | {' | '.join(whose)} |",
        "|---" * (2 + len(whose)) + "|",
    ]
    for skill in dict.fromkeys(skill for skill, _ in grades):
        cells = [claims.percent(grades[skill, side]) if (skill, side) in grades else "-" for side in whose]
        lines.append(f"| {skill.replace('_', ' ')} | {' -> '.join(PAPER.get(skill, ('-',)))} | {' | '.join(cells)} |")
    lines += ["", "Forgetting, KL to the model before on unrelated text, nats a token:", ""]
    lines += [f"- {side}: {value:.4f}" for side, value in forgetting.items()]
    lines += ["", claims.source(made)]
    return "\n".join(lines) + "\n"


def judge(grades: Grades, made: Mapping[str, Any]) -> list[claims.Claim]:
    """The paper's three sentences, and that replay is what keeps instructions."""
    alone, mixed = SIDES[False], SIDES[True]

    def claim(text: str, skill: str, one: str, other: str, least: float = 0.0) -> claims.Claim:
        paper = " -> ".join(PAPER[skill]) if other == "before" and skill in PAPER else "none"
        return claims.compared(text, paper, grades[skill, one], grades[skill, other], made, least=least)

    found = [
        claim("the internalised scratch-pad: direct addition rises", "addition", mixed, "before"),
        claim("the internalised scratch-pad: word problems, never taught, rise", "word_problem", mixed, "before"),
    ]
    kept = "instructions, replayed tasks"
    if (kept, mixed) in grades:
        found += [
            claim("with replay, instructions are kept: less than 5 points lost", kept, mixed, "before", -0.05),
            claim("replay keeps instructions better than none", kept, mixed, alone),
        ]
    return found


if __name__ == "__main__":
    main()
