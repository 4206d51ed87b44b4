"""What trains."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """Low-rank adapter; rank 0 trains all weights."""

    rank: int = 0
    alpha: float = 16.0  # the update is scaled by alpha / rank
