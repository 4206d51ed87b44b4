"""What every finished stage of a run returned, so that a second run in the same directory continues after the last."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdjax.errors import UserError


class Journal:
    """A JSON file of stage results. A stage is recorded when it is whole: a crash inside one loses that stage alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.stages: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it, and all but the samples is done again") from error

    def once(self, stage: str, compute: Callable[[], Any]) -> Any:
        """The stage's result: read back if it has run, else computed and written down with its seconds."""
        if stage not in self.stages:
            start = time.perf_counter()
            result = compute()
            self.stages[stage] = {"seconds": time.perf_counter() - start, "result": result}
            self._save()
        return self.stages[stage]["result"]

    def done(self, stage: str) -> bool:
        """Whether the stage has run."""
        return stage in self.stages

    def results(self) -> dict[str, Any]:
        """What every stage returned, in the order they ran."""
        return {name: stage["result"] for name, stage in self.stages.items()}

    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds of every stage, in the order they ran."""
        return {name: stage["seconds"] for name, stage in self.stages.items()}

    def _save(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.stages, indent=1))
        os.replace(part, self.path)
