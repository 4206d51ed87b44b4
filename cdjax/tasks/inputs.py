"""D, the task inputs to distil on: a pool, a file, a rule, or written by the model, joined and without repeats.

In: Task, Inputs, texts written by the model. Out: Collected (views/encode.py).
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from cdjax.errors import UserError
from cdjax.tasks import files
from cdjax.tasks.task import Task, normalized


@dataclasses.dataclass(frozen=True)
class Inputs:
    """D, the task inputs to distil on, in the paper's three ways; those asked for are joined, duplicates removed."""

    pool: bool = False  # the task's own unlabelled inputs
    tasks: tuple[str, ...] = ()  # other tasks, whose pools are joined in: any of their inputs may be asked of this one
    file: str = ""  # JSONL with an "input" field, or text with one input a line
    rule: int = 0  # so many drawn from the task's rule
    written: int = 0  # so many samples written by the model from a few-shot prompt of inputs
    written_shots: int = 8  # inputs shown in that prompt
    written_tokens: int = 32  # longer ones are dropped
    limit: int = 0  # keep at most so many, chosen at random; 0 keeps all


@dataclasses.dataclass(frozen=True)
class Collected:
    """Inputs to distil on, and how many came from where and went for which reason.

    pool + tasks + file + rule + written == kept + unreadable + reserved + duplicate + over_limit.
    """

    inputs: tuple[str, ...]
    counts: dict[str, int]


def check(task: Task, cfg: Inputs, others: Sequence[Task] = ()) -> None:
    """Raises UserError for inputs that are asked of a task, or of `others`, which does not have them."""
    wrong = {
        "pool": bool(cfg.pool and not task.pool),
        "rule": bool(cfg.rule and task.rule is None),
        "written": bool(cfg.written and not (task.demonstrations or task.pool)),  # none to show the model
    }
    if bare := [other.name for other in others if not other.pool]:
        raise UserError(f"inputs.tasks={list(cfg.tasks)} joins in pools, and {', '.join(bare)} has none")
    if missing := [name for name, asked in wrong.items() if asked]:
        instead = ", ".join(name for name in ("pool", "tasks", "file", "rule", "written") if name not in missing)
        raise UserError(
            f"inputs.{' and inputs.'.join(missing)} asked of task {task.name!r}, which has none; see inputs.{instead}"
        )


def collect(
    task: Task, cfg: Inputs, *, seed: int, written: Sequence[str] = (), others: Sequence[Task] = ()
) -> Collected:
    """All inputs that `cfg` asks for; demonstrations, test, validation and held-out inputs are never among them.

    `written` is what the model wrote, `others` are `cfg.tasks`: what they reserve is left out too. Raises UserError
    when nothing is left.
    """
    check(task, cfg, others)
    sources = {
        "pool": list(task.pool) if cfg.pool else [],
        "tasks": [text for other in others for text in other.pool],
        "file": [example.input for example in files.read(cfg.file)] if cfg.file else [],
        "rule": _drawn(task, cfg, seed),
        "written": list(written),
    }
    counts = {source: len(texts) for source, texts in sources.items()}
    counts |= {"unreadable": 0, "reserved": 0, "duplicate": 0, "over_limit": 0}
    readable = [parse_written(text) for text in written]
    counts["unreadable"] = readable.count(None)
    sources["written"] = [text for text in readable if text]
    reserved, chosen = set().union(*map(_reserved, (task, *others))), {}
    for text in (text for texts in sources.values() for text in texts):
        key = normalized(text)
        if key in reserved or key in chosen:
            counts["reserved" if key in reserved else "duplicate"] += 1
        else:
            chosen[key] = text
    inputs = list(chosen.values())
    if cfg.limit and len(inputs) > cfg.limit:
        counts["over_limit"] = len(inputs) - cfg.limit
        picked = sorted(random.Random(f"limit {seed}").sample(range(len(inputs)), cfg.limit))
        inputs = [inputs[i] for i in picked]
    counts["kept"] = len(inputs)
    if not inputs:
        raise UserError(
            f"task {task.name!r} has no input to distil on: {_told(counts)}; see its inputs.pool, tasks, file, rule"
        )
    return Collected(tuple(inputs), counts)


def parse_written(text: str) -> str | None:
    """The first line that says something, without a list's bullet or number; None if there is none."""
    for line in text.splitlines():
        said = re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line).strip()
        if said:
            return said
    return None


def _drawn(task: Task, cfg: Inputs, seed: int) -> list[str]:
    rng = random.Random(f"rule {seed}")
    return [task.rule(rng) for _ in range(cfg.rule)] if task.rule else []


def _reserved(task: Task) -> set[str]:
    texts = [demonstration.input for demonstration in task.demonstrations]
    texts += [example.input for example in task.validation + task.test]
    return {normalized(text) for text in (*texts, *task.held_out)}


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())
