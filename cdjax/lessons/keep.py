"""f and the filters: which tokens of a teacher's answer the student must produce, or why the answer is dropped.

In: Rollout (sampling/store.py). Out: Kept (pairs.py), and a count for every reason.
"""

import bisect
import dataclasses
import os.path
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32

from cdjax.errors import UserError
from cdjax.sampling.store import Rollout
from cdjax.views import encode
from cdjax.views.render import Tokenizer
from cdjax.views.view import Format

Grade = Callable[[str, str], bool]  # an input and an answer -> whether it is right


@dataclasses.dataclass(frozen=True)
class Keep:
    """f and the filters: what part of the teacher's answer the student must produce, and which answers count."""

    span: Literal["all", "regex", "after"] = "all"
    pattern: str = ""  # for "regex" the first group (or the match), for "after" the marker
    filters: tuple[Literal["finished", "non_empty", "correct", "duplicate"], ...] = ("finished", "non_empty")
    majority: bool = False  # with several samples an input, keep those that give the most common answer


@dataclasses.dataclass(frozen=True)
class Kept:
    """An answer that counts, and the part of it that the student must produce."""

    rollout: Rollout
    kept: Int32[np.ndarray, "C"]  # indices into the rollout's tokens, the stop token among them if the teacher stopped
    text: str  # what they say, without the stop


def keep(
    rollouts: Sequence[Rollout],
    format: Format,
    cfg: Keep,
    grade: Grade | None = None,
) -> tuple[list[Kept], dict[str, int]]:
    """The answers that survive f and the filters, in order, and how many were dropped for each reason.

    The counts and the kept sum to the rollouts given. Raises UserError when nothing survives.
    """
    if "correct" in cfg.filters and grade is None:
        raise UserError('the filter "correct" needs a task whose answers are known; take it out of keep.filters')
    cut = [_cut(rollout, format.body(rollout.ids), format.tokenizer, cfg) for rollout in rollouts]
    judged = _without_repeats(cfg, [_judge(cfg, result, grade) for result in cut])
    kept = [result for result in judged if isinstance(result, Kept)]
    dropped = dict(Counter(result for result in judged if isinstance(result, str)))
    if not kept:
        reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items()) or "there were none"
        raise UserError(f"none of {len(rollouts)} teacher answers was kept ({reasons}); see keep and limits.completion")
    return kept, dropped


def extract(cfg: Keep, text: str) -> str | None:
    """f on text: the part that the student must say; None where there is none."""
    span = _span(cfg, text)
    return None if span is None else text[slice(*span)]


def _span(cfg: Keep, text: str) -> tuple[int, int] | None:
    """Where in the text the part to keep begins and ends, surrounding space left out."""
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
    stop = {count - 1} if rollout.stopped else set()
    return Kept(rollout, np.array(sorted({*range(first, last)} | stop), np.int32), text)


def _tokens(tokenizer: Tokenizer, ids: Int[np.ndarray, "_"], body: str, span: tuple[int, int]) -> tuple[int, int, str]:
    """The first and last (exclusive) token that touch the span of characters, and what all of them say."""

    def complete(count: int) -> int:
        """Characters of the body that the first tokens settle: a character may be spread over several tokens."""
        return len(os.path.commonprefix([encode.decode(tokenizer, ids[:count]), body]))

    def touched(count: int) -> int:
        settled = complete(count)
        return settled + (len(encode.decode(tokenizer, ids[:count])) > settled)

    first = bisect.bisect_right(range(1, len(ids) + 1), span[0], key=touched)
    last = bisect.bisect_left(range(len(ids) + 1), span[1], key=complete)
    return first, last, body[complete(first) : complete(last)]


def _judge(cfg: Keep, result: Kept | str, grade: Grade | None) -> Kept | str:
    """The answer, or the first filter's reason against it."""
    if isinstance(result, str):
        return result
    if "finished" in cfg.filters and not result.rollout.stopped:
        return "unfinished"
    if not len(result.kept) or "non_empty" in cfg.filters and not result.text:
        return "empty"
    if "correct" in cfg.filters and grade is not None and not grade(result.rollout.input, result.text):
        return "wrong"
    return result


def _without_repeats(cfg: Keep, judged: list[Kept | str]) -> list[Kept | str]:
    """Answers compared with the others to the same input: the majority's, the first in a tie, and each once."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for result in judged:
        if isinstance(result, Kept):
            votes[result.rollout.input][result.text] += 1
    seen: set[tuple[str, str]] = set()
    compared: list[Kept | str] = []
    for result in judged:
        if isinstance(result, Kept):
            own = result.rollout.input, result.text
            if cfg.majority and votes[own[0]].most_common(1)[0][0] != own[1]:
                result = "minority"
            elif "duplicate" in cfg.filters and own in seen:
                result = "duplicate"
            seen.add(own)
        compared.append(result)
    return compared
