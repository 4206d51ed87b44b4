"""The written tokens alone."""

from dataclasses import dataclass
from typing import ClassVar

from cdjax.sampling.targets.target import Target


@dataclass(frozen=True)
class Labels(Target):
    """Nothing but the written tokens: for cross-entropy."""

    kind: ClassVar[str] = "labels"
