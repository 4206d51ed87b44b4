"""A run of `configs/tiny.py` from the command line, as small as the part that is chosen allows."""

import json
from pathlib import Path
from typing import Any

from cdjax import cli

TINY = str(Path(__file__).parent.parent / "configs" / "tiny.py")
SMALL = {
    "operations.0.inputs.written": "0",
    "operations.0.inputs.limit": "8",
    "training.update.epochs": "1",
    "baselines": "()",
    "score.examples": "2",
    "score.measures": "()",
}


def run_tiny(workdir: Path, **changes: str) -> dict[str, Any]:
    """What `results.json` says after `cdjax run configs/tiny.py --set ...`; `a__b` stands for the field `a.b`."""
    fields = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    sets = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
    assert cli.main(["run", TINY, *sets, "--workdir", str(workdir)]) == 0
    return json.loads((workdir / "results.json").read_text())
