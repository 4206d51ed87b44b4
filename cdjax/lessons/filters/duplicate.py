"""Drops answers that were given before to the same input."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from cdjax.lessons.filters import Evidence, Kept


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """Keeps the first of an input's answers that say the same; the reason is "duplicate"."""

    kind: ClassVar[str] = "duplicate"

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        seen: set[tuple[str, str]] = set()
        reasons: list[str | None] = []
        for answer in answers:
            said = answer.rollout.input, answer.text
            reasons.append("duplicate" if said in seen else None)
            seen.add(said)
        return reasons
