"""Requests pass through a fixed number of slots: where an answer has ended, a waiting request takes its place.

In: prompts, and the requests for samples of them. Out: the samples, in the order in which they end. A slot is a row of
the batch that is decoded. Decoding runs in compiled stretches; between two of them finished answers are handed over and
waiting prompts are read, a few at a time. The answer to a request does not depend on when it is served, nor in which
slot. The caller has entered `jax.set_mesh`.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Key

from cdjax import parallel
from cdjax.model.reader import Reader
from cdjax.sampling import generate, speculate
from cdjax.sampling.choose import Choice
from cdjax.sampling.generate import Samples
from cdjax.sampling.targets.target import Target

Request = tuple[int, int]  # index of a prompt, number of the sample of it
State = generate.State | speculate.State
SHARE = 4  # a quarter of the slots is refilled together


@dataclasses.dataclass(frozen=True)
class Side:
    """A reader with unstacked layers that has read the shared context, and what follows the context in each prompt.

    The teacher may have read several contexts, see generate.py.
    """

    reader: Reader
    prompts: Sequence[Int32[np.ndarray, "_"]]


@dataclasses.dataclass(frozen=True)
class Slots:
    """The models that answer, and the settings that all requests share."""

    teacher: Side
    student: Side | None  # drafts `draft` tokens a step; None: no drafts
    draft: int
    mesh: jax.sharding.Mesh
    stops: Bool[Array, "V"]
    choice: Choice
    targets: Target
    steps: int
    batch: int  # number of slots: a multiple of the devices that a batch is split over

    def run(self, requests: Sequence[Request], seed: int) -> Iterator[tuple[list[Request], dict[str, Any]]]:
        """Yields requests that have been answered, with the fields of their `Samples` on the host, until all have been.

        Answers are handed over one stretch late: while the device decodes, the caller works on those that ended before.
        """
        waiting = deque(_loads([side.prompts for side in self._sides], requests, self._refill))
        busy: dict[int, Request] = {}  # by slot
        ended: list[tuple[list[Request], Samples]] = []
        state = self._start()
        while waiting or busy:
            free = [slot for slot in range(self.batch) if slot not in busy]
            while waiting and len(waiting[0]) <= len(free):
                load, free = dict(zip(free, waiting[0], strict=False)), free[len(waiting.popleft()) :]
                state = self._admit(state, load, seed)
                busy |= load
            state = self._decode(state, self._refill if waiting else self.batch)
            yield from _fetched(ended)
            alive = np.asarray(_answers(state).alive)  # waits for the stretch that `_decode` has dispatched
            ended = list(self._collect(state, [slot for slot in busy if not alive[slot]], busy))
        yield from _fetched(ended)

    @property
    def _sides(self) -> list[Side]:
        return [self.teacher] if self.student is None else [self.teacher, self.student]

    @property
    def _refill(self) -> int:
        """The number of slots that are refilled together, and of answers handed over together: A."""
        parts = parallel.batch_parts(self.mesh)
        return max(self.batch // SHARE // parts, 1) * parts

    def _start(self) -> State:
        def columns(side: Side) -> int:
            return width(max(map(len, side.prompts))) - 1 + self.steps + self.draft

        teacher, sizes = self.teacher, {"targets": self.targets, "steps": self.steps}
        state = generate.start(teacher.reader, self.batch, columns(teacher), **sizes)
        return state if self.student is None else speculate.start(self.student.reader, state, columns(self.student))

    def _admit(self, state: State, load: dict[int, Request], seed: int) -> State:
        """The state with a load of requests, by slot. All loads have one shape: their last rows may be padding."""
        requests, slots = np.zeros((self._refill, 2), np.int32), np.zeros(self._refill, np.int32)
        requests[: len(load)], slots[: len(load)] = list(load.values()), list(load)
        keys_and_slots = parallel.place_batch((keys(jax.random.key(seed), requests), slots), self.mesh)
        views = [parallel.place_batch(self._padded(side.prompts, load), self.mesh) for side in self._sides]
        answers = generate.admit(self.teacher.reader, _answers(state), *views[0], *keys_and_slots)
        if self.student is None:
            return answers
        state = dataclasses.replace(state, answers=answers)
        return speculate.admit(self.student.reader, state, *views[1], keys_and_slots[1])

    def _padded(
        self, prompts: Sequence[Int32[np.ndarray, "_"]], load: dict[int, Request]
    ) -> tuple[Int32[np.ndarray, "A T"], Bool[np.ndarray, "A T"]]:
        longest = width(max(len(prompts[index]) for index, _ in load.values()))
        ids, real = np.zeros((self._refill, longest), np.int32), np.zeros((self._refill, longest), bool)
        for row, (index, _) in enumerate(load.values()):
            prompt = prompts[index]
            ids[row, longest - len(prompt) :], real[row, longest - len(prompt) :] = prompt, True
        return ids, real

    def _decode(self, state: State, free: int) -> State:
        teacher, settings = self.teacher.reader, {"choice": self.choice, "targets": self.targets}
        if self.student is None:
            return generate.decode(teacher, state, self.stops, free, **settings)
        return speculate.decode(teacher, self.student.reader, state, self.stops, free, draft=self.draft, **settings)

    def _collect(
        self, state: State, done: list[int], busy: dict[int, Request]
    ) -> Iterator[tuple[list[Request], Samples]]:
        for start in range(0, len(done), self._refill):
            part = done[start : start + self._refill]
            slots = np.zeros(self._refill, np.int32)
            slots[: len(part)] = part
            yield [busy.pop(slot) for slot in part], generate.collect(_answers(state), slots)


def width(length: int) -> int:
    """Columns for texts of this length: 8, 16, 24, 32, 48, 64, 96, ... so that few shapes are compiled."""
    if length <= 16:
        return -(-length // 8) * 8
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if length <= power * 3 // 4 else power


def _answers(state: State) -> generate.State:
    return state.answers if isinstance(state, speculate.State) else state


def _loads(sides: Sequence[Sequence[np.ndarray]], requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Yields loads of at most `size` requests whose prompts have one width on each side.

    So the width at which a prompt is read, and with it the rounding, does not depend on its neighbours.
    """
    for _, alike in itertools.groupby(requests, lambda request: [width(len(side[request[0]])) for side in sides]):
        while load := list(itertools.islice(alike, size)):
            yield load


def _fetched(ended: list[tuple[list[Request], Samples]]) -> Iterator[tuple[list[Request], dict[str, Any]]]:
    for requests, samples in ended:
        yield requests, jax.device_get(vars(samples))


@jax.jit
def keys(key: Key[Array, ""], requests: Int[Array, "A 2"]) -> Key[Array, "A"]:
    """A key for each request: it does not depend on when the request is served, nor in which slot."""
    return jax.vmap(lambda request: jax.random.fold_in(jax.random.fold_in(key, request[0]), request[1]))(requests)
