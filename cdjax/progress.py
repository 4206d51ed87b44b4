"""Progress of a stage, as a bar on a terminal and as lines on stderr elsewhere, and notes of compilations."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from rich import console
from rich import progress as bars

Advance = Callable[..., None]
Result = TypeVar("Result")
QUIET_SECONDS = 5.0  # between lines where there is no terminal


@contextlib.contextmanager
def progress(description: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Shows a stage's progress, rate and time left; yields `advance(count=1, **numbers_to_show)`.

    A bar on a terminal; elsewhere a line to stderr every few seconds and a last line at the end. `done` is the work of
    an earlier run: it counts as progress but not towards the rate.
    """
    screen = console.Console(stderr=True)
    with _bar(screen, description, total, done) if screen.is_terminal else _lines(description, total, done) as advance:
        yield advance


@contextlib.contextmanager
def _bar(screen: console.Console, description: str, total: int, done: int) -> Iterator[Advance]:
    columns = (
        bars.TextColumn("{task.description:<24}"),
        bars.BarColumn(bar_width=32),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(compact=True),
        bars.TextColumn("{task.fields[shown]}", style="dim"),
    )
    with bars.Progress(*columns, console=screen) as bar:
        clock = Clock(total, done)
        task = bar.add_task(description, total=total, completed=done, rate="", shown="")

        def advance(count: int = 1, **numbers: float) -> None:
            clock.advance(count)
            bar.update(task, advance=count, rate=f"{clock.rate:.1f}/s", shown=_numbers(numbers))

        yield advance


@contextlib.contextmanager
def _lines(description: str, total: int, done: int) -> Iterator[Advance]:
    clock = Clock(total, done)
    written = time.monotonic()

    def advance(count: int = 1, **numbers: float) -> None:
        nonlocal written
        clock.advance(count)
        if clock.done >= total or time.monotonic() - written >= QUIET_SECONDS:
            written = time.monotonic()
            sys.stderr.write(f"{description}: {clock} {_numbers(numbers)}".rstrip() + "\n")

    yield advance


def tell_compilations(call: Callable[..., Result], shape: Callable[..., str]) -> Callable[..., Result]:
    """`call` with a note on stderr whenever the shape of its arguments is new, and the time that the call took.

    `shape` describes the arguments of a call in words.
    """
    seen: set[str] = set()

    def telling(*arguments: Any) -> Result:
        description = shape(*arguments)
        if description in seen:
            return call(*arguments)
        seen.add(description)
        sys.stderr.write(f"compiling {description}\n")
        started = time.monotonic()
        result = call(*arguments)
        sys.stderr.write(f"compiled {description} in {time.monotonic() - started:.1f} s\n")
        return result

    return telling


class Clock:
    """Counts work against time. The rate is of this run only."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.before = total, done, done
        self.started = time.monotonic()

    def advance(self, count: int) -> None:
        """Adds `count` to the work done."""
        self.done += count

    @property
    def rate(self) -> float:
        """Work done a second."""
        return (self.done - self.before) / max(time.monotonic() - self.started, 1e-9)

    def __str__(self) -> str:
        left = (self.total - self.done) / max(self.rate, 1e-9)
        end = "" if self.done >= self.total else f", {_duration(left)} left"
        return f"{self.done}/{self.total}, {self.rate:.1f}/s{end}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _numbers(numbers: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
