"""The metrics of a running experiment: JSON lines on disk.

In: dicts of numbers from every stage. Out: `metrics.jsonl`, which `report/page.py` draws.
"""

import json
import os
from pathlib import Path
from typing import Any


class Metrics:
    """Appends to a JSON-lines file that survives kills: the next start removes an incomplete last line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            _cut_torn_line(self.path)

    def append(self, **fields: Any) -> None:
        """Appends a line, which is in the file when this returns; numpy and jax scalars become numbers."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields, default=float, ensure_ascii=False) + "\n")


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines in order, the last one for each (seed, round, stage, step): after a kill steps are run again.

    All lines without a step are kept. An incomplete last line is left out.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    latest: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(lines):
        key = tuple(line.get(name) for name in ("seed", "round", "stage", "step")) if "step" in line else number
        latest[key] = line
    return list(latest.values())


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
        os.fsync(file.fileno())
