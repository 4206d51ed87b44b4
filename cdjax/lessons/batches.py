"""Pairs -> shuffled, packed, device-placed global batches; the step number is the whole data cursor.

In: `pairs.Pair`s. Out: `PairBatch`es of at most `packing.SHAPES` shapes, the same from whichever step a run resumes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import jax
import numpy as np

from cdjax import parallel
from cdjax.errors import UserError
from cdjax.lessons import Update, packing
from cdjax.lessons.pairs import Pair, PairBatch
from cdjax.model.reader import Rows

Sides: TypeAlias = tuple[Literal["student", "teacher"], ...]
Arrays: TypeAlias = dict[str, np.ndarray]


class Batches:
    """A sequence of batches, one for each step; `batches[step]` places it on the mesh.

    Every epoch is shuffled anew and holds each pair once. A batch has `cfg.batch` pairs, or fewer by one where the
    number of pairs is no multiple of that. With `teacher` a batch has the teacher's rows too.
    """

    def __init__(
        self, pairs: Sequence[Pair], cfg: Update, seed: int, mesh: jax.sharding.Mesh, *, teacher: bool = False
    ) -> None:
        if not pairs:
            raise UserError("there are no pairs to learn from; the drop counts of the keep stage say why")
        check(cfg, mesh)
        self._pairs, self._mesh = pairs, mesh
        self._sides: Sides = ("student", "teacher") if teacher else ("student",)
        self.plan = packing.plan(
            [np.array([len(pair.read(side)[0]) for pair in pairs]) for side in self._sides],
            np.array([pair.context for pair in pairs]),
            np.array([len(pair.kept) for pair in pairs]),
            batch=cfg.batch,
            parts=parallel.batch_parts(mesh) * cfg.micro_batches,
            rngs=(np.random.default_rng([seed, epoch]) for epoch in range(cfg.epochs)),
        )

    def __len__(self) -> int:
        return len(self.plan.index)

    def __iter__(self) -> Iterator[PairBatch]:
        return (self[step] for step in range(len(self)))

    def __getitem__(self, step: int) -> PairBatch:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        kept, rows = parallel.place_batch(pack(self._pairs, self._sides, self.plan, step), self._mesh)
        student, *teacher = (Rows(**side) for side in rows)
        return PairBatch(student=student, teacher=teacher[0] if teacher else None, **kept)


def check(cfg: Update, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError for a batch that cannot be cut into its micro-batches on this mesh."""
    parts = parallel.batch_parts(mesh)
    if min(cfg.epochs, cfg.batch, cfg.micro_batches) < 1:
        raise UserError(f"epochs, batch and micro_batches must be positive, got {cfg}")
    if cfg.batch < cfg.micro_batches * parts:
        raise UserError(
            f"update.batch={cfg.batch} is less than one pair for each of update.micro_batches={cfg.micro_batches} on "
            f"each of the {parts} devices that mesh.data and mesh.fsdp split a batch over"
        )


def pack(pairs: Sequence[Pair], sides: Sides, plan: packing.Plan, step: int) -> tuple[dict[str, Any], list[Arrays]]:
    """One step of the plan on the host: the fields of a `PairBatch`, and the `Rows` of each side."""

    def zeros(like: np.ndarray) -> np.ndarray:
        return np.zeros((plan.parts, plan.kept, *like.shape[1:]), like.dtype)

    kept = jax.tree.map(zeros, _columns(pairs[0]))
    sides_rows = [_rows(plan, layout, step) for layout in plan.sides]
    filled = [0] * plan.parts  # kept tokens in each part so far
    for place, index in enumerate(plan.index[step]):
        if index < 0:
            continue
        pair, part = pairs[index], plan.part[step, place]
        # Kept tokens stand in a part one pair after the other, in [part, filled : filled + kept].
        span = part, slice(filled[part], filled[part] + len(pair.kept))
        filled[part] += len(pair.kept)
        for array, column in zip(jax.tree.leaves(kept), jax.tree.leaves(_columns(pair)), strict=True):
            array[span] = column
        for side, layout, rows in zip(sides, plan.sides, sides_rows, strict=True):
            tokens, predictors = pair.read(side)
            group, row, start = (x[step, place] for x in (layout.group, layout.row, layout.start))
            columns = part, group, row, slice(start, start + len(tokens))
            rows["tokens"][columns], rows["positions"][columns] = tokens, np.arange(len(tokens))
            rows["texts"][columns] = place + 1
            # Flat index in the part's rows [groups, rows, width], as `Reader.hidden` gathers by it.
            rows["predictors"][span] = (group * layout.rows + row) * layout.width[step] + start + predictors
    return kept, sides_rows


def _columns(pair: Pair) -> dict[str, Any]:
    """The fields of a `PairBatch` at a pair's kept tokens."""
    ids = pair.rollout[pair.kept]
    return {"ids": ids, "weight": pair.weight, "targets": pair.targets, "temperature": pair.temperature}


def _rows(plan: packing.Plan, layout: packing.Layout, step: int) -> Arrays:
    """The arrays of a side's `Rows` before any pair is in them: zeros."""
    shape = plan.parts, layout.groups, layout.rows, layout.width[step]
    rows: Arrays = {name: np.zeros(shape, np.int32) for name in ("tokens", "positions", "texts")}
    return rows | {"predictors": np.zeros((plan.parts, plan.kept), np.int32)}
