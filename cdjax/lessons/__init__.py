"""Answers -> what is learned from, in batches."""

from dataclasses import dataclass

from cdjax.parts import at_least


@dataclass(frozen=True)
class Update:
    """How long and in what pieces the student learns in one round."""

    epochs: int = 1
    batch: int = 16
    micro_batches: int = 1
    every: int = at_least(0, 0)  # updates of a segment, before which answers are written anew; 0: once a round
    checkpoint_every: int = 0  # steps; 0 saves only at the end of a stage
