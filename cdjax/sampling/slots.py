"""Prompts pass through a fixed number of slots: where an answer has ended, a waiting prompt takes its place.

In: prompts and which samples of them are wanted. Out: those samples, in the order in which they end. Decoding runs in
compiled stretches; between two of them finished rows are handed over and waiting prompts are read, a few at a time.
What a row gets does not depend on when and where that is. The caller has entered `jax.set_mesh`.
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

Row = tuple[int, int]  # which prompt, and which of its samples
State = generate.State | speculate.State
SHARE = 4  # a quarter of the slots is refilled at once


@dataclasses.dataclass(frozen=True)
class Side:
    """A model with its layers apart, which has read a context or none, and each prompt's own part that comes after it.

    The teacher may have read several contexts, see generate.py.
    """

    reader: Reader
    prompts: Sequence[Int32[np.ndarray, "_"]]


@dataclasses.dataclass(frozen=True)
class Slots:
    """Who answers, and what all prompts of a stage have in common."""

    teacher: Side
    student: Side | None  # drafts `draft` tokens a step, if it is there
    draft: int
    mesh: jax.sharding.Mesh
    stops: Bool[Array, "V"]
    choice: Choice
    targets: Target
    steps: int
    batch: int  # how many there are: a multiple of the devices that share a batch

    def run(self, rows: Sequence[Row], seed: int) -> Iterator[tuple[list[Row], dict[str, Any]]]:
        """Rows that have ended, and the fields of their `Samples`, until all of `rows` have.

        While a stretch runs on the device, the caller works on the rows that ended before it.
        """
        waiting = deque(_loads([side.prompts for side in self._sides], rows, self._together))
        busy: dict[int, Row] = {}
        ended: list[tuple[list[Row], Samples]] = []
        state = self._start()
        while waiting or busy:
            free = [slot for slot in range(self.batch) if slot not in busy]
            while waiting and len(waiting[0]) <= len(free):
                load, free = dict(zip(free, waiting[0], strict=False)), free[len(waiting.popleft()) :]
                state = self._admit(state, load, seed)
                busy |= load
            state = self._decode(state, self._together if waiting else self.batch)
            yield from _fetched(ended)
            alive = np.asarray(_answers(state).alive)
            ended = list(self._collect(state, [slot for slot in busy if not alive[slot]], busy))
        yield from _fetched(ended)

    @property
    def _sides(self) -> list[Side]:
        return [self.teacher] if self.student is None else [self.teacher, self.student]

    @property
    def _together(self) -> int:
        """How many prompts are read together, or rows handed over."""
        parts = parallel.batch_parts(self.mesh)
        return max(self.batch // SHARE // parts, 1) * parts

    def _start(self) -> State:
        def columns(side: Side) -> int:
            return width(max(map(len, side.prompts))) - 1 + self.steps + self.draft

        side, sizes = self.teacher, {"targets": self.targets, "steps": self.steps}
        state = generate.start(side.reader, self.batch, columns(side), **sizes)
        return state if self.student is None else speculate.start(self.student.reader, state, columns(self.student))

    def _admit(self, state: State, load: dict[int, Row], seed: int) -> State:
        which, slots = np.zeros((self._together, 2), np.int32), np.zeros(self._together, np.int32)
        which[: len(load)], slots[: len(load)] = list(load.values()), list(load)
        rows = parallel.place_batch((keys(jax.random.key(seed), which), slots), self.mesh)
        views = [parallel.place_batch(self._padded(side.prompts, load), self.mesh) for side in self._sides]
        side, answers = self.teacher, _answers(state)
        answers = generate.admit(side.reader, answers, *views[0], *rows)
        if self.student is None:
            return answers
        state = dataclasses.replace(state, answers=answers)
        return speculate.admit(self.student.reader, state, *views[1], rows[1])

    def _padded(self, prompts: Sequence[np.ndarray], load: dict[int, Row]) -> tuple[np.ndarray, np.ndarray]:
        longest = width(max(len(prompts[index]) for index, _ in load.values()))
        ids, real = np.zeros((self._together, longest), np.int32), np.zeros((self._together, longest), bool)
        for at, (index, _) in enumerate(load.values()):
            own = prompts[index]
            ids[at, longest - len(own) :], real[at, longest - len(own) :] = own, True
        return ids, real

    def _decode(self, state: State, enough: int) -> State:
        side, how = self.teacher, {"choice": self.choice, "targets": self.targets}
        if self.student is None:
            return generate.decode(side.reader, state, self.stops, enough, **how)
        readers = side.reader, self.student.reader
        return speculate.decode(*readers, state, self.stops, enough, draft=self.draft, **how)

    def _collect(self, state: State, done: list[int], busy: dict[int, Row]) -> Iterator[tuple[list[Row], Samples]]:
        for at in range(0, len(done), self._together):
            part = done[at : at + self._together]
            slots = np.zeros(self._together, np.int32)
            slots[: len(part)] = part
            yield [busy.pop(slot) for slot in part], generate.collect(_answers(state), slots)


def width(length: int) -> int:
    """Columns for prompts of this length: 8, 16, 24, 32, 48, 64, 96, ... so that few shapes are compiled."""
    if length <= 16:
        return -(-length // 8) * 8
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if length <= power * 3 // 4 else power


def _answers(state: State) -> generate.State:
    return state.answers if isinstance(state, speculate.State) else state


def _loads(sides: Sequence[Sequence[np.ndarray]], rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """At most `size` rows at a time, all of one width on a side: what one reads does not depend on its neighbours."""
    for _, alike in itertools.groupby(rows, lambda row: [width(len(prompts[row[0]])) for prompts in sides]):
        while load := list(itertools.islice(alike, size)):
            yield load


def _fetched(ended: list[tuple[list[Row], Samples]]) -> Iterator[tuple[list[Row], dict[str, Any]]]:
    for rows, samples in ended:
        yield rows, jax.device_get(vars(samples))


@jax.jit
def keys(key: Key[Array, ""], rows: Int[Array, "R 2"]) -> Key[Array, "R"]:
    """A key for each prompt and sample number: it does not depend on when and where the row is sampled."""
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(rows)
