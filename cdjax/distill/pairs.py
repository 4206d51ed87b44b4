"""The same completion under the teacher's prompt and under the student's."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32


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
