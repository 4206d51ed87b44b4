"""Runs both sides of a case side by side: each in its own process, in turns, so that they meet the same machine.

In: `Case`s and the interpreters where peers may be installed. Out: `Figure`s, as soon as they are known.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import cdjax
from cdjax.bench.cases import Case, Contestant
from cdjax.bench.figures import Answer, Figure, Results, compare
from cdjax.errors import UserError

PEERS = Path(__file__).parent / "peers"
PROBE = "import importlib.util as u, sys; print(*(name for name in sys.argv[1:] if u.find_spec(name)))"


class Fell(Exception):
    """A contestant's process ended before it had answered; the message is the last thing that it said."""


class Process:
    """One contestant at work; leave the `with` block to end it."""

    def __init__(self, contestant: Contestant, python: str, shapes: dict[str, int]) -> None:
        request = json.dumps({"shapes": shapes, "options": contestant.options})
        how = ["-m", "cdjax.bench.work"] if contestant.script == "ours" else [str(PEERS / f"{contestant.script}.py")]
        self.name = contestant.name
        self._said: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._child = subprocess.Popen(
            [python, *how, request],
            env=_environment(contestant),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_) -> None:
        self._child.kill()
        self._child.communicate()
        self._said.close()

    def once(self) -> Answer:
        """Lets it work once. Raises Fell if it could not."""
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write("\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # what it said tells more
        line = self._child.stdout.readline()
        if not line:
            self._said.seek(0)
            said = self._said.read().strip().splitlines()
            raise Fell(said[-1] if said else f"exit code {self._child.wait()}")
        return Answer(**json.loads(line))


def run(
    cases: Sequence[Case], pythons: Sequence[str], *, clock: str, repeat: int, seconds: float, tell
) -> Iterator[Figure]:
    """Every case against every other contestant that can be had; `tell` is told what is on, and who is missing.

    Each comparison takes `repeat` turns, or fewer (at least one) when they take more than so many seconds.
    Raises UserError if our own side fails.
    """
    found = None
    for case in cases:
        present: list[tuple[Contestant, str]] = []
        for other in case.others:
            if other.needs and pythons and found is None:
                found = probe(pythons, sorted({need for case in cases for one in case.others for need in one.needs}))
            python = _where(other, found or {})
            if python is None:
                tell(f"{case.full_name}: no {other.name}: {_missing(other, pythons)}")
            else:
                present.append((other, python))
        with Process(case.ours, sys.executable, case.shapes) as ours:
            yield from _case(case, ours, present, clock=clock, repeat=repeat, seconds=seconds, tell=tell)


def _case(case, ours: Process, present, *, clock: str, repeat: int, seconds: float, tell) -> Iterator[Figure]:
    tell(f"{case.full_name}: cdjax")
    try:
        first = ours.once()
    except Fell as error:
        raise UserError(f"{case.full_name}: cdjax itself failed: {error}") from error
    if not present:
        mine, _ = _turns(ours, None, repeat, seconds)
        yield from compare(case, Results("cdjax", first, mine), None, clock)
    for other, python in present:
        tell(f"{case.full_name}: {other.name}")
        try:
            with Process(other, python, case.shapes) as peer:
                its_first = peer.once()
                mine, its = _turns(ours, peer, repeat, seconds)
        except Fell as error:
            tell(f"{case.full_name}: {other.name} failed: {error}")
            continue
        yield from compare(case, Results("cdjax", first, mine), Results(other.name, its_first, its), clock)


def _turns(ours: Process, peer: Process | None, repeat: int, seconds: float):
    """A B A B: the repetitions of both."""
    mine: list[Answer] = []
    its: list[Answer] = []
    end = time.monotonic() + seconds
    while len(mine) < repeat and (not mine or time.monotonic() < end):
        mine.append(ours.once())
        if peer is not None:
            its.append(peer.once())
    return tuple(mine), tuple(its)


def probe(pythons: Sequence[str], packages: Sequence[str]) -> dict[str, set[str]]:
    """Which of the packages each interpreter has. Raises UserError for a path that is no Python."""
    found = {}
    for python in pythons:
        try:
            done = subprocess.run([python, "-c", PROBE, *packages], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"--peer-python {python} is no Python interpreter that runs ({error})") from error
        found[python] = set(done.stdout.split())
    return found


def _where(other: Contestant, found: dict[str, set[str]]) -> str | None:
    if other.script == "ours":
        return sys.executable
    return next((python for python, packages in found.items() if set(other.needs) <= packages), None)


def _missing(other: Contestant, pythons: Sequence[str]) -> str:
    if not pythons:
        return "peers are left out"
    return f"no interpreter has {' and '.join(other.needs)}; give one that does with --peer-python PATH"


def _environment(contestant: Contestant) -> dict[str, str]:
    """As many threads as cores are ours to use; memory of a card is taken as needed, because two processes share it."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONWARNINGS": "ignore",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }
    if contestant.script == "ours":
        ours = str(Path(cdjax.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [ours, environment.get("PYTHONPATH")]))
    else:
        environment.pop("PYTHONPATH", None)  # another interpreter must not find our packages
    return environment
