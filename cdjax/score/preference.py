"""Which is more likely under one side's view, an answer or the one that it must beat (arXiv 2209.15189, A.2).

In: a model, a view, and prompts with their examples. Out: a `Preference` each, for exam.py.

The probability of an answer is that of its own tokens after the prompt, as the view would have them written. The stop
after them does not count, since the paper compares objects: what goes on to New York City is part of P(New York).
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float64, Int32

from cdjax import parallel
from cdjax.errors import UserError
from cdjax.model.reader import Reader
from cdjax.sampling import read, slots
from cdjax.tasks import Example
from cdjax.tasks.task import Demonstration
from cdjax.views.prompts import Prompts
from cdjax.views.view import View

Ids = Int32[np.ndarray, "_"]


@dataclasses.dataclass(frozen=True)
class Preference:
    """Log-probabilities, in nats, of the answer that should win and of the rejected one."""

    output: float
    rejected: float

    @property
    def grade(self) -> float:
        """The paper's score: 1.0 if the output is more likely."""
        return float(self.output > self.rejected)

    @property
    def magnitude(self) -> float:
        """The paper's magnitude, in percent: from -100, surely the rejected answer, to 100."""
        return 100 * (math.exp(self.output) - math.exp(self.rejected))


def compare(
    model: Reader,
    view: View,
    prompts: Prompts,
    examples: Sequence[Example],
    mesh: jax.sharding.Mesh,
    batch: int,
) -> list[Preference | None]:
    """One for each prompt under that view; None where the example rejects no answer.

    Raises UserError for an answer that the view could not produce (see `encode.answers`).
    """
    rows = [row for row, example in enumerate(examples) if example.output and example.rejected]
    compared: list[Preference | None] = [None] * len(examples)
    if not rows:
        return compared
    both = [Demonstration(examples[row].input, text) for row in rows for text in _pair(examples[row])]
    ids = view.answers(both)
    answers = [_without_stop(answer, view.format.stops, asked) for answer, asked in zip(ids, both, strict=True)]
    own = [prompts.own[row] for row in rows for _ in range(2)]
    logs = logprobs(model, prompts.contexts, own, answers, mesh, batch)
    for row, (output, rejected) in zip(rows, logs.reshape(-1, 2).tolist(), strict=True):
        compared[row] = Preference(output, rejected)
    return compared


def logprobs(
    model: Reader,
    contexts: Sequence[Ids],
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    mesh: jax.sharding.Mesh,
    batch: int,
) -> Float64[np.ndarray, "N"]:
    """Log-probability of each whole answer after a shared context and its own prompt; all batches have one shape.

    With several contexts each token's probability is the mean of those after every one of them.
    """
    parts = parallel.batch_parts(mesh)
    batch = -(-min(batch, len(answers)) // parts) * parts
    # One of few widths, so that another task finds it compiled.
    asked = read.padded(prompts, slots.width(max(map(len, prompts))), left=True)
    answered = read.padded(answers, slots.width(max(map(len, answers))), left=False)
    found = []
    with jax.set_mesh(mesh):
        readers = [model.after(context) for context in contexts]
        for start in range(0, len(answers), batch):
            rows = np.minimum(np.arange(start, start + batch), len(answers) - 1)  # the last row fills the last batch
            placed = parallel.place_batch([x[rows] for x in (*asked, *answered)], mesh)
            each = [np.asarray(read.logprobs(reader, *placed), np.float64) for reader in readers]
            found.append((np.logaddexp.reduce(each) - np.log(len(each))).sum(1))
    return np.concatenate(found)[: len(answers)]


def _pair(example: Example) -> tuple[str, str]:
    return example.output, example.rejected


def _without_stop(ids: Ids, stops: Ids, asked: Demonstration) -> Ids:
    """The answer's own tokens: those before the first that ends an answer."""
    own = ids[: np.append(np.isin(ids, stops), True).argmax()]
    if not len(own):
        raise UserError(
            f"the answer {asked.output!r} to {asked.input!r} is one token with the stop; change template.answer"
        )
    return own
