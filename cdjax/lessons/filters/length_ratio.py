"""Drops answers that are much shorter or longer than the teacher's answer without its context."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

from cdjax.lessons.filters import Evidence, Kept
from cdjax.parts import above, at_least


@dataclasses.dataclass(frozen=True)
class LengthRatio:
    """Keeps answers with `least` to `most` times the tokens of the bare answer; reasons "too_short" and "too_long".

    The bare answer is the teacher's without the context, sampled once for each input. A student that learns from
    answers that a context shortens or inflates learns their length first of all. The tokens that f keeps are counted,
    the stop included, and all tokens of the bare answer.
    """

    kind: ClassVar[str] = "length_ratio"
    least: float = at_least(0, 0.2)
    most: float = above(0, 5.0)

    def problems(self) -> Iterator[str]:
        if self.least > self.most:
            yield f"least={self.least:g} is more than most={self.most:g}: no answer would be kept"

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        bare = evidence.bare() if answers else {}
        ratios = [len(answer.indices) / len(bare[answer.rollout.input].ids) for answer in answers]
        return ["too_short" if ratio < self.least else "too_long" if ratio > self.most else None for ratio in ratios]
