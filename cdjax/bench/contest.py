"""Runs cdjax and a peer in two processes that take turns, so that both run under the same load of the machine.

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


class ContestantFailed(UserError):
    """A contestant's process ended before it had answered."""

    def __init__(self, who: str, said: str) -> None:
        super().__init__(f"{who} failed: {said}")
        self.who = who


class Process:
    """A contestant's process; it is killed when the `with` block ends."""

    def __init__(self, contestant: Contestant, python: str, shapes: dict[str, int]) -> None:
        request = json.dumps({"shapes": shapes, "options": contestant.options})
        ours = contestant.script == "ours"
        program = ["-m", "cdjax.bench.work"] if ours else [str(PEERS / f"{contestant.script}.py")]
        self.name = contestant.name
        self._stderr: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._child = subprocess.Popen(
            [python, *program, request],
            env=_environment(contestant),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_) -> None:
        self._child.kill()
        self._child.communicate()
        self._stderr.close()

    def once(self) -> Answer:
        """Has the contestant do the work once. Raises ContestantFailed if its process ends."""
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            self._child.stdin.write("\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # the child's last words on stderr tell more
        line = self._child.stdout.readline()
        if not line:
            self._stderr.seek(0)
            lines = self._stderr.read().strip().splitlines()
            raise ContestantFailed(self.name, lines[-1] if lines else f"exit code {self._child.wait()}")
        return Answer(**json.loads(line))


@dataclasses.dataclass(frozen=True)
class Rules:
    """The length of a comparison: `repeat` turns, or fewer (at least one) if they take more than `seconds`."""

    clock: str = "wall"
    repeat: int = 5
    seconds: float = 60.0


def run(cases: Sequence[Case], pythons: Sequence[str], rules: Rules, tell: Callable[[str], object]) -> Iterator[Figure]:
    """Yields the figures of every case against every other contestant that one of the interpreters can run.

    `tell` is called with the case that starts, and with contestants that are missing or fail. Raises UserError if
    cdjax's side fails.
    """
    needs = {need for case in cases for other in case.others for need in other.needs}
    installed = probe(pythons, sorted(needs)) if needs else {}
    for case in cases:
        present = []
        for other in case.others:
            if python := _interpreter(other, installed):
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
        answers, _ = _turns(ours, None, rules)
        yield from compare(case, Results("cdjax", first, answers), None, rules.clock)
    for other, python in present:
        tell(f"{case.full_name}: {other.name}")
        with Process(other, python, case.shapes) as peer:
            try:
                peer_first = peer.once()
                answers, peer_answers = _turns(ours, peer, rules)
            except ContestantFailed as error:
                if error.who == ours.name:
                    raise
                tell(f"{case.full_name}: {error}")
                continue
        peer_results = Results(other.name, peer_first, peer_answers)
        yield from compare(case, Results("cdjax", first, answers), peer_results, rules.clock)


def _turns(ours: Process, peer: Process | None, rules: Rules) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
    """The repetitions of both sides, in turns: A B A B."""
    answers: list[Answer] = []
    peer_answers: list[Answer] = []
    end = time.monotonic() + rules.seconds
    while len(answers) < rules.repeat and (not answers or time.monotonic() < end):
        answers.append(ours.once())
        if peer is not None:
            peer_answers.append(peer.once())
    return tuple(answers), tuple(peer_answers)


def probe(pythons: Sequence[str], packages: Sequence[str]) -> dict[str, set[str]]:
    """The packages that each interpreter has, of those named. Raises UserError for a path that is not a Python."""
    installed = {}
    for python in pythons:
        try:
            done = subprocess.run([python, "-c", PROBE, *packages], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"--peer-python {python} is no Python interpreter that runs ({error})") from error
        installed[python] = set(done.stdout.split())
    return installed


def _interpreter(other: Contestant, installed: dict[str, set[str]]) -> str | None:
    """The first interpreter with all packages that the contestant needs; None if there is none."""
    if other.script == "ours":
        return sys.executable
    return next((python for python, packages in installed.items() if set(other.needs) <= packages), None)


def _missing(other: Contestant, pythons: Sequence[str]) -> str:
    if not pythons:
        return "peers are left out"
    return f"no interpreter has {' and '.join(other.needs)}; give one that does with --peer-python PATH"


def _environment(contestant: Contestant) -> dict[str, str]:
    """The variables of a contestant's process: a thread for each usable core, and a GPU's memory taken as needed.

    Two processes share the GPU.
    """
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
        environment.pop("PYTHONPATH", None)  # another interpreter must not find this one's packages
    return environment
