"""Drops answers that ran into the length limit."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from cdjax.lessons.filters import Evidence, Kept


@dataclasses.dataclass(frozen=True)
class Finished:
    """Keeps answers that ended with a stop token; the reason is "unfinished"."""

    kind: ClassVar[str] = "finished"

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        return [None if answer.rollout.stopped else "unfinished" for answer in answers]
