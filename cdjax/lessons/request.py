"""What a source is asked: answers to inputs, with targets of the teacher.

In: the inputs as both sides see them, and both models. Out: `Rollout`s, kept on disk as soon as they are there.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax

from cdjax.model.decoder import Decoder
from cdjax.sampling import Sampling, answers
from cdjax.sampling.store import Rollout, Store
from cdjax.sampling.targets.target import Target
from cdjax.views.view import Format, Shown


@dataclasses.dataclass(frozen=True)
class Request:
    """Answers of `steps` tokens at most; who writes them, and to which of the inputs, is the source's to say."""

    shown: Shown
    format: Format
    teacher: Decoder
    student: Decoder
    mesh: jax.sharding.Mesh
    sampling: Sampling
    targets: Target
    steps: int
    seed: int
    folder: Path
    progress: Callable[[int], object] = lambda done: None

    def sample(self, side: Literal["teacher"], rows: Sequence[int] | None = None) -> list[Rollout]:
        """That side's answers under its own view, to all inputs or to those of some rows; the student may draft."""
        shown = self.shown if rows is None else self.shown.rows(rows)
        return answers.sample(
            self.teacher,
            self.mesh,
            shown.teacher,
            stops=self.format.stops,
            sampling=self.sampling,
            targets=self.targets,
            steps=self.steps,
            seed=self.seed,
            student=answers.Student(self.student, shown.student),
            store=Store(self.folder),
            progress=self.progress,
        )
