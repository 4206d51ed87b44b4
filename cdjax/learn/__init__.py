"""Batches of pairs -> a trained student."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Optim:
    """AdamW with warm-up, a schedule and clipping by global norm."""

    lr: float = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    weight_decay: float = 0.0  # matrices only: never norms, biases or embeddings
    clip: float = 1.0  # 0 does not clip
