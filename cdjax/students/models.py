"""What the trainable states of a run are read as: all are of one student, with the same frozen rest."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from cdjax.model.decoder import Decoder
from cdjax.students import Student, Trainable


@dataclasses.dataclass(frozen=True)
class Models:
    """`base` is the student's trainable state of the model, `original` the first teacher's, `frozen` the rest."""

    student: Student
    base: Trainable
    original: Trainable  # `base`, until the teacher has been fine-tuned
    frozen: Any
    tuned: bool  # whether the first teacher is another than the model
    context: Int32[np.ndarray, "P"]  # what the teacher of the first operation reads before every input

    def decoder(self, params: Trainable) -> Decoder:
        """The decoder with these trainable weights."""
        return self.student.reader(params, self.frozen).decoder

    def start(self, seed: int, whose: Literal["teacher", "model"]) -> Trainable:
        """The trainable state that a seed starts from: the tuned teacher's, or a fresh one."""
        if whose == "teacher" and self.tuned:
            return self.original
        model = self.student.base(self.base, self.frozen)
        return self.student.init(model, seed=seed, context=self.context)[0]


def models(decoder: Decoder, student: Student, *, tuned: bool, context: Int32[np.ndarray, "P"]) -> Models:
    """The models of a run that begins with `decoder`."""
    base, frozen = student.init(decoder, seed=0, context=context)
    return Models(student, base, base, frozen, tuned, context)
