"""f and the filters: the tokens of a teacher's answer that the student must produce, or the reason to drop it.

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
    """f, the part of the teacher's answer that the student must produce, and the filters of answers."""

    span: Literal["all", "regex", "after"] = "all"
    pattern: str = ""  # for "regex" the first group (or the match), for "after" the marker
    filters: tuple[Filter, ...] = (Finished(), NonEmpty())  # one after the other, each on the answers that are left

    def problems(self) -> Iterator[str]:
        if (self.span == "all") == bool(self.pattern):
            yield f"span={self.span!r} {'takes no' if self.pattern else 'needs a'} keep.pattern"
        if self.span == "regex" and (error := _regex_error(self.pattern)):
            yield f"pattern={self.pattern!r} is not a regular expression: {error}"


def keep(
    rollouts: Sequence[Rollout], format: Format, cfg: Keep, evidence: Evidence
) -> tuple[list[Kept], dict[str, int]]:
    """The answers that survive f and the filters, in order, and the number dropped for each reason.

    The counts and the kept answers sum to the rollouts. Raises UserError when no answer survives.
    """
    answers = apply_f(rollouts, format, cfg)
    reasons = judge(answers, cfg.filters, evidence)
    return surviving(answers, reasons), counts(reasons)


def apply_f(rollouts: Sequence[Rollout], format: Format, cfg: Keep) -> list[Kept | str]:
    """Each answer's part that f keeps, or the reason why f drops the answer."""
    return [_apply_f(rollout, format.body(rollout.ids), format.tokenizer, cfg) for rollout in rollouts]


def judge(
    answers: Sequence[Kept | str], filters: Sequence[Filter], evidence: Evidence, *, some: bool = True
) -> list[str | None]:
    """The reason to drop each answer, from f or from the first filter that refuses it, or None.

    Raises UserError when no answer is left, where `some` must be.
    """
    reasons = [answer if isinstance(answer, str) else None for answer in answers]
    for filter in filters:
        numbers = [number for number, reason in enumerate(reasons) if reason is None]
        verdicts = filter.refuse(surviving(answers, reasons), evidence)
        for number, verdict in zip(numbers, verdicts, strict=True):
            reasons[number] = verdict
    if some and None not in reasons:
        dropped = ", ".join(f"{reason} {count}" for reason, count in counts(reasons).items()) or "there were none"
        raise UserError(
            f"none of {len(answers)} answers was kept ({dropped}); see the operation's keep, and limits.completion"
        )
    return reasons


def surviving(answers: Sequence[Kept | str], reasons: Sequence[str | None]) -> list[Kept]:
    """The answers without a reason to drop them."""
    judged = zip(answers, reasons, strict=True)
    return [answer for answer, reason in judged if reason is None and isinstance(answer, Kept)]


def counts(reasons: Sequence[str | None]) -> dict[str, int]:
    """The number of answers dropped for each reason."""
    return dict(Counter(reason for reason in reasons if reason is not None))


def extract(cfg: Keep, text: str) -> str | None:
    """The part of the text that f keeps; None if the text has no such part."""
    span = _span(cfg, text)
    return None if span is None else text[slice(*span)]


def _span(cfg: Keep, text: str) -> tuple[int, int] | None:
    """The start and end of the part of the text that f keeps, without surrounding space; None if there is no part."""
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


def _apply_f(rollout: Rollout, body: str, tokenizer: Tokenizer, cfg: Keep) -> Kept | str:
    """The answer's tokens that f keeps, or the reason why f drops the answer."""
    span = _span(cfg, body)
    if span is None:
        return "no_span"
    count, text = len(rollout.ids), body[slice(*span)]
    first, end = 0, count
    if cfg.span != "all":
        first, end, covered = _tokens(tokenizer, rollout.ids, body, span) if text else (0, 0, "")
        # A token may hold the span's edge and text beyond it: the student would learn more than f keeps.
        if covered.strip() != text:
            return "split_token"
    kept = sorted({*range(first, end)} | ({count - 1} if rollout.stopped else set()))
    # An answer that ran into the limit before any token of the span has no token to learn.
    return Kept(rollout, np.array(kept, np.int32), text) if kept else "unfinished"


def _regex_error(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ""


def _tokens(tokenizer: Tokenizer, ids: Int[np.ndarray, "_"], body: str, span: tuple[int, int]) -> tuple[int, int, str]:
    """The fewest tokens, as first and end (exclusive), whose text covers the span of characters, and their text.

    Ids are never matched by encoding text again, only by decoding prefixes of them: a tokenizer has many ways to write
    a text, and the answer's is one of them.
    """

    def complete(count: int) -> int:
        """The number of characters of the body that the first `count` tokens determine.

        The bytes of a character may be spread over several tokens: until the last of them it decodes as something
        else, so that the common prefix with the body ends before it.
        """
        return len(os.path.commonprefix([encode.decode(tokenizer, ids[:count]), body]))

    def touched(count: int) -> int:
        """The number of those characters, plus 1 if the tokens end inside a character."""
        determined = complete(count)
        return determined + (len(encode.decode(tokenizer, ids[:count])) > determined)

    # Both numbers grow with the number of tokens, so the ends of the range are found by bisection: the first token is
    # the one with which the text touches the span's first character, the last the one that completes its last.
    first = bisect.bisect_right(range(1, len(ids) + 1), span[0], key=touched)
    end = bisect.bisect_left(range(len(ids) + 1), span[1], key=complete)
    return first, end, body[complete(first) : complete(end)]
