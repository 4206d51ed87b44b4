"""Lengths -> which pairs make a batch, where in its rows each of them lies, and the few shapes that batches have.

In: how many tokens every pair has. Out: `Plan`, for every step of every epoch; nothing here sees a token.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

COLUMNS = 8  # widths are multiples of this
SHAPES = 4  # at most so many are compiled for one data set ...
WORTH = 7 / 8  # ... and a smaller one only if it is at most this share of the next
# Attention over a row as wide as this costs a layer what its matrices cost (6 x embed, for an embed of 680).
DEAR = 4096

Numbers: TypeAlias = Int[np.ndarray, "n"]  # one for each pair
Places: TypeAlias = Int[np.ndarray, "S B"]  # one for each place of a pair in each batch


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the sequences of one side lie: in each part of a batch `groups` x `rows` rows, all of one width."""

    groups: int
    group: Places  # of sequences that share rows with each other only
    rows: int
    row: Places  # of the group
    start: Places  # the first column
    width: Int[np.ndarray, "S"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every batch holds. Its parts are what the devices read, and each of them in pieces, one after the other."""

    parts: int
    index: Places  # which pair; -1: none
    part: Places  # which part of the batch it is in, on every side
    sides: tuple[Layout, ...]
    kept: int  # room for kept tokens in a part


def plan(
    lengths: Sequence[Numbers],
    contexts: Numbers,
    kept: Numbers,
    *,
    batch: int,
    parts: int,
    rngs: Iterable[np.random.Generator],
) -> Plan:
    """The plan for pairs that have so many tokens on each side, so many of them kept; one `rng` an epoch.

    On every side but the first, only pairs of one context share rows.
    """
    tokens = np.sum(lengths, 0)
    index = np.concatenate([deal(tokens, contexts, batch, rng) for rng in rngs])

    def places(numbers: Numbers) -> Places:
        return np.append(numbers, 0)[index]

    part = share(places(tokens), np.zeros_like(index), 1, parts)[0]
    groups = [np.zeros_like(contexts), *[contexts] * (len(lengths) - 1)]
    sides = [lay(places(length), places(group), part, parts) for length, group in zip(lengths, groups, strict=True)]
    cost = np.array([side.groups * side.rows for side in sides])
    widths = sizes(np.stack([side.width for side in sides], 1), cost)
    sides = [dataclasses.replace(side, width=width) for side, width in zip(sides, widths.T, strict=True)]
    return Plan(parts, index, part, tuple(sides), round_up(int(totals(places(kept), part, parts).max())))


def deal(tokens: Numbers, contexts: Numbers, batch: int, rng: np.random.Generator) -> Places:
    """One epoch: the indices of `batch` pairs a step, every pair once, -1 where there is none.

    The pairs are shuffled within strata of one context and like length, and a batch gets one of each stratum
    (stratified sampling without replacement): batches hold nearly the same number of tokens, so that a token weighs
    the same in each.
    """
    steps = -(-len(tokens) // batch)
    shuffled = rng.permutation(len(tokens))
    places = np.full(steps * batch, -1)
    places[: len(tokens)] = shuffled[np.lexsort((-tokens[shuffled], contexts[shuffled]))]
    return rng.permuted(places.reshape(batch, steps), axis=1).T


def share(lengths: Places, bins: Places, count: int, rows: int) -> tuple[Places, Places, Int[np.ndarray, "S"]]:
    """Each sequence's row and first column, and the longest row of each batch; `count` bins have `rows` rows each.

    The longest sequence first, each goes to the row of its bin that is shortest so far: rows become nearly equal
    (LPT: R. L. Graham, Bounds on multiprocessing timing anomalies, 1969). A place without a pair has length 0.
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
    """The layout, of those tried, that costs least: padding costs, and so do rows much wider than they need be."""
    groups = int(group.max()) + 1
    bins, count = part * groups + group, parts * groups
    wide = -(-int(totals(lengths, bins, count).max()) // int(lengths.max()))  # rows as wide as the longest alone
    tried = [
        Layout(groups, group, rows, *share(lengths, bins, count, rows))
        for rows in sorted({-(-wide * eighths // 8) for eighths in range(1, 9)})
    ]
    return min(tried, key=lambda one: one.rows * np.mean(one.width * (1 + one.width / DEAR)))


def totals(numbers: Places, bins: Places, count: int) -> Int[np.ndarray, "S"]:
    """The sum in that bin of each batch which has most."""
    return np.max([np.where(bins == one, numbers, 0).sum(1) for one in range(count)], 0)


def sizes(needs: Int[np.ndarray, "S k"], cost: Int[np.ndarray, "k"]) -> Int[np.ndarray, "S k"]:
    """What each batch needs, rounded up to one of at most SHAPES sizes: quartiles of the needs, where worth it.

    `cost` says what one more of each of the k numbers costs.
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
