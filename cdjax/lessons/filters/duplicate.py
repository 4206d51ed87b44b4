"""Drops answers that repeat an earlier answer to the same input."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from cdjax.lessons.filters import Evidence, Kept


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """Keeps the first of an input's answers with the same text; the reason is "duplicate"."""

    kind: ClassVar[str] = "duplicate"

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        seen: set[tuple[str, str]] = set()
        reasons: list[str | None] = []
        for answer in answers:
            pair = answer.rollout.input, answer.text
            reasons.append("duplicate" if pair in seen else None)
            seen.add(pair)
        return reasons
