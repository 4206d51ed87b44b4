"""What repetitions took -> figures: one JSON line each, or a table for people.

In: `Answer`s of both sides from contest.py. Out: `Figure`s.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rich import console, table

from cdjax.bench.cases import Case


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one repetition took in one process."""

    cpu: float  # seconds, summed over threads
    wall: float
    peak_bytes: int  # the most that the process, or on an accelerator the device, has held so far
    facts: dict[str, int]  # what else the work knows: `bytes_temporary` of its compiled step


@dataclasses.dataclass(frozen=True)
class Results:
    """All repetitions of one contestant. The first is apart: it includes compilation."""

    name: str
    first: Answer
    rest: tuple[Answer, ...]

    @property
    def peak_bytes(self) -> int:
        return max(answer.peak_bytes for answer in (self.first, *self.rest))


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number and what it is compared with. `ratio` is value / peer value: the unit says which way is better."""

    bench: str
    case: str
    shapes: dict[str, Any]
    value: float | int
    unit: str
    spread: float  # highest minus lowest repetition, in the unit
    memory_bytes: int  # the most that our process, or on an accelerator the device, has held
    peer: dict[str, Any] | None  # name and value
    ratio: float | None

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def compare(case: Case, ours: Results, peer: Results | None, clock: str) -> Iterator[Figure]:
    """The figures of one comparison: speed, then the first repetition, peak memory and what the compiler needs."""
    suffix = {"cpu": "CPU-s", "wall": "s"}[clock]

    def figure(value: float | int, unit: str, other: float | int | None, spread: float = 0.0) -> Figure:
        shown = None if peer is None or other is None else {"name": peer.name, "value": other}
        ratio = value / other if other else None
        about = (case.bench, case.name, case.shapes)
        return Figure(*about, value, unit, spread, ours.peak_bytes, shown, ratio)

    speeds = _speeds(case, ours.rest, clock)
    middle = None if peer is None else statistics.median(_speeds(case, peer.rest, clock))
    unit = f"tokens/{suffix}" if case.tokens else suffix
    yield figure(statistics.median(speeds), unit, middle, max(speeds) - min(speeds))
    yield figure(
        getattr(ours.first, clock), f"{suffix}, first time", None if peer is None else getattr(peer.first, clock)
    )
    yield figure(ours.peak_bytes, "bytes, peak", None if peer is None else peer.peak_bytes)
    for name, own in ours.first.facts.items():
        yield figure(own, name.replace("_", ", "), None if peer is None else peer.first.facts.get(name))


def show(figures: Sequence[Figure]) -> None:
    """Prints a table."""
    rows = table.Table("case", "cdjax", "unit", "spread", "peer", "its value", "ratio", box=None)
    for one in figures:
        other = one.peer or {"name": "", "value": None}
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        name = f"{one.bench}/{one.case}"
        spread = _number(one.spread) if one.spread else ""
        rows.add_row(name, _number(one.value), one.unit, spread, other["name"], _number(other["value"]), ratio)
    console.Console(width=None if console.Console().is_terminal else 160).print(rows)


def _speeds(case: Case, answers: Sequence[Answer], clock: str) -> list[float]:
    taken = [getattr(answer, clock) for answer in answers]
    return [case.tokens / seconds for seconds in taken] if case.tokens else taken


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e6:,.0f} M" if value >= 1e6 else f"{value:.4g}"
