"""Prompts pass through a fixed number of slots: where an answer has ended, a waiting prompt takes its place.

In: prompts and which samples of them are wanted. Out: those samples, in the order in which they end. Decoding runs in
compiled stretches; between two of them finished rows are handed over and waiting prompts are read, a few at a time.
What a row gets does not depend on when and where that is. The caller has entered `jax.set_mesh`.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Key

from cdjax import parallel
from cdjax.model import cache, decoder
from cdjax.sampling.choose import Choice
from cdjax.sampling.generate import Record, Samples, State, admit, collect, decode, start

Row = tuple[int, int]  # which prompt, and which of its samples
SHARE = 4  # a quarter of the slots is refilled at once


@dataclasses.dataclass(frozen=True)
class Slots:
    """A model, and what all prompts of a stage have in common."""

    model: decoder.Decoder
    mesh: jax.sharding.Mesh
    prefix: cache.Prefix | None
    stops: Bool[Array, "V"]
    choice: Choice
    record: Record
    steps: int
    batch: int  # how many there are: a multiple of the devices that share a batch

    def run(
        self, prompts: Sequence[Int32[np.ndarray, "_"]], rows: Sequence[Row], seed: int
    ) -> Iterator[tuple[list[Row], dict[str, np.ndarray]]]:
        """Rows that have ended, and the fields of their `Samples`, until all of `rows` have.

        While a stretch runs on the device, the caller works on the rows that ended before it.
        """
        waiting = deque(_loads(prompts, rows, self._together))
        busy: dict[int, Row] = {}
        ended: list[tuple[list[Row], Samples]] = []
        columns = width(max(len(prompt) for prompt in prompts)) - 1 + self.steps
        state = start(self.model, self.batch, columns, record=self.record, steps=self.steps)
        while waiting or busy:
            free = [slot for slot in range(self.batch) if slot not in busy]
            while waiting and len(waiting[0]) <= len(free):
                load, free = dict(zip(free, waiting[0], strict=False)), free[len(waiting.popleft()) :]
                state = self._admit(state, prompts, load, seed)
                busy |= load
            enough = self._together if waiting else self.batch
            state = decode(self.model, state, self.stops, self.prefix, enough, choice=self.choice, record=self.record)
            yield from _fetched(ended)
            alive = np.asarray(state.alive)
            ended = list(self._collect(state, [slot for slot in busy if not alive[slot]], busy))
        yield from _fetched(ended)

    @property
    def _together(self) -> int:
        """How many prompts are read together, or rows handed over."""
        parts = parallel.batch_parts(self.mesh)
        return max(self.batch // SHARE // parts, 1) * parts

    def _admit(self, state: State, prompts: Sequence[np.ndarray], load: dict[int, Row], seed: int) -> State:
        size = self._together
        longest = width(max(len(prompts[index]) for index, _ in load.values()))
        ids, real = np.zeros((size, longest), np.int32), np.zeros((size, longest), bool)
        which, slots = np.zeros((size, 2), np.int32), np.zeros(size, np.int32)
        for at, (slot, row) in enumerate(load.items()):
            own = prompts[row[0]]
            ids[at, longest - len(own) :], real[at, longest - len(own) :] = own, True
            which[at], slots[at] = row, slot
        batch = parallel.place_batch((ids, real, _keys(jax.random.key(seed), which), slots), self.mesh)
        return admit(self.model, state, *batch, self.prefix)

    def _collect(self, state: State, done: list[int], busy: dict[int, Row]) -> Iterator[tuple[list[Row], Samples]]:
        for at in range(0, len(done), self._together):
            part = done[at : at + self._together]
            slots = np.zeros(self._together, np.int32)
            slots[: len(part)] = part
            yield [busy.pop(slot) for slot in part], collect(state, slots)


def width(length: int) -> int:
    """Columns for prompts of this length: 8, 16, 24, 32, 48, 64, 96, ... so that few shapes are compiled."""
    if length <= 16:
        return -(-length // 8) * 8
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if length <= power * 3 // 4 else power


def _loads(prompts: Sequence[np.ndarray], rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """At most `size` rows at a time, all of one width: what a row reads does not depend on its neighbours."""
    for _, alike in itertools.groupby(rows, lambda row: width(len(prompts[row[0]]))):
        while load := list(itertools.islice(alike, size)):
            yield load


def _fetched(ended: list[tuple[list[Row], Samples]]) -> Iterator[tuple[list[Row], dict[str, np.ndarray]]]:
    for rows, samples in ended:
        yield rows, jax.device_get(vars(samples))


@jax.jit
def _keys(key: Key[Array, ""], rows: Int[Array, "R 2"]) -> Key[Array, "R"]:
    """A key for each prompt and sample number: it does not depend on when and where the row is sampled."""
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(rows)
