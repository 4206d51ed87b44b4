"""Runs both sides of a case side by side: each in its own process, in turns, so that they meet the same machine.

In: `Case`s and the interpreters where peers may be installed. Out: `Figure`s, as soon as they are known.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import cdjax
from cdjax.bench.cases import Case, Contestant
from cdjax.bench.figures import Answer, Figure, Results, compare
from cdjax.errors import UserError

PEERS = Path(__file__).parent / "peers"
PROBE = "import importlib.util as u, sys; print(*(name for name in sys.argv[1:] if u.find_spec(name)))"


class Fell(UserError):
    """A contestant's process ended before it had answered."""

    def __init__(self, who: str, said: str) -> None:
        super().__init__(f"{who} failed: {said}")
        self.who = who


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
            raise Fell(self.name, said[-1] if said else f"exit code {self._child.wait()}")
        return Answer(**json.loads(line))


@dataclasses.dataclass(frozen=True)
class Rules:
    """How long a comparison goes on: `repeat` turns, or fewer (at least one) when they take more than `seconds`."""

    clock: str = "wall"
    repeat: int = 5
    seconds: float = 60.0


def run(cases: Sequence[Case], pythons: Sequence[str], rules: Rules, tell: Callable[[str], object]) -> Iterator[Figure]:
    """Every case against every other contestant that one of the interpreters has.

    `tell` is told what is on, and who is missing or fell. Raises UserError if our own side fails.
    """
    needs = {need for case in cases for other in case.others for need in other.needs}
    found = probe(pythons, sorted(needs)) if needs else {}
    for case in cases:
        present = []
        for other in case.others:
            if python := _where(other, found):
                present.append((other, python))
            else:
                tell(f"{case.full_name}: without {other.name}: {_missing(other, pythons)}")
        tell(f"{case.full_name}: cdjax")
        with Process(case.ours, sys.executable, case.shapes) as ours:
            yield from _case(case, ours, present, rules, tell)


def _case(
    case: Case, ours: Process, present: list[tuple[Contestant, str]], rules: Rules, tell: Callable[[str], object]
) -> Iterator[Figure]:
    first = ours.once()
    if not present:
        mine, _ = _turns(ours, None, rules)
        yield from compare(case, Results("cdjax", first, mine), None, rules.clock)
    for other, python in present:
        tell(f"{case.full_name}: {other.name}")
        with Process(other, python, case.shapes) as peer:
            try:
                its_first = peer.once()
                mine, its = _turns(ours, peer, rules)
            except Fell as error:
                if error.who == ours.name:
                    raise
                tell(f"{case.full_name}: {error}")
                continue
        yield from compare(case, Results("cdjax", first, mine), Results(other.name, its_first, its), rules.clock)


def _turns(ours: Process, peer: Process | None, rules: Rules) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
    """A B A B: the repetitions of both."""
    mine: list[Answer] = []
    its: list[Answer] = []
    end = time.monotonic() + rules.seconds
    while len(mine) < rules.repeat and (not mine or time.monotonic() < end):
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
