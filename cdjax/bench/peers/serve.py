"""A contestant of a benchmark, in a separate process: it does the work on request, and reports time and memory.

In: a request as JSON in the first argument, then a line on stdin for each repetition. Out: a JSON line for each.
Imports nothing but the standard library and numpy, because it also runs in the environments of peers.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Stage:
    """Waits for requests, and reports the time and memory of each repetition. The first includes compilation."""

    def __init__(self) -> None:
        self.request: dict[str, Any] = json.loads(sys.argv[1])
        self._answers = os.fdopen(os.dup(1), "w")  # what a library prints to stdout goes to stderr instead
        os.dup2(2, 1)

    def go(self) -> None:
        """Returns when a repetition is asked for; ends the process when stdin is closed."""
        if not sys.stdin.readline():
            self._answers.flush()
            os._exit(0)  # a trainer's own end would save checkpoints
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def done(self, **facts: int) -> None:
        """Reports the seconds since `go`, the most memory that the process has held, and the work's other facts."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        answer = {"cpu": cpu, "wall": wall, "peak_bytes": facts.pop("peak_bytes", 0) or peak_bytes(), "facts": facts}
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def run(self, work: Callable[[], dict[str, int] | None]) -> None:
        """Repeats `work`, which returns when its results are ready, for each request."""
        while True:
            self.go()
            self.done(**(work() or {}))


def peak_bytes() -> int:
    """The most memory that this process has held. Linux counts what the process before `exec` held in `ru_maxrss`."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def tokens(vocab: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random ids. The first few of a vocabulary are left out: they may be special."""
    return np.random.default_rng(seed).integers(8, vocab, shape, dtype=np.int32)
