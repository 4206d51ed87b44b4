"""The demonstrations most like the input of each row, by BM25 (Robertson and Zaragoza 2009)."""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from cdjax.errors import UserError
from cdjax.tasks.task import Demonstration
from cdjax.views.select import others


@dataclasses.dataclass(frozen=True)
class BM25:
    """The demonstrations of context and task whose inputs share most words with the row's, rare words above all.

    Of equal scores the earlier demonstration ranks higher. Raises UserError if the package bm25s is not installed.
    """

    kind: ClassVar[str] = "bm25"
    nearest: Literal["last", "first"] = "last"  # place of the highest score: beside the input, or far from it

    def __call__(
        self, demonstrations: Sequence[Demonstration], inputs: Sequence[str], shots: int
    ) -> list[tuple[Demonstration, ...]]:
        try:
            from bm25s import BM25 as Index  # imports jax, where that is installed
        except ImportError:
            raise UserError("the selector bm25 needs the package bm25s; pip install 'cdjax[select]'") from None
        index, rows = Index(), []
        words = [_words(demonstration.input) for demonstration in demonstrations]
        index.index(words, create_empty_token=False, show_progress=False)  # its scores are not to be had (0.3.16)
        for text, indices in zip(inputs, others(demonstrations, inputs, shots), strict=True):
            scores = index.get_scores(_words(text))
            nearest = sorted(indices, key=scores.__getitem__, reverse=True)[:shots]  # a stable sort
            shown = reversed(nearest) if self.nearest == "last" else nearest
            rows.append(tuple(demonstrations[number] for number in shown))
        return rows


def _words(text: str) -> list[str]:
    """The words of a text; a text without any, such as "+", is a word."""
    return re.findall(r"\w+", text.casefold()) or [text.strip()]
