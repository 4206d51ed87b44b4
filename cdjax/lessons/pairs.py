"""Pairs of prompts for a completion: the teacher's and the student's.

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
    """An example to learn from, on the host. `rollout[kept]` is learned: ids are never decoded and re-encoded."""

    teacher_prompt: Int32[np.ndarray, "_"]  # without the shared context, which stands before it
    student_prompt: Int32[np.ndarray, "_"]
    rollout: Int32[np.ndarray, "_"]  # the teacher's whole answer
    kept: Int32[np.ndarray, "C"]  # f: indices of the rollout's tokens that the student must produce
    targets: dict[str, np.ndarray]  # recorded of the teacher at the kept tokens, [C, ...]
    weight: Float32[np.ndarray, "C"]  # of each kept token in the loss; weight 0 is as if it were not kept
    temperature: Float32[np.ndarray, "C"] | None = None  # of each kept token; None: the targets' temperature for all
    context: int = 0  # index of the round's shared context that the teacher reads first

    def read(self, side: Literal["student", "teacher"]) -> tuple[Int32[np.ndarray, "T"], Int32[np.ndarray, "C"]]:
        """The tokens that the side reads to predict the kept ones, and the index of the token before each kept one."""
        if side == "student":
            prompt, answer, kept = self.student_prompt, self.rollout[self.kept], np.arange(len(self.kept))
        else:
            prompt, answer, kept = self.teacher_prompt, self.rollout, self.kept
        return np.concatenate([prompt, answer[: kept[-1]]]), (len(prompt) - 1 + kept).astype(np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairBatch:
    """The kept tokens of all pairs of a batch, C in each of X parts, and the rows that both sides read them in."""

    student: Rows
    teacher: Rows | None  # None: no loss reads the teacher again
    ids: Int[Array, "X C"]  # the kept tokens
    weight: Float[Array, "X C"]  # 0 where there is no token: the only loss mask
    targets: dict[str, Array]  # recorded of the teacher, [X, C, ...]
    temperature: Float[Array, "X C"] | None = None  # None: the targets' temperature for all

    def __str__(self) -> str:
        sides = {"": self.student} | ({} if self.teacher is None else {" of the teacher's": self.teacher})
        shapes = ((math.prod(side.tokens.shape[:-1]), side.tokens.shape[-1], whose) for whose, side in sides.items())
        return " and ".join(f"{rows} rows{whose} of {width} tokens" for rows, width, whose in shapes)


def pair(kept: Sequence[Kept], teacher: Prompts, student: Prompts, *, completion_budget: int) -> list[Pair]:
    """A pair for each kept answer, with both prompts of its input; targets are gathered at the kept tokens.

    Raises ValueError for an input without a prompt, and for more kept tokens than the budget: both would change what is
    learned without notice.
    """
    teacher_prompts = dict(zip(teacher.inputs, teacher.suffixes, strict=True))
    student_prompts = dict(zip(student.inputs, student.whole, strict=True))
    return [_pair(answer, teacher_prompts, student_prompts, completion_budget) for answer in kept]


def _pair(answer: Kept, teacher: dict[str, np.ndarray], student: dict[str, np.ndarray], budget: int) -> Pair:
    rollout, kept = answer.rollout, answer.indices
    for view, prompts in (("teacher", teacher), ("student", student)):
        if rollout.input not in prompts:
            raise ValueError(f"input {rollout.input!r} has an answer but no {view} prompt")
    if len(kept) > budget:
        raise ValueError(f"input {rollout.input!r}: {len(kept)} kept tokens, over limits.completion={budget}")
    return Pair(
        teacher_prompt=teacher[rollout.input],
        student_prompt=student[rollout.input],
        rollout=rollout.ids,
        kept=kept,
        targets={name: x[kept] for name, x in rollout.targets.items()},
        weight=np.ones(len(kept), np.float32),
    )


def hard(
    teacher_prompt: np.ndarray,
    student_prompt: np.ndarray,
    completion: np.ndarray,
    targets: dict[str, np.ndarray] | None = None,
) -> Pair:
    """The pair of a completion of which every token is kept, with targets [C, ...] if any were recorded."""
    return Pair(
        teacher_prompt=teacher_prompt,
        student_prompt=student_prompt,
        rollout=completion.astype(np.int32),
        kept=np.arange(len(completion), dtype=np.int32),
        targets=targets or {},
        weight=np.ones(len(completion), np.float32),
    )
