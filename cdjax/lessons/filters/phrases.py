"""Drops answers that mention a context that the student does not see."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

from cdjax.lessons.filters import Evidence, Kept
from cdjax.tasks.task import normalized

TELLING = (
    "according to the context",
    "according to the instructions",
    "as instructed",
    "as the instructions say",
    "based on the context",
    "based on the examples",
    "based on the text",
    "in the given context",
    "in the provided context",
    "the above examples",
    "the examples above",
    "the examples given",
    "the given examples",
    "the instructions above",
    "the previous examples",
    "the provided examples",
    "the system prompt",
)


@dataclasses.dataclass(frozen=True)
class Phrases:
    """Keeps answers that contain none of the phrases; the reason is "phrase".

    A student that learns such an answer mentions instructions and examples that it was not given. Letter case and runs
    of space are ignored; only the text that f keeps is searched, so a scratch-pad may contain the phrases.
    """

    kind: ClassVar[str] = "phrases"
    phrases: tuple[str, ...] = TELLING

    def problems(self) -> Iterator[str]:
        if not self.phrases or not all(map(normalized, self.phrases)):
            yield f"phrases={list(self.phrases)} must be texts, at least one, and none of them empty"

    def refuse(self, answers: Sequence[Kept], evidence: Evidence) -> list[str | None]:
        phrases = [normalized(phrase) for phrase in self.phrases]
        texts = [normalized(answer.text) for answer in answers]
        return ["phrase" if any(phrase in text for phrase in phrases) else None for text in texts]
