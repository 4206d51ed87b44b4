"""The teacher's samples, with what its decode step already knew, in memory and on disk."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One answer of the teacher. Soft targets are at the objective's temperature; the log-probability is at 1."""

    input: str
    sample: int  # which of `Sampling.per_input` this is
    ids: Int32[np.ndarray, "C"]  # the completion, stop token included
    logprobs: Float32[np.ndarray, "C"]
    stopped: bool  # ended by a stop token, not by the length limit
    top_ids: Int32[np.ndarray, "C k"]  # most likely first; k may be 0
    top_logprobs: Float32[np.ndarray, "C k"]  # of the full softmax: what is missing to 1 is the tail
    draws: Int32[np.ndarray, "C n"]  # ids drawn from the teacher at each position; n may be 0
