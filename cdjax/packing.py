"""Lengths -> which pairs make a batch, where in its rows each of them lies, and the few shapes that batches have.

In: how many tokens every pair has. Out: `Plan`, for every step of every epoch; nothing here sees a token.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

COLUMNS = 8  # sizes are multiples of this
SHAPES = 4  # at most so many are compiled for one data set ...
WORTH = 7 / 8  # ... and a smaller one only if it is at most this share of the next
# Attention over a row as wide as this costs a layer what its matrices cost (6 x embed, for an embed of 680).
DEAR = 4096

Places = Int[np.ndarray, "S B"]  # one entry for each place of a pair in each batch


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the sequences of every batch lie: in each part of a batch, in `rows` rows."""

    rows: int
    row: Places  # of the part that the sequence belongs to
    start: Places  # its first column
    width: Int[np.ndarray, "S"]  # of the longest row


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every batch holds. Its parts are what the devices read, and each of them in pieces, one after the other."""

    parts: int
    index: Places  # which pair; -1: none
    part: Places  # which part of the batch it is in, on every side
    sides: tuple[Layout, ...]
    sizes: Int[np.ndarray, "S k"]  # in every part: the width of each side's rows, and the number of kept tokens


def plan(
    lengths: Sequence[Int[np.ndarray, "n"]],
    kept: Int[np.ndarray, "n"],
    *,
    batch: int,
    parts: int,
    rngs: Iterable[np.random.Generator],
) -> Plan:
    """The plan for pairs that have so many tokens on each side, so many of them kept; one `rng` an epoch."""
    tokens = np.sum(lengths, 0)
    index = np.concatenate([deal(tokens, batch, rng) for rng in rngs])

    def places(numbers: Int[np.ndarray, "n"]) -> Places:
        return np.append(numbers, 0)[index]

    part = share(places(tokens), np.zeros_like(index), 1, parts).row
    sides = tuple(lay(places(length), part, parts) for length in lengths)
    needs = [*(side.width for side in sides), totals(places(kept), part, parts)]
    cost = np.array([*(side.rows for side in sides), 1])
    return Plan(parts, index, part, sides, sizes(np.stack(needs, 1), cost))


def deal(tokens: Int[np.ndarray, "n"], batch: int, rng: np.random.Generator) -> Places:
    """One epoch: the indices of `batch` pairs a step, every pair once, -1 where there is none.

    The pairs are shuffled within strata of like length, and a batch gets one of each stratum (stratified sampling
    without replacement): batches hold nearly the same number of tokens, so that a token weighs the same in each.
    """
    steps = -(-len(tokens) // batch)
    shuffled = rng.permutation(len(tokens))
    places = np.full(steps * batch, -1)
    places[: len(tokens)] = shuffled[np.argsort(-tokens[shuffled], kind="stable")]
    return rng.permuted(places.reshape(batch, steps), axis=1).T


def share(lengths: Places, part: Places, parts: int, rows: int) -> Layout:
    """In each part of each batch the longest sequence first, each goes to the row that is shortest so far.

    Rows become nearly equal (LPT: R. L. Graham, Bounds on multiprocessing timing anomalies, 1969). A place without a
    pair has length 0.
    """
    row, start = np.zeros_like(lengths), np.zeros_like(lengths)
    filled = np.zeros((len(lengths), parts, rows), lengths.dtype)
    step = np.arange(len(lengths))
    for place in np.argsort(-lengths, 1, kind="stable").T:
        where = part[step, place]
        to = filled[step, where].argmin(1)
        row[step, place], start[step, place] = to, filled[step, where, to]
        filled[step, where, to] += lengths[step, place]
    return Layout(rows, row, start, filled.max((1, 2)))


def lay(lengths: Places, part: Places, parts: int) -> Layout:
    """The layout, of those tried, that costs least: padding costs, and so do rows much wider than they need be."""
    wide = -(
        -int(totals(lengths, part, parts).max()) // int(lengths.max())
    )  # rows as wide as the longest sequence alone
    tried = [share(lengths, part, parts, rows) for rows in sorted({-(-wide * eighths // 8) for eighths in range(1, 9)})]
    return min(tried, key=lambda one: one.rows * np.mean(one.width * (1 + one.width / DEAR)))


def totals(lengths: Places, part: Places, parts: int) -> Int[np.ndarray, "S"]:
    """The tokens in that part of each batch which has most."""
    return np.max([np.where(part == one, lengths, 0).sum(1) for one in range(parts)], 0)


def sizes(needs: Int[np.ndarray, "S k"], cost: Int[np.ndarray, "k"]) -> Int[np.ndarray, "S k"]:
    """What each batch needs, rounded up to one of at most SHAPES sizes: quartiles of the needs, where worth it.

    `cost` says what one more of each of the k numbers costs.
    """
    kept: list[np.ndarray] = []
    for quarter in range(SHAPES, 0, -1):
        need = np.quantile(needs, quarter / SHAPES, axis=0, method="inverted_cdf")
        size = -(-need // COLUMNS) * COLUMNS
        if not kept or size @ cost <= WORTH * (kept[-1] @ cost):
            kept.append(size)
    smallest = sum((needs <= size).all(1) for size in kept) - 1
    return np.stack(kept)[smallest]
