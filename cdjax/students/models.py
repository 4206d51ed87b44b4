"""What the trainable states of a run are read as: all are of one student, with the same frozen rest."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from cdjax.students import Student, Trainable


@dataclasses.dataclass(frozen=True)
class Models:
    """`base` is a fresh student's trainable state, `original` the first teacher's, `frozen` the rest."""

    student: Student
    base: Trainable
    original: Trainable | None  # None, which is the model itself, until the teacher has been fine-tuned
    frozen: Any
    context: Int32[np.ndarray, "P"]  # what the teacher of the first operation reads before every input

    def reader(self, params: Trainable | None) -> Reader:
        """What these trainable weights read as; None is the model that the run began with."""
        if params is None:
            return Reader(self.student.base(self.base, self.frozen))
        return self.student.reader(params, self.frozen)

    def start(self, seed: int, whose: Literal["teacher", "model"]) -> Trainable:
        """The trainable state that a seed starts from: the tuned teacher's, or a fresh one."""
        if whose == "teacher" and self.original is not None:
            return self.original
        return self.student.init(self.reader(None).decoder, seed=seed, context=self.context)[0]


def models(decoder: Decoder, student: Student, context: Int32[np.ndarray, "P"]) -> Models:
    """The models of a run that begins with `decoder`."""
    base, frozen = student.init(decoder, seed=0, context=context)
    return Models(student, base, None, frozen, context)
