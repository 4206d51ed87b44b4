"""The ids of the answer."""

from dataclasses import dataclass
from typing import ClassVar

from cdjax.sampling.targets.target import Target


@dataclass(frozen=True)
class Labels(Target):
    """Records nothing beside the ids of the answer: for cross-entropy."""

    kind: ClassVar[str] = "labels"
