"""Drops answers that most of the answers to the same input do not agree with (self-consistency, arXiv 2203.11171)."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import ClassVar

from cdjax.lessons.filters import Evidence, Kept


@dataclasses.dataclass(frozen=True)
class Majority:
    """Keeps an input's answers with the most frequent text, in a tie the first such text; the reason is "minority".

    Only answers that the filters before it left have a vote.
    """

    kind: ClassVar[str] = "majority"
    needs: ClassVar[frozenset[str]] = frozenset({"several answers to an input"})

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        for answer in answers:
            votes[answer.rollout.input][answer.text] += 1
        winners = {text: count.most_common(1)[0][0] for text, count in votes.items()}
        return [None if answer.text == winners[answer.rollout.input] else "minority" for answer in answers]
