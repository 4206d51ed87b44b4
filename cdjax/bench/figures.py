"""Times and memory of repetitions -> figures, as JSON lines or as a table for people.

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
    """The time and memory of a repetition in a process."""

    cpu: float  # seconds, summed over threads
    wall: float
    peak_bytes: int  # the most that the process, or on an accelerator the device, has held so far
    facts: dict[str, int]  # other figures of the work: `bytes_temporary` of its compiled step


@dataclasses.dataclass(frozen=True)
class Results:
    """All repetitions of a contestant. The first is separate: it includes compilation."""

    name: str
    first: Answer
    rest: tuple[Answer, ...]

    @property
    def peak_bytes(self) -> int:
        return max(answer.peak_bytes for answer in (self.first, *self.rest))


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number of cdjax and the peer's. `ratio` is value / peer's value; the unit tells which direction is better."""

    bench: str
    case: str
    shapes: dict[str, Any]
    value: float | int
    unit: str
    spread: float  # highest minus lowest repetition, in the unit
    memory_bytes: int  # the most that cdjax's process, or on an accelerator the device, has held
    peer: dict[str, Any] | None  # name and value
    ratio: float | None

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def compare(case: Case, ours: Results, peer: Results | None, clock: str) -> Iterator[Figure]:
    """Yields the figures of a comparison: speed, then the first repetition's time, peak memory and other facts."""
    suffix = {"cpu": "CPU-s", "wall": "s"}[clock]

    def figure(value: float | int, unit: str, other: float | int | None, spread: float = 0.0) -> Figure:
        entry = None if peer is None or other is None else {"name": peer.name, "value": other}
        ratio = value / other if other else None
        return Figure(case.bench, case.name, case.shapes, value, unit, spread, ours.peak_bytes, entry, ratio)

    speeds = _speeds(case, ours.rest, clock)
    middle = None if peer is None else statistics.median(_speeds(case, peer.rest, clock))
    unit = f"tokens/{suffix}" if case.tokens else suffix
    yield figure(statistics.median(speeds), unit, middle, max(speeds) - min(speeds))
    yield figure(
        getattr(ours.first, clock), f"{suffix}, first time", None if peer is None else getattr(peer.first, clock)
    )
    yield figure(ours.peak_bytes, "bytes, peak", None if peer is None else peer.peak_bytes)
    for name, fact in ours.first.facts.items():
        yield figure(fact, name.replace("_", ", "), None if peer is None else peer.first.facts.get(name))


def show(figures: Sequence[Figure]) -> None:
    """Prints the figures as a table."""
    rows = table.Table("case", "cdjax", "unit", "spread", "peer", "its value", "ratio", box=None)
    for figure in figures:
        peer = figure.peer or {"name": "", "value": None}
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        name = f"{figure.bench}/{figure.case}"
        spread = _number(figure.spread) if figure.spread else ""
        rows.add_row(name, _number(figure.value), figure.unit, spread, peer["name"], _number(peer["value"]), ratio)
    console.Console(width=None if console.Console().is_terminal else 160).print(rows)


def _speeds(case: Case, answers: Sequence[Answer], clock: str) -> list[float]:
    times = [getattr(answer, clock) for answer in answers]
    return [case.tokens / seconds for seconds in times] if case.tokens else times


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e6:,.0f} M" if value >= 1e6 else f"{value:.4g}"
