"""D, the task inputs to distil on: from pools, a file, a rule and a model, joined and without duplicates.

In: Task, Inputs, texts written by the model. Out: Collected (views/encode.py).
"""

import dataclasses
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cdjax.errors import UserError
from cdjax.parts import at_least
from cdjax.tasks import files
from cdjax.tasks.task import Task, normalized


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The sources of D, the task inputs to distil on: those asked for are joined, without duplicates."""

    pool: bool = False  # the task's own unlabelled inputs
    tasks: tuple[str, ...] = ()  # other tasks, whose pools are joined in: any of their inputs may be asked of this one
    file: str = ""  # JSONL with an "input" field, or text with one input a line
    rule: int = at_least(0, 0)  # number drawn from the task's rule
    written: int = at_least(0, 0)  # number of samples that the model writes after a few-shot prompt of inputs
    written_shots: int = at_least(1, 8)  # inputs shown in that prompt
    written_tokens: int = at_least(1, 32)  # longer ones are dropped
    limit: int = at_least(0, 0)  # the most that are kept, chosen at random; 0 keeps all

    def problems(self) -> Iterator[str]:
        """No source of inputs at all, or a file without one."""
        if self.file and not Path(self.file).is_file():
            yield f"file is {self.file!r}, which does not exist"
        elif self.file and not Path(self.file).read_text(encoding="utf-8", errors="replace").strip():
            yield f"file is {self.file!r}, which is empty"
        if not (self.pool or self.tasks or self.file or self.rule or self.written):
            yield "pool, tasks, file, rule and written are all off: choose where the inputs come from"

    def misfits(self, task: str) -> Iterator[str]:
        """A sentence for what does not go with a task of that name, or with none."""
        if not task and not self.file:
            yield "file is needed where there is no task"
        if task in self.tasks or "" in self.tasks or len(set(self.tasks)) < len(self.tasks):
            yield f"tasks={list(self.tasks)} must be different names of other tasks; pool is {task!r}'s own"


@dataclasses.dataclass(frozen=True)
class Collected:
    """Inputs to distil on, and counts by origin and by the reason to leave an input out.

    pool + tasks + file + rule + written == kept + unreadable + reserved + duplicate + over_limit.
    """

    inputs: tuple[str, ...]
    counts: dict[str, int]


def check(task: Task, cfg: Inputs, others: Sequence[Task] = ()) -> None:
    """Raises UserError if `cfg` asks for a source of inputs that the task, or a task of `others`, does not have."""
    absent = {
        "pool": bool(cfg.pool and not task.pool),
        "rule": bool(cfg.rule and task.rule is None),
        "written": bool(cfg.written and not (task.demonstrations or task.pool)),  # no input to show the model
    }
    if bare := [other.name for other in others if not other.pool]:
        raise UserError(f"inputs.tasks={list(cfg.tasks)} joins in pools, and {', '.join(bare)} has none")
    if missing := [source for source, is_absent in absent.items() if is_absent]:
        instead = ", ".join(name for name in ("pool", "tasks", "file", "rule", "written") if name not in missing)
        raise UserError(
            f"inputs.{' and inputs.'.join(missing)} asked of task {task.name!r}, which has none; see inputs.{instead}"
        )


def collect(
    task: Task, cfg: Inputs, *, seed: int, written: Sequence[str] = (), others: Sequence[Task] = ()
) -> Collected:
    """All inputs that `cfg` asks for, without demonstrations, test, validation and held-out inputs.

    `written` are the model's texts, `others` are the tasks `cfg.tasks`, whose reserved inputs are left out too. Raises
    UserError when no input is left.
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
        sampled = sorted(random.Random(f"limit {seed}").sample(range(len(inputs)), cfg.limit))
        inputs = [inputs[index] for index in sampled]
    counts["kept"] = len(inputs)
    if not inputs:
        raise UserError(
            f"task {task.name!r} has no input to distil on: {_listed(counts)}; see its inputs.pool, tasks, file, rule"
        )
    return Collected(tuple(inputs), counts)


def parse_written(text: str) -> str | None:
    """The first line with text, without a list's bullet or number; None if there is none."""
    for line in text.splitlines():
        content = re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line).strip()
        if content:
            return content
    return None


def _drawn(task: Task, cfg: Inputs, seed: int) -> list[str]:
    rng = random.Random(f"rule {seed}")
    return [task.rule(rng) for _ in range(cfg.rule)] if task.rule else []


def _reserved(task: Task) -> set[str]:
    """The normalized inputs that the task shows or tests."""
    texts = [demonstration.input for demonstration in task.demonstrations]
    texts += [example.input for example in task.validation + task.test]
    return {normalized(text) for text in (*texts, *task.held_out)}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
