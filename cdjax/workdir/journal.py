"""The results of a run's finished stages, so that a second run in the same directory continues after the last."""

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdjax.errors import UserError


class Journal:
    """A JSON file of stage results. A stage is recorded when it has ended: a crash inside it loses that stage alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.stages: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it, and all but the samples is done again") from error

    def once(self, stage: str, compute: Callable[[], Any]) -> Any:
        """The stage's result: read if it has run, else computed and recorded with its seconds and commit."""
        if stage not in self.stages:
            start, code = time.perf_counter(), commit()
            result = compute()
            self.stages[stage] = {"seconds": time.perf_counter() - start, "commit": code, "result": result}
            self._save()
        return self.stages[stage]["result"]

    def done(self, stage: str) -> bool:
        """Whether the stage has run."""
        return stage in self.stages

    def results(self) -> dict[str, Any]:
        """The result of every stage, in the order they ran."""
        return {name: stage["result"] for name, stage in self.stages.items()}

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds of every stage, in the order they ran."""
        return {name: stage["seconds"] for name, stage in self.stages.items()}

    def commits(self) -> list[str]:
        """The different commits that stages ran on, as `commit` returns them, in that order."""
        return list(dict.fromkeys(stage["commit"] for stage in self.stages.values() if stage.get("commit")))

    def _save(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.stages, indent=1))
        os.replace(part, self.path)


@functools.cache
def commit() -> str:
    """The checkout's commit at the first call, with "+" if its code had changes; empty outside of a checkout.

    Changes of other files are ignored: commands write their results into the checkout.
    """
    run = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*run, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        head = subprocess.run([*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = [*run, "status", "--porcelain", "-uno", "--", ":/*.py"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
