"""Hidden states of both sides -> a loss and its gradient."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Objective:
    """The divergence between teacher and student at every kept token, named as in GKD (arXiv 2306.13649)."""

    kind: Literal["forward_kl", "reverse_kl", "jsd", "cross_entropy"] = "forward_kl"
    beta: float = 0.5  # jsd only; 0 is forward_kl, 1 is reverse_kl
    temperature: float = 1.0
    alpha: float = 0.0  # weight of cross-entropy on the sampled ids; 1 - alpha on the divergence
    targets: Literal["top_k", "sampled", "full"] = "top_k"
    top_k: int = 32  # ids kept a position, with the mass of the rest
    draws: int = 100  # ids sampled a position (the paper's 100)

    @property
    def reads_teacher(self) -> bool:
        """Whether an update needs the teacher itself, to read the kept answers again."""
        return self.targets == "full" and self.kind != "cross_entropy"
