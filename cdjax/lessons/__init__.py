"""Answers -> pairs to learn from, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

from cdjax.parts import at_least


@dataclass(frozen=True)
class Update:
    """The updates of a student in a round: their number, and the pairs of each."""

    epochs: int = at_least(1, 1)
    batch: int = at_least(1, 16)
    micro_batches: int = at_least(1, 1)
    every: int = at_least(0, 0)  # updates of a segment; each segment begins with new answers; 0: a round is a segment
    checkpoint_every: int = at_least(0, 0)  # steps; 0 saves only at the end of a stage

    def problems(self) -> Iterator[str]:
        """More micro-batches than pairs."""
        if self.batch < self.micro_batches:
            yield f"batch={self.batch} cannot be cut into {self.micro_batches} parts (micro_batches) of a pair or more"
