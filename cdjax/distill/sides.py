"""Teachers of a run beside its student: their models, tokenizers and stops, and what asks for like ones."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cdjax.config import Experiment, Template, Training
from cdjax.errors import UserError
from cdjax.losses import misfits
from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from cdjax.students import Trainable
from cdjax.students.side import Side, side
from cdjax.students.whole import Whole
from cdjax.views import encode
from cdjax.views.view import Format, Views


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher before the first round."""

    side: Side  # the student's own where it is the same model, which trains alike
    format: Format
    params: Trainable | None = None  # None, which is the model itself, until it has been trained

    @property
    def reader(self) -> Reader:
        """The teacher as it reads."""
        return self.side.reader(self.params)


def format(tokenizer: Any, template: Template, ends: Sequence[int]) -> Format:
    """How a model with these end ids is spoken to."""
    return Format(tokenizer, template, encode.stop_ids(tokenizer, template, ends))


def untrained(model: Decoder) -> Side:
    """A side that only reads."""
    return side(model, Whole(), np.zeros(0, np.int32))


def check(cfg: Experiment, student: Side, teachers: Sequence[Teacher], views: Sequence[Views]) -> None:
    """Raises UserError for whatever asks for sides that are more alike than these are."""
    problems = list(_of_models(cfg, student, teachers))
    if unlike := list(_vocabularies(student, teachers, views)):
        problems += [f"{problem}: {unlike[0]}" for problem in _soft(cfg)]
    if problems:
        raise UserError("; ".join(problems))


def _of_models(cfg: Experiment, student: Side, teachers: Sequence[Teacher]) -> Iterator[str]:
    """Ids and layers that the models do not have."""
    mine, theirs = (side.model.decoder.spec for side in (student, teachers[0].side))
    for path, training in cfg.trainings().items():
        yield from (f"{path}.targets.{problem}" for problem in training.targets.misfits(mine.vocab))
        yield from (f"{path}.{problem}" for problem in misfits(training.losses, mine, theirs))


def _vocabularies(student: Side, teachers: Sequence[Teacher], views: Sequence[Views]) -> Iterator[str]:
    """How the teachers' tokens are others than the student's."""
    if not all(view.one_vocabulary for view in views):
        yield "a teacher has another tokenizer, or ends its answers with tokens that do not end the student's"
    sizes = [teacher.side.model.decoder.spec.vocab for teacher in teachers]
    if {*sizes} != {size := student.model.decoder.spec.vocab}:
        yield f"the student's logits are of {size} tokens, the teachers' of {', '.join(map(str, sizes))}"


def _soft(cfg: Experiment) -> Iterator[str]:
    """What compares distributions over tokens, or moves tokens from one side to the other."""
    for path, training in cfg.trainings().items():
        if training.asks:
            yield from (f"{path}.{problem}" for problem in _of_training(training))
    for number, measure in enumerate(cfg.score.measures):
        if "one vocabulary" in getattr(measure, "needs", ()):
            yield f"score.measures.{number}: {measure.kind} needs one vocabulary; leave it out"


def _of_training(training: Training) -> Iterator[str]:
    if training.targets.gives:
        yield (
            f"targets.kind={training.targets.kind!r} records the teacher's probabilities of tokens; use "
            "targets.kind='labels' with losses=cross_entropy, which learns its text"
        )
    if training.sampling.draft:
        yield f"sampling.draft={training.sampling.draft} lets the student write the teacher's tokens; set it to 0"
    if training.sampling.weights != "full":
        yield f"sampling.weights={training.sampling.weights!r} is compared on the student's tokens; use 'full'"
