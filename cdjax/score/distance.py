"""The KL between a teacher and a student over the whole vocabulary, on texts that both read."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Int32

from cdjax.learn import update
from cdjax.lessons import Update, batches
from cdjax.lessons.pairs import Pair, PairBatch
from cdjax.losses.forward_kl import ForwardKL
from cdjax.model.reader import Reader
from cdjax.sampling.targets.full import Full

Texts: TypeAlias = tuple[Int32[np.ndarray, "_"], list[Pair]]  # the teacher's context, and pairs read after it


def divergence(
    teacher: Reader, student: Reader, texts: Iterable[Texts], mesh: jax.sharding.Mesh, batch: int
) -> float | None:
    """Mean KL(teacher under its view || student under its view) in nats a token; None if there is no token."""
    total = count = 0.0
    for context, pairs in texts:
        reader = teacher.after(context)
        for rows in batches.Batches(pairs, Update(batch=batch), 0, mesh, teacher=True):
            sums = _sums(student, reader, rows)
            total, count = total + float(sums["kl"]), count + float(sums["count"])
    return total / count if count else None


@jax.jit
def _sums(student: Reader, teacher: Reader, rows: PairBatch) -> dict[str, Any]:
    return update.batch_loss(student, teacher, rows, targets=Full(), losses=(ForwardKL(),))[1]
