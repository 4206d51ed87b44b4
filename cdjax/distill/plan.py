"""The rounds of a run: who learns what in which of them. Names of stages, folders and seeds follow from it."""

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from cdjax.config import Training
from cdjax.distill.opening import Run
from cdjax.distill.sides import Teacher
from cdjax.learn.checkpoint import Checkpoints
from cdjax.students.side import Side


@dataclasses.dataclass(frozen=True)
class Learner:
    """Who learns: the student, a baseline of it, or a teacher before the first round."""

    training: Training
    side: Side
    place: tuple[tuple[str, object], ...] = ()  # of its stages and folders, where it is not the student
    teacher: Teacher | None = None  # if it is one


@dataclasses.dataclass(frozen=True)
class Round:
    """Which learner, seed and round of a run, the operations that are distilled, and which of the round's segments."""

    run: Run
    seed: int
    number: int
    operations: tuple[int, ...]
    learner: Learner
    segment: int | None = None  # None where the round has only one

    @property
    def training(self) -> Training:
        """How the round's learner is trained."""
        return self.learner.training

    @property
    def student(self) -> bool:
        """Whether the run's student learns, not a baseline or a teacher."""
        return not self.learner.place

    def stage(self, name: str, *operation: int) -> str:
        """The stage's name in the journal. After an operation, the source that answers may be told by its number."""
        return "/".join(f"{kind} {value}" for kind, value in self._place(*operation)) + f"/{name}"

    def folder(self, kind: str, *operation: int) -> Path:
        """Where the round's files of a kind are."""
        return self.run.workdir.joinpath(kind, *(f"{name}_{value}" for name, value in self._place(*operation)))

    def checkpoints(self) -> Checkpoints:
        """Those of the round's, or the segment's, updates."""
        return Checkpoints(self.folder("checkpoints"))

    def fold(self, purpose: str, *operation: int) -> int:
        """A number for this purpose at this place in the run, to seed what is random there."""
        place = [self.seed, self.number, zlib.crc32(purpose.encode()), *operation]
        place += [] if self.segment is None else [1 + self.segment]
        return int(np.random.SeedSequence(place).generate_state(1)[0] >> 1)

    def shuffle(self) -> int:
        """The seed by which examples are shuffled: a place of its own in every round of the student."""
        return self.fold("update") if self.student else self.seed

    def line(self) -> dict[str, Any]:
        """What a line of metrics says of where it was measured."""
        place = {"seed": self.seed, "round": self.number}
        return place if self.student else {name: value for name, value in self.learner.place}

    def segments(self) -> list["Round"]:
        """The round's segments, once it has begun."""
        planned = self.run.journal.results().get(self.stage("segments"))
        if planned is None:
            return [self]
        return [dataclasses.replace(self, segment=number) for number in range(planned["segments"])]

    def last(self) -> "Round":
        """The round's last segment, once it has begun."""
        return dataclasses.replace(self, segment=None).segments()[-1]

    def _place(self, *operation: int) -> list[tuple[str, object]]:
        place = list(self.learner.place) or [("seed", self.seed), ("round", self.number)]
        place += [] if self.segment is None else [("segment", self.segment)]
        return [*place, *zip(("operation", "source"), operation, strict=False)]


def rounds(run: Run, seed: int) -> list[Round]:
    """The rounds of a seed's student, with the operations that each distils."""
    learner = Learner(run.cfg.training, run.student)
    return [Round(run, seed, number, operations, learner) for number, operations in enumerate(run.cfg.rounds())]


def baseline(run: Run, seed: int, number: int) -> Round:
    """The one round of a baseline, over all operations."""
    chosen = run.cfg.baselines[number]
    learner = Learner(chosen.training, run.student, (("seed", seed), ("baseline", chosen.name)))
    return Round(run, seed, 0, tuple(range(len(run.assignments))), learner)


def teacher(run: Run, number: int, training: Training) -> Round:
    """The one round in which a teacher is made out of its model."""
    made = run.teachers[number]
    learner = Learner(training, made.side, (("teacher", number),), made)
    return Round(run, number, 0, tuple(range(len(run.assignments))), learner)
