"""Pairs -> shuffled, padded, device-placed global batches; the step number is the whole data cursor.

In: `distill.pairs.Pair`s. Out: `PairBatch`es of one shape, the same for a seed wherever one starts.
"""

import functools
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np

from cdjax import config, parallel
from cdjax.distill.pairs import Pair, PairBatch

WIDTH = 4  # padded widths are multiples of this, so that another data set often finds its step compiled


class Batches:
    """`len(batches)` steps; `batches[step]` is on the mesh. Every epoch is shuffled anew and holds each pair once.

    Rows that only fill the last batch of an epoch are masked throughout.
    """

    def __init__(self, pairs: Sequence[Pair], cfg: config.Update, seed: int, mesh: jax.sharding.Mesh) -> None:
        if not pairs:
            raise config.UserError("there are no pairs to learn from; the drop counts of the keep stage say why")
        check(cfg, mesh)
        self._mesh = mesh
        collate = functools.partial(side_by_side, rows=cfg.batch, widths=widths(pairs))
        shuffled = grain.MapDataset.source(pairs).shuffle(seed=seed % 2**32)
        self._steps = shuffled.batch(cfg.batch, batch_fn=collate).repeat(cfg.epochs)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[PairBatch]:
        return (self[step] for step in range(len(self)))

    def __getitem__(self, step: int) -> PairBatch:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        return PairBatch(**parallel.place_batch(self._steps[step], self._mesh))


def check(cfg: config.Update, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError for a batch that cannot be cut into its micro-batches on this mesh."""
    parts = parallel.batch_parts(mesh)
    if min(cfg.epochs, cfg.batch, cfg.micro_batches) < 1:
        raise config.UserError(f"epochs, batch and micro_batches must be positive, got {cfg}")
    if cfg.batch % (cfg.micro_batches * parts):
        raise config.UserError(
            f"update.batch={cfg.batch} must be a multiple of update.micro_batches={cfg.micro_batches} times the "
            f"{parts} devices that mesh.data and mesh.fsdp split a batch over"
        )


def widths(pairs: Sequence[Pair]) -> dict[str, int]:
    """Padded width of each part, enough for every pair."""
    longest = {
        "teacher_prompt": max(len(pair.teacher_prompt) for pair in pairs),
        "student_prompt": max(len(pair.student_prompt) for pair in pairs),
        "rollout": max(len(pair.rollout) for pair in pairs),
        "completion": max(len(pair.kept) for pair in pairs),
    }
    return {name: -(-length // WIDTH) * WIDTH for name, length in longest.items()}


def side_by_side(pairs: Sequence[Pair], *, rows: int, widths: dict[str, int]) -> dict[str, np.ndarray]:
    """The fields of a `PairBatch`: prompts left-padded, the rest right-padded, up to `rows` filled with padding."""
    batch = {}
    for side in ("teacher_prompt", "student_prompt"):
        prompts = [getattr(pair, side) for pair in pairs]
        batch[side], batch[f"{side}_real"] = _fill(prompts, rows, widths[side], left=True)
    batch["rollout"], batch["rollout_real"] = _fill([pair.rollout for pair in pairs], rows, widths["rollout"])
    completions = [pair.rollout[pair.kept] for pair in pairs]
    batch["completion"], batch["completion_real"] = _fill(completions, rows, widths["completion"])
    for part in ("kept", "top_ids", "top_logprobs", "draws"):
        batch[part], _ = _fill([getattr(pair, part) for pair in pairs], rows, widths["completion"])
    return batch


def _fill(parts: Sequence[np.ndarray], rows: int, width: int, *, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """[n, ...] arrays of differing n -> one [rows, width, ...] array, and where it is real."""
    out = np.zeros((rows, width, *parts[0].shape[1:]), parts[0].dtype)
    real = np.zeros((rows, width), bool)
    for row, part in enumerate(parts):
        at = slice(width - len(part), None) if left else slice(len(part))
        out[row, at], real[row, at] = part, True
    return out, real
