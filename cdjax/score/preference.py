"""The probabilities of an example's output and of its rejected answer under a side's view (arXiv 2209.15189, A.2).

In: a model, a view, and prompts with their examples. Out: a `Preference` for each example, for exam.py.

The probability of an answer is that of its tokens after the prompt, in the view's template, without the stop: the paper
compares objects, and P(New York) includes answers that go on to New York City.
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
    """Log-probabilities, in nats, of an example's output and of its rejected answer."""

    output: float
    rejected: float

    @property
    def grade(self) -> float:
        """The paper's score: 1.0 if the output is more likely."""
        return float(self.output > self.rejected)

    @property
    def magnitude(self) -> float:
        """The paper's magnitude, in percent: the difference of the probabilities, from -100 to 100."""
        return 100 * (math.exp(self.output) - math.exp(self.rejected))


def compare(
    model: Reader,
    view: View,
    prompts: Prompts,
    examples: Sequence[Example],
    mesh: jax.sharding.Mesh,
    batch: int,
) -> list[Preference | None]:
    """The preference for each prompt under the view; None where the example rejects no answer.

    Raises UserError for an answer that the view could not produce (see `encode.answers`).
    """
    rows = [row for row, example in enumerate(examples) if example.output and example.rejected]
    compared: list[Preference | None] = [None] * len(examples)
    if not rows:
        return compared
    # The output of each example at even indices, its rejected answer after it.
    demonstrations = [Demonstration(examples[row].input, text) for row in rows for text in _pair(examples[row])]
    ids = view.answers(demonstrations)
    answers = [
        _without_stop(answer, view.format.stops, demonstration)
        for answer, demonstration in zip(ids, demonstrations, strict=True)
    ]
    repeated = [prompts.suffixes[row] for row in rows for _ in range(2)]
    scores = logprobs(model, prompts.contexts, repeated, answers, mesh, batch)
    for row, (output, rejected) in zip(rows, scores.reshape(-1, 2).tolist(), strict=True):
        compared[row] = Preference(output, rejected)
    return compared


def logprobs(
    model: Reader,
    contexts: Sequence[Ids],
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    mesh: jax.sharding.Mesh,
    batch: int,
) -> Float64[np.ndarray, "answers"]:
    """Log-probability of each answer after its context and prompt, in nats; all batches have one shape.

    Several contexts are an ensemble: each token's probability is the mean over them.
    """
    parts = parallel.batch_parts(mesh)
    batch = -(-min(batch, len(answers)) // parts) * parts
    # One of few widths, so that another task can use the compiled code.
    padded_prompts = read.padded(prompts, slots.width(max(map(len, prompts))), left=True)
    padded_answers = read.padded(answers, slots.width(max(map(len, answers))), left=False)
    scores = []
    with jax.set_mesh(mesh):
        readers = [model.after(context) for context in contexts]
        for start in range(0, len(answers), batch):
            rows = np.minimum(np.arange(start, start + batch), len(answers) - 1)  # the last row fills the last batch
            placed = parallel.place_batch([x[rows] for x in (*padded_prompts, *padded_answers)], mesh)
            members = [np.asarray(read.logprobs(reader, *placed), np.float64) for reader in readers]
            scores.append((np.logaddexp.reduce(members) - np.log(len(members))).sum(1))
    return np.concatenate(scores)[: len(answers)]


def _pair(example: Example) -> tuple[str, str]:
    return example.output, example.rejected


def _without_stop(ids: Ids, stops: Ids, source: Demonstration) -> Ids:
    """The answer's tokens before the first stop. Raises UserError if there is none."""
    answer = ids[: np.append(np.isin(ids, stops), True).argmax()]
    if not len(answer):
        raise UserError(
            f"the answer {source.output!r} to {source.input!r} is one token with the stop; change template.answer"
        )
    return answer
