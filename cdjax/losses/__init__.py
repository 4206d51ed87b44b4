"""Hidden states of both sides -> a loss and its gradient."""

from dataclasses import dataclass
from typing import Literal

from cdjax.sampling.targets.target import Target


@dataclass(frozen=True)
class Objective:
    """The divergence between teacher and student at every kept token, named as in GKD (arXiv 2306.13649)."""

    kind: Literal["forward_kl", "reverse_kl", "jsd", "cross_entropy"] = "forward_kl"
    beta: float = 0.5  # jsd only; 0 is forward_kl, 1 is reverse_kl
    alpha: float = 0.0  # weight of cross-entropy on the sampled ids; 1 - alpha on the divergence

    def reads_teacher(self, targets: Target) -> bool:
        """Whether an update needs the teacher itself, to read the kept answers again."""
        return "states" in targets.gives and self.kind != "cross_entropy"
