"""Batches of pairs -> a trained student."""

from dataclasses import dataclass
from typing import Literal

from cdjax.parts import above, at_least


@dataclass(frozen=True)
class Optim:
    """AdamW with warm-up, a schedule and clipping by global norm."""

    lr: float = above(0, 1e-4)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = at_least(0, 0)
    weight_decay: float = at_least(0, 0.0)  # matrices only: never norms, biases or embeddings
    clip: float = at_least(0, 1.0)  # 0 does not clip
