"""Distils with replay and without, asks every student for what it was not taught, and writes a table: see config.py."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import cdjax
from cdjax import tasks
from cdjax.language_model import LanguageModel
from cdjax.views import render
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.instructions.config import TASKS as NAMES
from experiments.paper.transfer import config

QUESTION = "Does a skill that a model has internalised help elsewhere, and what does it cost?"
SIDES = {False: "after, without replay", True: "after, with replay"}
PAPER = {  # of an 11-billion-parameter model; before and after with replay
    "addition": ("1", "17"),
    "word_problem": ("17", "30"),
    "unlike": ("57", "58"),
}
ROWS = {"addition": "addition", "things": "things", "word_problem": "word problem"} | {
    name: f"instructions, {title}" for name, title in config.TITLES.items()
}
SHOWN = 2  # solved examples before a question that transfers
Grades: TypeAlias = dict[tuple[str, str], list[list[float]]]  # what is measured, of whom -> [seeds][examples]
Asked: TypeAlias = tuple[tasks.Task, list[tasks.Example], list[str]]  # a task, its test examples, their prompts


def main(argv: Sequence[str] | None = None) -> Grades:
    """The command. Returns the grades that the table is made of."""
    args = claims.arguments("transfer", QUESTION, argv)
    asked = questions(args.data_dir, tiny=args.tiny)
    grades: Grades = {}
    forgetting, runs = {}, []
    for mixed, side in SIDES.items():
        workdir = args.workdir / ("with_replay" if mixed else "without_replay")
        cfg = config.get_config(mixed, args.data_dir, args.seeds, tiny=args.tiny)
        told = cdjax.run(cfg, workdir)
        forgetting[side] = told["measures"]["forgetting"]["after"]["mean"]
        found, said = Journal(workdir / "journal.json").results(), Journal(workdir / "skills.json")
        if not mixed:
            grades["addition", "teacher, with the scratch-pad"] = [found["teacher"]["grades"]]
            grades["addition", "before"] = [found["before"]["grades"]]
            before = skills(said, "before", asked, partial(cdjax.load_model, cfg.model))
            grades |= {(name, "before"): [graded] for name, graded in before.items()}
        grades["addition", side] = [found[f"seed {seed}/round 0/score"]["grades"] for seed in args.seeds]
        after = [skills(said, f"seed {one}", asked, partial(student, workdir, one)) for one in args.seeds]
        grades |= {(name, side): [one[name] for one in after] for name in asked}
        runs += [told, {"commit": ", ".join(said.commits()), "seconds": said.seconds()}]
    made = claims.made_by("transfer", args.seeds, runs)
    claims.publish(args, page(grades, forgetting, made), judge(grades, made))
    return grades


def questions(data_dir: str, *, tiny: bool) -> dict[str, Asked]:
    """What nobody was taught, the test examples of each task: those of transfer, and instructions."""
    asked = {kind: (f"{kind}:{config.DIGITS}", cdjax.Context(shots=SHOWN)) for kind in config.TRANSFER}
    if not tiny:
        asked |= {
            name: (config.instructed(name), config.FOLLOWED) for names in config.INSTRUCTIONS.values() for name in names
        }
    found = {}
    for name, (source, view) in asked.items():
        task = tasks.load(source, data_dir=data_dir)
        wanted, whole = task.test[: 2 if tiny else config.TESTED], render.complete(view, task)
        found[name] = task, wanted, [render.plain(config.TEMPLATE, whole, one.input) for one in wanted]
    return found


def student(workdir: Path, seed: int) -> LanguageModel:
    """A seed's student, which is left as a Hugging Face directory."""
    folder = workdir / f"student_{seed}"
    cdjax.export(workdir, folder, seed)
    return cdjax.load_model(str(folder))


def skills(
    said: Journal, whose: str, asked: Mapping[str, Asked], load: Callable[[], LanguageModel]
) -> dict[str, list[float]]:
    """The grades of a model's greedy answers to every task; it is loaded if one has not been asked before."""
    loaded = cache(load)
    return {name: said.once(f"{whose}/{name}", partial(answered, loaded, *one)) for name, one in asked.items()}


def answered(
    load: Callable[[], LanguageModel], task: tasks.Task, wanted: Sequence[tasks.Example], prompts: Sequence[str]
) -> list[float]:
    """The grades of one task, of the first line of each answer."""
    answers = load().generate(prompts, max_new_tokens=24)
    return [task.grade(one, answer.split("\n")[0].strip()) for one, answer in zip(wanted, answers, strict=True)]


def together(grades: Grades, kind: str, whose: str) -> list[list[float]]:
    """[seeds][examples] of a row of the table, the examples of each of its tasks after another."""
    every = [grades[name, whose] for name in config.INSTRUCTIONS.get(kind, (kind,)) if (name, whose) in grades]
    return np.concatenate(every, axis=1).tolist() if every else []


def page(grades: Grades, forgetting: Mapping[str, float], made: Mapping[str, Any]) -> str:
    """results.md: what was measured of whom, with the paper's numbers beside, and every task of instructions."""
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
    for kind, title in ROWS.items():
        told = claims.level if kind in config.INSTRUCTIONS else claims.percent
        cells = [told(rows) if (rows := together(grades, kind, side)) else "-" for side in whose]
        lines.append(f"| {title} | {' -> '.join(PAPER.get(kind, ('-',)))} | {' | '.join(cells)} |")
    sides = whose[1:]
    lines += ["", "Instructions by task:", "", f"| | {' | '.join(sides)} |", "|---" * (1 + len(sides)) + "|"]
    for name in (one for names in config.INSTRUCTIONS.values() for one in names if (one, sides[0]) in grades):
        lines.append(f"| {name}, {NAMES[name]} | {' | '.join(claims.level(grades[name, side]) for side in sides)} |")
    lines += ["", "Forgetting, KL to the model before on unrelated text, nats a token:", ""]
    lines += [f"- {side}: {value:.4f}" for side, value in forgetting.items()]
    lines += ["", claims.source(made)]
    return "\n".join(lines) + "\n"


def judge(grades: Grades, made: Mapping[str, Any]) -> list[claims.Claim]:
    """The paper's three sentences, and that replay is what keeps instructions."""
    alone, mixed = SIDES[False], SIDES[True]

    def claim(text: str, kind: str, one: str, other: str, least: float = 0.0) -> claims.Claim:
        paper = " -> ".join(PAPER[kind]) if other == "before" and kind in PAPER else "none"
        ours, against = (together(grades, kind, side) for side in (one, other))
        found = claims.compared(text, paper, ours, against, made, least=least, reason=config.DIFFERENT)
        why = f"{config.LITTLE_TO_KEEP}; {found.reason}"
        return dataclasses.replace(found, reason=why) if kind == "unlike" else found

    found = [
        claim("the internalised scratch-pad: direct addition rises", "addition", mixed, "before"),
        claim("the internalised scratch-pad: word problems, never taught, rise", "word_problem", mixed, "before"),
    ]
    if together(grades, "unlike", mixed):
        kept = "with replay, instructions of other tasks are kept: less than 5 points lost"
        found += [
            claim(kept, "unlike", mixed, "before", -5),
            claim("replay keeps instructions of other tasks better than none", "unlike", mixed, alone),
        ]
    return found


if __name__ == "__main__":
    claims.command(main)
