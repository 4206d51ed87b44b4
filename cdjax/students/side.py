"""A model of a run and what trains of it: all its trainable states are of one student, with the same frozen rest."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int32

from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from cdjax.students import Student, Trainable


@dataclasses.dataclass(frozen=True)
class Side:
    """`base` is a fresh student's trainable state and `frozen` the rest."""

    student: Student
    base: Trainable
    frozen: Any
    context: Int32[np.ndarray, "P"]  # what the teacher of the first operation reads before every input

    @property
    def model(self) -> Reader:
        """The model as it is before anything trains."""
        return Reader(self.student.base(self.base, self.frozen))

    def reader(self, params: Trainable | None) -> Reader:
        """What these trainable weights read as; None is the model."""
        return self.model if params is None else self.student.reader(params, self.frozen)

    def fresh(self, seed: int) -> Trainable:
        """The trainable state that a seed starts from."""
        return self.student.init(self.model.decoder, seed=seed, context=self.context)[0]


def side(decoder: Decoder, student: Student, context: Int32[np.ndarray, "P"]) -> Side:
    """The side that begins with `decoder`."""
    base, frozen = student.init(decoder, seed=0, context=context)
    return Side(student, base, frozen, context)
