"""The same completion under the teacher's prompt and under the student's.

In: `Kept` (keep.py) and the prompts of both views. Out: `Pair`, which `batches.py` packs into a `PairBatch`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from cdjax.lessons.filters import Kept
from cdjax.model.reader import Rows
from cdjax.views.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example to learn from, on the host. `completion` is `rollout[kept]`: ids are never decoded and re-encoded."""

    teacher_prompt: Int32[np.ndarray, "Pt"]  # the row's own part, after the shared context
    student_prompt: Int32[np.ndarray, "Ps"]
    rollout: Int32[np.ndarray, "Ct"]  # everything the teacher wrote
    kept: Int32[np.ndarray, "C"]  # f: which of its tokens the student must produce
    targets: dict[str, np.ndarray]  # what was recorded of the teacher at the kept tokens, [C, ...]
    weight: Float32[np.ndarray, "C"]  # of each kept token in the loss; one of weight 0 is as if it were not kept
    temperature: Float32[np.ndarray, "C"] | None = None  # of each kept token; None: the targets' own for all
    context: int = 0  # which of the round's shared contexts the teacher reads first

    def read(self, side: Literal["student", "teacher"]) -> tuple[Int32[np.ndarray, "T"], Int32[np.ndarray, "C"]]:
        """The tokens that a side reads up to the last kept one, and the index of the token before each kept one."""
        if side == "student":
            prompt, answer, kept = self.student_prompt, self.rollout[self.kept], np.arange(len(self.kept))
        else:
            prompt, answer, kept = self.teacher_prompt, self.rollout, self.kept
        return np.concatenate([prompt, answer[: kept[-1]]]), (len(prompt) - 1 + kept).astype(np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairBatch:
    """The kept tokens of all pairs of a batch, in G parts of C, and the rows that they are read in under both views."""

    student: Rows
    teacher: Rows | None  # for full targets
    ids: Int[Array, "G C"]  # what the teacher wrote
    weight: Float[Array, "G C"]  # 0 where there is no token: the one loss mask
    targets: dict[str, Array]  # what was recorded of the teacher, [G, C, ...]
    temperature: Float[Array, "G C"] | None = None  # None: the targets' own for all

    def __str__(self) -> str:
        sides = {"": self.student} | ({} if self.teacher is None else {" of the teacher's": self.teacher})
        shapes = ((math.prod(side.tokens.shape[:-1]), side.tokens.shape[-1], whose) for whose, side in sides.items())
        return " and ".join(f"{rows} rows{whose} of {width} tokens" for rows, width, whose in shapes)


def pair(kept: Sequence[Kept], teacher: Prompts, student: Prompts, *, completion_budget: int) -> list[Pair]:
    """Joins what was kept with both prompts of its input; soft targets are gathered at the kept tokens.

    Raises ValueError for an input without a prompt, and for more kept tokens than the budget: neither may happen
    in silence, since both would change what is learned.
    """
    own, whole = (
        dict(zip(teacher.inputs, teacher.own, strict=True)),
        dict(zip(student.inputs, student.whole, strict=True)),
    )
    return [_pair(one, own, whole, completion_budget) for one in kept]


def _pair(one: Kept, teacher: dict[str, np.ndarray], student: dict[str, np.ndarray], budget: int) -> Pair:
    rollout, at = one.rollout, one.kept
    for view, prompts in (("teacher", teacher), ("student", student)):
        if rollout.input not in prompts:
            raise ValueError(f"input {rollout.input!r} has an answer but no {view} prompt")
    if len(at) > budget:
        raise ValueError(f"input {rollout.input!r}: {len(at)} kept tokens, over limits.completion={budget}")
    return Pair(
        teacher_prompt=teacher[rollout.input],
        student_prompt=student[rollout.input],
        rollout=rollout.ids,
        kept=at,
        targets={name: x[at] for name, x in rollout.targets.items()},
        weight=np.ones(len(at), np.float32),
    )


def hard(
    teacher_prompt: np.ndarray,
    student_prompt: np.ndarray,
    completion: np.ndarray,
    targets: dict[str, np.ndarray] | None = None,
) -> Pair:
    """A completion of which every token is kept, beside what targets say of it, if anything was recorded."""
    return Pair(
        teacher_prompt=teacher_prompt,
        student_prompt=student_prompt,
        rollout=completion.astype(np.int32),
        kept=np.arange(len(completion), dtype=np.int32),
        targets=targets or {},
        weight=np.ones(len(completion), np.float32),
    )
