"""A model of a run as a student: its frozen weights, and a reader for each of its trainable states."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int32

from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from cdjax.students import Student, Trainable


@dataclasses.dataclass(frozen=True)
class Side:
    """A student, the trainable state that it begins as (`base`), and the frozen weights of all its states."""

    student: Student
    base: Trainable
    frozen: Any
    context: Int32[np.ndarray, "P"]  # what the teacher of the first operation reads before every input

    @property
    def model(self) -> Reader:
        """The model before training."""
        return Reader(self.student.base(self.base, self.frozen))

    def reader(self, params: Trainable | None) -> Reader:
        """The model with these trainable weights; None is the model before training."""
        return self.model if params is None else self.student.reader(params, self.frozen)

    def fresh(self, seed: int) -> Trainable:
        """The trainable state that a seed starts from."""
        return self.student.init(self.model.decoder, seed=seed, context=self.context)[0]


def side(decoder: Decoder, student: Student, context: Int32[np.ndarray, "P"]) -> Side:
    """The side of a student that begins as `decoder`."""
    base, frozen = student.init(decoder, seed=0, context=context)
    return Side(student, base, frozen, context)
