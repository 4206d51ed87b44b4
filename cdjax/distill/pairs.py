"""The same completion under the teacher's prompt and under the student's.

In: `Kept` (keep.py) and the prompts of both views. Out: `Pair`, which `batches.py` puts side by side as `PairBatch`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from cdjax.distill.keep import Kept
from cdjax.views.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class Pair:
    """One example to learn from, on the host. `completion` is `rollout[kept]`: ids are never decoded and re-encoded."""

    teacher_prompt: Int32[np.ndarray, "Pt"]  # the row's own part, after the shared context
    student_prompt: Int32[np.ndarray, "Ps"]
    rollout: Int32[np.ndarray, "Ct"]  # everything the teacher wrote
    kept: Int32[np.ndarray, "C"]  # f: which of its tokens the student must produce
    top_ids: Int32[np.ndarray, "C k"]
    top_logprobs: Float32[np.ndarray, "C k"]
    draws: Int32[np.ndarray, "C n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairBatch:
    """Pairs side by side: prompts left-padded, completions right-padded; masks tell the padding, never an id."""

    teacher_prompt: Int[Array, "B Pt"]
    teacher_prompt_real: Bool[Array, "B Pt"]
    student_prompt: Int[Array, "B Ps"]
    student_prompt_real: Bool[Array, "B Ps"]
    rollout: Int[Array, "B Ct"]
    rollout_real: Bool[Array, "B Ct"]
    kept: Int[Array, "B C"]
    completion: Int[Array, "B C"]
    completion_real: Bool[Array, "B C"]  # the one loss mask
    top_ids: Int[Array, "B C k"]
    top_logprobs: Float[Array, "B C k"]
    draws: Int[Array, "B C n"]


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
        top_ids=rollout.top_ids[at],
        top_logprobs=rollout.top_logprobs[at],
        draws=rollout.draws[at],
    )


def hard(teacher_prompt: np.ndarray, student_prompt: np.ndarray, completion: np.ndarray) -> Pair:
    """A completion without recorded targets: for cross-entropy, or for targets that are computed when needed."""
    ids = completion.astype(np.int32)
    none = (len(ids), 0)
    return Pair(
        teacher_prompt=teacher_prompt,
        student_prompt=student_prompt,
        rollout=ids,
        kept=np.arange(len(ids), dtype=np.int32),
        top_ids=np.zeros(none, np.int32),
        top_logprobs=np.zeros(none, np.float32),
        draws=np.zeros(none, np.int32),
    )
