"""Lengths -> the pairs of each batch, each pair's place in the batch's rows, and the few shapes that batches have.

In: the number of tokens of every pair. Out: `Plan`, for every step of every epoch; no token is read.

An epoch is planned in four steps: `deal` chooses the pairs of every batch, `share` balances them over the batch's
parts, `lay` packs the sequences of each part into rows, and `sizes` rounds the rows' widths so that few shapes are
compiled. A batch has B places for pairs, of which a few may be empty: there `index` is -1 and every length is 0.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

COLUMNS = 8  # widths are multiples of it
SHAPES = 4  # shapes compiled for one data set at most
WORTH = 7 / 8  # a smaller shape is compiled only if its cost is at most this share of the next larger one's
# The width of a row at which a layer's attention costs as much as its matrices (6 x embed, for an embed of 680).
BREAK_EVEN = 4096

Numbers: TypeAlias = Int[np.ndarray, "pairs"]  # a number for each pair
Places: TypeAlias = Int[np.ndarray, "steps B"]  # a number for each place of each batch


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rows of a side's sequences: in each part of a batch `groups` x `rows` rows of one width."""

    groups: int
    group: Places  # the sequence's group: only sequences of one group share rows
    rows: int  # rows of a group in a part
    row: Places  # the sequence's row in its group
    start: Places  # the sequence's first column
    width: Int[np.ndarray, "steps"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The contents of every batch. A batch has a part for each device and each micro-batch that the device reads."""

    parts: int
    index: Places  # of the pair; -1: no pair
    part: Places  # the pair's part of the batch, the same on both sides
    sides: tuple[Layout, ...]  # the student's, and the teacher's if the teacher is read
    kept: int  # kept tokens that fit a part: the most that any part of any batch has, rounded up


def plan(
    lengths: Sequence[Numbers],
    contexts: Numbers,
    kept: Numbers,
    *,
    batch: int,
    parts: int,
    rngs: Iterable[np.random.Generator],
) -> Plan:
    """The plan of all epochs, one `rng` each, from the pairs' `lengths` on each side and numbers of `kept` tokens.

    On the teacher's side only pairs of one context share rows.
    """
    tokens = np.sum(lengths, 0)
    index = np.concatenate([deal(tokens, contexts, batch, rng) for rng in rngs])

    def places(numbers: Numbers) -> Places:
        return np.append(numbers, 0)[index]  # an empty place has index -1, the 0 at the end

    part = share(places(tokens), np.zeros_like(index), 1, parts)[0]
    groups = [np.zeros_like(contexts), *[contexts] * (len(lengths) - 1)]
    sides = [lay(places(length), places(group), part, parts) for length, group in zip(lengths, groups, strict=True)]
    cost = np.array([side.groups * side.rows for side in sides])
    widths = sizes(np.stack([side.width for side in sides], 1), cost)
    sides = [dataclasses.replace(side, width=width) for side, width in zip(sides, widths.T, strict=True)]
    return Plan(parts, index, part, tuple(sides), round_up(int(totals(places(kept), part, parts).max())))


def deal(tokens: Numbers, contexts: Numbers, batch: int, rng: np.random.Generator) -> Places:
    """The pairs' indices in the batches of one epoch: every pair once, -1 in the places that are left over.

    The pairs are shuffled within strata of one context and similar length, and a batch gets one pair of each stratum
    (stratified sampling without replacement): batches hold nearly the same number of tokens. A loss is normalised by
    its batch's tokens, so a token then has nearly the same weight in every batch.
    """
    steps = -(-len(tokens) // batch)
    shuffled = rng.permutation(len(tokens))
    places = np.full(steps * batch, -1)
    # Sorted by context, then longest first. The sort is stable, so pairs of equal length stay shuffled.
    places[: len(tokens)] = shuffled[np.lexsort((-tokens[shuffled], contexts[shuffled]))]
    # Each run of `steps` neighbours is a stratum, a row of this [B, steps] array: permuting every row for itself deals
    # its pairs to the batches, which are the columns.
    return rng.permuted(places.reshape(batch, steps), axis=1).T


def share(lengths: Places, bins: Places, count: int, rows: int) -> tuple[Places, Places, Int[np.ndarray, "steps"]]:
    """The row and first column of each sequence, and the length of each batch's longest row.

    A sequence goes to a row of its bin, see `bins`; each of the `count` bins has `rows` rows. Longest first, it goes to
    the row that is shortest so far, so that rows become nearly equal (LPT: R. L. Graham, Bounds on multiprocessing
    timing anomalies, 1969).
    """
    row, start = np.zeros_like(lengths), np.zeros_like(lengths)
    filled = np.zeros((len(lengths), count, rows), lengths.dtype)
    step = np.arange(len(lengths))
    # All batches at once: `place` [steps] is the place of the first, second, ... longest sequence of each batch.
    for place in np.argsort(-lengths, 1, kind="stable").T:
        bin_ = bins[step, place]
        shortest = filled[step, bin_].argmin(1)
        row[step, place], start[step, place] = shortest, filled[step, bin_, shortest]
        filled[step, bin_, shortest] += lengths[step, place]
    return row, start, filled.max((1, 2))


def lay(lengths: Places, group: Places, part: Places, parts: int) -> Layout:
    """The cheapest of at most eight layouts: few rows are wide and cost more attention, many rows have more padding."""
    groups = int(group.max()) + 1
    bins, count = part * groups + group, parts * groups
    # More rows than this gain nothing: with as many, rows need hardly be wider than the longest sequence.
    most = -(-int(totals(lengths, bins, count).max()) // int(lengths.max()))
    layouts = [
        Layout(groups, group, rows, *share(lengths, bins, count, rows))
        for rows in sorted({-(-most * eighths // 8) for eighths in range(1, 9)})
    ]
    # A column of a row costs 1 in matrix products, and width / BREAK_EVEN in attention.
    return min(layouts, key=lambda layout: layout.rows * np.mean(layout.width * (1 + layout.width / BREAK_EVEN)))


def totals(numbers: Places, bins: Places, count: int) -> Int[np.ndarray, "steps"]:
    """The fullest bin's total, per batch."""
    return np.max([np.where(bins == number, numbers, 0).sum(1) for number in range(count)], 0)


def sizes(needs: Int[np.ndarray, "steps sides"], cost: Int[np.ndarray, "sides"]) -> Int[np.ndarray, "steps sides"]:
    """Each batch's widths, `needs` rounded up to one of at most SHAPES sizes, which are quantiles of all needs.

    `cost` is the cost of one more column on each side. The largest size fits every batch.
    """
    kept: list[np.ndarray] = []  # from the largest to the smallest on every side
    for quarter in range(SHAPES, 0, -1):
        quantile = np.quantile(needs, quarter / SHAPES, axis=0, method="inverted_cdf")
        size = np.array([round_up(int(width)) for width in quantile])
        if not kept or size @ cost <= WORTH * (kept[-1] @ cost):
            kept.append(size)
    # Since sizes shrink on every side, the number that fit a batch tells the last, smallest of them.
    smallest = sum((needs <= size).all(1) for size in kept) - 1
    return np.stack(kept)[smallest]


def round_up(number: int) -> int:
    """The number, rounded up to a multiple of COLUMNS."""
    return -(-number // COLUMNS) * COLUMNS
