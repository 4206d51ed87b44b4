"""Drops answers without text."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from cdjax.lessons.filters import Evidence, Kept


@dataclasses.dataclass(frozen=True)
class NonEmpty:
    """Keeps answers whose kept part has text; the reason is "empty"."""

    kind: ClassVar[str] = "non_empty"

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        return [None if answer.text else "empty" for answer in answers]
