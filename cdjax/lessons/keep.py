"""f and the filters: which tokens of a teacher's answer the student must produce, or why the answer is dropped.

In: Rollout (sampling/store.py). Out: Kept (pairs.py), and a count for every reason.
"""

import bisect
import dataclasses
import os.path
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int

from cdjax.errors import UserError
from cdjax.lessons.filters import Evidence, Filter, Kept
from cdjax.lessons.filters.finished import Finished
from cdjax.lessons.filters.non_empty import NonEmpty
from cdjax.sampling.store import Rollout
from cdjax.views import encode
from cdjax.views.render import Tokenizer
from cdjax.views.view import Format


@dataclasses.dataclass(frozen=True)
class Keep:
    """f and the filters: what part of the teacher's answer the student must produce, and which answers count."""

    span: Literal["all", "regex", "after"] = "all"
    pattern: str = ""  # for "regex" the first group (or the match), for "after" the marker
    filters: tuple[Filter, ...] = (Finished(), NonEmpty())  # one after the other, each on what is left

    def problems(self) -> Iterator[str]:
        if (self.span == "all") == bool(self.pattern):
            yield f"span={self.span!r} {'takes no' if self.pattern else 'needs a'} keep.pattern"
        if self.span == "regex" and (error := _regex_error(self.pattern)):
            yield f"pattern={self.pattern!r} is not a regular expression: {error}"


def keep(
    rollouts: Sequence[Rollout], format: Format, cfg: Keep, evidence: Evidence
) -> tuple[list[Kept], dict[str, int]]:
    """The answers that survive f and the filters, in order, and how many were dropped for each reason.

    The counts and the kept sum to the rollouts given. Raises UserError when nothing survives.
    """
    answers = cut(rollouts, format, cfg)
    reasons = judge(answers, cfg.filters, evidence)
    return left(answers, reasons), counts(reasons)


def cut(rollouts: Sequence[Rollout], format: Format, cfg: Keep) -> list[Kept | str]:
    """What f keeps of every answer, or why it cannot."""
    return [_cut(rollout, format.body(rollout.ids), format.tokenizer, cfg) for rollout in rollouts]


def judge(answers: Sequence[Kept | str], filters: Sequence[Filter], evidence: Evidence) -> list[str | None]:
    """The reason to drop each answer, f's or that of the first filter against it, or None.

    Raises UserError when no answer is left.
    """
    reasons = [answer if isinstance(answer, str) else None for answer in answers]
    for part in filters:
        places = [place for place, reason in enumerate(reasons) if reason is None]
        verdicts = part.refuse(left(answers, reasons), evidence)
        for place, verdict in zip(places, verdicts, strict=True):
            reasons[place] = verdict
    if None not in reasons:
        dropped = ", ".join(f"{reason} {n}" for reason, n in counts(reasons).items()) or "there were none"
        raise UserError(f"none of {len(answers)} teacher answers was kept ({dropped}); see keep and limits.completion")
    return reasons


def left(answers: Sequence[Kept | str], reasons: Sequence[str | None]) -> list[Kept]:
    """The answers that there is no reason to drop."""
    judged = zip(answers, reasons, strict=True)
    return [answer for answer, reason in judged if reason is None and isinstance(answer, Kept)]


def counts(reasons: Sequence[str | None]) -> dict[str, int]:
    """How many answers were dropped for each reason."""
    return dict(Counter(reason for reason in reasons if reason is not None))


def extract(cfg: Keep, text: str) -> str | None:
    """f on text: the part that the student must say; None where there is none."""
    span = _span(cfg, text)
    return None if span is None else text[slice(*span)]


def _span(cfg: Keep, text: str) -> tuple[int, int] | None:
    """The start and end of the part of the text to keep, without surrounding space; None where there is none."""
    start, end = 0, len(text)
    if cfg.span == "after":
        start = text.rfind(cfg.pattern) + len(cfg.pattern)
        if cfg.pattern not in text:
            return None
    if cfg.span == "regex":
        match = re.search(cfg.pattern, text, re.DOTALL)
        start, end = match.span(1 if match.re.groups else 0) if match else (-1, -1)
        if start < 0:
            return None
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _cut(rollout: Rollout, body: str, tokenizer: Tokenizer, cfg: Keep) -> Kept | str:
    """The tokens that f keeps, or why f cannot."""
    span = _span(cfg, body)
    if span is None:
        return "no_span"
    count, text = len(rollout.ids), body[slice(*span)]
    first, last = 0, count
    if cfg.span != "all":
        first, last, said = _tokens(tokenizer, rollout.ids, body, span) if text else (0, 0, "")
        if said.strip() != text:
            return "split_token"
    places = sorted({*range(first, last)} | ({count - 1} if rollout.stopped else set()))
    # An answer that ran into the limit before it said anything of the span has no token to learn.
    return Kept(rollout, np.array(places, np.int32), text) if places else "unfinished"


def _regex_error(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""


def _tokens(tokenizer: Tokenizer, ids: Int[np.ndarray, "_"], body: str, span: tuple[int, int]) -> tuple[int, int, str]:
    """The range of tokens, its end exclusive, whose text covers the span of characters, and that text."""

    def complete(count: int) -> int:
        """Characters of the body that the first `count` tokens determine.

        The bytes of one character may be spread over several tokens: until the last of them it decodes as something
        else, so that the common prefix with the body ends before it.
        """
        return len(os.path.commonprefix([encode.decode(tokenizer, ids[:count]), body]))

    def touched(count: int) -> int:
        """Those characters, and the one that the tokens have begun if they end inside a character."""
        settled = complete(count)
        return settled + (len(encode.decode(tokenizer, ids[:count])) > settled)

    # Both counts grow with the number of tokens, so the ends of the range are found by bisection.
    first = bisect.bisect_right(range(1, len(ids) + 1), span[0], key=touched)
    last = bisect.bisect_left(range(len(ids) + 1), span[1], key=complete)
    return first, last, body[complete(first) : complete(last)]
