"""Lengths -> which pairs make a batch, where in its rows each of them lies, and the few shapes that batches have.

In: the number of tokens of every pair. Out: `Plan`, for every step of every epoch; no token is read.

An epoch is planned in four steps: `deal` chooses the pairs of every batch, `share` balances them over the batch's
parts, `lay` packs the sequences of each part into rows, and `sizes` rounds the rows' widths so that few shapes are
compiled. Letters of shapes: S steps, B pairs of a batch, n pairs, k widths.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

COLUMNS = 8  # widths are multiples of this
SHAPES = 4  # shapes compiled for one data set at most
WORTH = 7 / 8  # a smaller shape is compiled only if its cost is at most this share of the next larger one's
# The width of a row at which a layer's attention costs as much as its matrices (6 x embed, for an embed of 680).
DEAR = 4096

Numbers: TypeAlias = Int[np.ndarray, "n"]  # a number for each pair
Places: TypeAlias = Int[np.ndarray, "S B"]  # a number for each place of a pair in each batch


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows of one side's sequences: in each part of a batch `groups` x `rows` rows, all of one width."""

    groups: int
    group: Places  # the sequence's group: only sequences of one group share rows
    rows: int  # rows of a group in a part
    row: Places  # the sequence's row in its group
    start: Places  # the sequence's first column
    width: Int[np.ndarray, "S"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The contents of every batch. A batch has a part for each device and each micro-batch that the device reads."""

    parts: int
    index: Places  # which pair; -1: none
    part: Places  # the pair's part of the batch, the same on every side
    sides: tuple[Layout, ...]  # the student's, and the teacher's where it is read
    kept: int  # room for kept tokens in a part: the most that any part of any batch has, rounded up


def plan(
    lengths: Sequence[Numbers],
    contexts: Numbers,
    kept: Numbers,
    *,
    batch: int,
    parts: int,
    rngs: Iterable[np.random.Generator],
) -> Plan:
    """The plan for pairs of these token counts on each side and these counts of kept tokens; one `rng` an epoch.

    On every side but the first, only pairs of one context share rows.
    """
    tokens = np.sum(lengths, 0)
    index = np.concatenate([deal(tokens, contexts, batch, rng) for rng in rngs])

    def places(numbers: Numbers) -> Places:
        return np.append(numbers, 0)[index]  # a place without a pair has index -1: the 0 at the end

    part = share(places(tokens), np.zeros_like(index), 1, parts)[0]
    groups = [np.zeros_like(contexts), *[contexts] * (len(lengths) - 1)]
    sides = [lay(places(length), places(group), part, parts) for length, group in zip(lengths, groups, strict=True)]
    cost = np.array([side.groups * side.rows for side in sides])
    widths = sizes(np.stack([side.width for side in sides], 1), cost)
    sides = [dataclasses.replace(side, width=width) for side, width in zip(sides, widths.T, strict=True)]
    return Plan(parts, index, part, tuple(sides), round_up(int(totals(places(kept), part, parts).max())))


def deal(tokens: Numbers, contexts: Numbers, batch: int, rng: np.random.Generator) -> Places:
    """The indices of `batch` pairs for every step of one epoch: every pair once, -1 in places that are left over.

    The pairs are shuffled within strata of one context and like length, and a batch gets one of each stratum
    (stratified sampling without replacement): batches hold nearly the same number of tokens, so that a token weighs
    the same in each.
    """
    steps = -(-len(tokens) // batch)
    shuffled = rng.permutation(len(tokens))
    places = np.full(steps * batch, -1)
    # Sorted by context, then by length; equals stay shuffled, as the sort is stable.
    places[: len(tokens)] = shuffled[np.lexsort((-tokens[shuffled], contexts[shuffled]))]
    # Each run of `steps` neighbours is a stratum, and the columns are the batches.
    return rng.permuted(places.reshape(batch, steps), axis=1).T


def share(lengths: Places, bins: Places, count: int, rows: int) -> tuple[Places, Places, Int[np.ndarray, "S"]]:
    """The row and first column of each sequence, and the length of each batch's longest row.

    `bins` tells the bin of each sequence; each of the `count` bins has `rows` rows. Longest first, a sequence goes to
    the row of its bin that is shortest so far, so that rows become nearly equal (LPT: R. L. Graham, Bounds on
    multiprocessing timing anomalies, 1969). A place without a pair has length 0.
    """
    row, start = np.zeros_like(lengths), np.zeros_like(lengths)
    filled = np.zeros((len(lengths), count, rows), lengths.dtype)
    step = np.arange(len(lengths))
    for place in np.argsort(-lengths, 1, kind="stable").T:
        where = bins[step, place]
        to = filled[step, where].argmin(1)
        row[step, place], start[step, place] = to, filled[step, where, to]
        filled[step, where, to] += lengths[step, place]
    return row, start, filled.max((1, 2))


def lay(lengths: Places, group: Places, part: Places, parts: int) -> Layout:
    """The cheapest of eight layouts at most: fewer rows are wider, which costs attention, more have more padding."""
    groups = int(group.max()) + 1
    bins, count = part * groups + group, parts * groups
    wide = -(-int(totals(lengths, bins, count).max()) // int(lengths.max()))  # rows if the longest text fills one
    tried = [
        Layout(groups, group, rows, *share(lengths, bins, count, rows))
        for rows in sorted({-(-wide * eighths // 8) for eighths in range(1, 9)})
    ]
    return min(tried, key=lambda one: one.rows * np.mean(one.width * (1 + one.width / DEAR)))


def totals(numbers: Places, bins: Places, count: int) -> Int[np.ndarray, "S"]:
    """The fullest bin's total, per batch."""
    return np.max([np.where(bins == one, numbers, 0).sum(1) for one in range(count)], 0)


def sizes(needs: Int[np.ndarray, "S k"], cost: Int[np.ndarray, "k"]) -> Int[np.ndarray, "S k"]:
    """Each batch's needs, rounded up to one of at most SHAPES sizes: the quartiles of all needs that are worth it.

    `cost` is the cost of one more column on each of the k sides. The largest size fits every batch.
    """
    kept: list[np.ndarray] = []
    for quarter in range(SHAPES, 0, -1):
        need = np.quantile(needs, quarter / SHAPES, axis=0, method="inverted_cdf")
        size = np.array([round_up(int(one)) for one in need])
        if not kept or size @ cost <= WORTH * (kept[-1] @ cost):
            kept.append(size)
    smallest = sum((needs <= size).all(1) for size in kept) - 1
    return np.stack(kept)[smallest]


def round_up(number: int) -> int:
    """The next multiple of COLUMNS."""
    return -(-number // COLUMNS) * COLUMNS
