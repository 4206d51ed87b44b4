"""Answers that cross from a teacher's tokenizer to the student's, as text."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cdjax.sampling.store import Rollout
from cdjax.tasks.task import Demonstration
from cdjax.views.view import View


def crossed(rollouts: Sequence[Rollout], writer: View, reader: View, *, steps: int) -> list[Rollout]:
    """The writer's answers in the tokens of the reader, without targets; log-probabilities are unknown, and 0.

    A finished answer gets the stop of the reader's template; an unfinished answer, or one that is cut at `steps`
    tokens, has none. Raises UserError for an answer that does not begin at a token under the reader's view.
    """
    texts = [Demonstration(rollout.input, writer.format.output(rollout.ids)) for rollout in rollouts]
    return [
        _in_tokens(rollout, ids, reader, steps) for rollout, ids in zip(rollouts, reader.answers(texts), strict=True)
    ]


def _in_tokens(rollout: Rollout, ids: np.ndarray, reader: View, steps: int) -> Rollout:
    ended = rollout.stopped and len(ids) <= steps
    stops = np.isin(ids[-1:], reader.format.stops).any()
    ids = ids[:steps] if ended or not stops else ids[: min(steps, len(ids) - 1)]
    unknown, undrafted = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32)
    return dataclasses.replace(rollout, ids=ids, logprobs=unknown, stopped=ended, targets={}, verdicts=undrafted)
