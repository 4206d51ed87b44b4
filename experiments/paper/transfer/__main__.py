"""Distils with replay and without, asks every student for what it was not taught, and writes a table: see config.py."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
    "instructions, other tasks": ("57", "58"),
}
SHOWN = 2  # solved examples before a question that transfers
Grades: TypeAlias = dict[tuple[str, str], list[list[float]]]  # what is measured, of whom -> [seeds][examples]
Questions: TypeAlias = dict[str, list[tuple[tasks.Task, list[tasks.Example], list[str]]]]  # skill -> tasks' prompts


def main(argv: Sequence[str] | None = None) -> Grades:
    """The command. Returns the grades that the table is made of."""
    args = claims.arguments("transfer", QUESTION, argv)
    asked = questions(args.data_dir, tiny=args.tiny)
    said = Journal(args.workdir / "skills.json")
    grades: Grades = {}
    forgetting, runs = {}, []
    for mixed, side in SIDES.items():
        workdir = args.workdir / ("with_replay" if mixed else "without_replay")
        cfg = config.get_config(mixed, args.data_dir, args.seeds, tiny=args.tiny)
        told = cdjax.run(cfg, workdir)
        runs.append(told)
        forgetting[side] = told["forgetting"]["mean"]
        found = Journal(workdir / "journal.json").results()
        grades["addition", "teacher, with the scratch-pad"] = [found["teacher"]["grades"]]
        grades["addition", "before"] = [found["before"]["grades"]]
        grades["addition", side] = [found[f"seed {seed}/round 0/score"]["grades"] for seed in args.seeds]
        before = said.once("before", partial(skills, asked, cdjax.load_model, cfg.model))
        after = [said.once(f"{side}, seed {one}", partial(skills, asked, student, workdir, one)) for one in args.seeds]
        for whose, each in (("before", [before]), (side, after)):
            grades |= {(skill, whose): [one[skill] for one in each] for skill in asked}
    runs.append({"commit": ", ".join(said.commits()), "seconds": said.seconds()})
    made = claims.made_by("transfer", args.seeds, runs)
    text = page(grades, forgetting, made)
    print(text)
    if not args.tiny:
        (HERE / "results.md").write_text(text, encoding="utf-8")
    claims.record(judge(grades, made), args.claims)
    return grades


def questions(data_dir: str, *, tiny: bool) -> Questions:
    """What nobody was taught: transfer, and instructions replayed and not; the prompts of each task's test examples."""
    asked = {kind: [(f"{kind}:{config.DIGITS}", cdjax.Context(shots=SHOWN))] for kind in config.TRANSFER}
    if not tiny:
        for kind, names in (("replayed", config.REPLAYED), ("other", config.OTHERS)):
            asked[f"instructions, {kind} tasks"] = [(config.instructed(name), config.FOLLOWED) for name in names]
    found: Questions = {}
    for skill, many in asked.items():
        for name, view in many:
            task = tasks.load(name, data_dir=data_dir)
            wanted, whole = task.test[: 2 if tiny else config.TESTED], render.complete(view, task)
            prompts = [render.plain(config.TEMPLATE, whole, one.input) for one in wanted]
            found.setdefault(skill, []).append((task, wanted, prompts))
    return found


def student(workdir: Path, seed: int) -> LanguageModel:
    """A seed's student, which is left as a Hugging Face directory."""
    folder = workdir / f"student_{seed}"
    cdjax.export(workdir, folder, seed)
    return cdjax.load_model(str(folder))


def skills(asked: Questions, load: Callable[..., LanguageModel], *which: Any) -> dict[str, list[float]]:
    """The grades of a model's greedy answers, the examples of each task after another."""
    model = load(*which)
    found: dict[str, list[float]] = {}
    for skill, many in asked.items():
        for task, wanted, prompts in many:
            answers = model.generate(prompts, max_new_tokens=24)
            grades = [
                task.grade(one, answer.split("\n")[0].strip()) for one, answer in zip(wanted, answers, strict=True)
            ]
            found.setdefault(skill, []).extend(grades)
    return found


def page(grades: Grades, forgetting: Mapping[str, float], made: Mapping[str, Any]) -> str:
    """results.md: what was measured of whom, with the paper's numbers beside."""
    whose = list(dict.fromkeys(side for _, side in grades))
    lines = [
        "# A skill that was internalised, elsewhere (paper, 4.3, transfer)",
        "",
        f"Per cent, means of seeds {', '.join(map(str, made['seeds']))}, 95 % intervals over seeds and examples;",
        "instructions by Rouge-L. Of replayed tasks a student has learned solved examples, of the others none.",
        f"What differs from the paper: {config.DIFFERENT}.",
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
        return claims.compared(
            text, paper, grades[skill, one], grades[skill, other], made, least=least, reason=config.DIFFERENT
        )

    found = [
        claim("the internalised scratch-pad: direct addition rises", "addition", mixed, "before"),
        claim("the internalised scratch-pad: word problems, never taught, rise", "word_problem", mixed, "before"),
    ]
    kept = "instructions, other tasks"
    if (kept, mixed) in grades:
        found += [
            claim(
                "with replay, instructions of other tasks are kept: less than 5 points lost", kept, mixed, "before", -5
            ),
            claim("replay keeps instructions of other tasks better than none", kept, mixed, alone),
        ]
    return found


if __name__ == "__main__":
    claims.command(main)
