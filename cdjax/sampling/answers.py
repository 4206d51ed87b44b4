"""The teacher's answers to all inputs, kept on disk a shard at a time, as soon as all answers of the shard are there.

In: `Prompts` (views/) and a model. Out: `Rollout`s in input order, the same whatever the batch size or the mesh, and
however often the stage was interrupted.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt32

from cdjax import parallel
from cdjax.errors import UserError
from cdjax.model import quantize
from cdjax.model.reader import Reader
from cdjax.parts import plain
from cdjax.sampling import Sampling
from cdjax.sampling.choose import Choice
from cdjax.sampling.slots import Row, Side, Slots
from cdjax.sampling.store import RAGGED, Rollout, Store
from cdjax.sampling.targets.target import Target
from cdjax.views.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class Student:
    """The model that drafts the answers, and the same inputs as it is shown them."""

    reader: Reader
    prompts: Prompts


def sample(
    reader: Reader,
    mesh: jax.sharding.Mesh,
    prompts: Prompts,
    *,
    stops: Int32[np.ndarray, "_"],
    sampling: Sampling,
    targets: Target,
    steps: int,
    seed: int,
    student: Student | None = None,
    store: Store | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Rollout]:
    """`sampling.per_input` answers to each prompt, each at most `steps` tokens long and ended by one of the `stops`.

    With `sampling.weights="int8"` the model is rounded first: what is recorded is of the rounded one, which answered.
    With `sampling.draft` a `student` drafts them: other samples of the same distribution. Prompts with several contexts
    are an ensemble, see generate.py.
    A shard that `store` has is read, not sampled again. `progress` is told how many answers have been added.
    Raises UserError if the store holds something else, or if a prompt does not fit the model.
    """
    shards = _shards(prompts, sampling)
    check(reader, prompts, steps)
    student = _drafter(sampling, prompts, student)
    if student is not None:
        check(student.reader, student.prompts, steps)
    if store is not None:
        how: dict[str, Any] = {"sampling": dataclasses.asdict(sampling), "targets": plain(targets)}
        how |= {"steps": steps, "seed": seed, "stops": _digest(stops)} | _identities(reader, prompts, student)
        store.open(how)
    answers: dict[Row, Rollout] = {}
    stored = [] if store is None else [(rows, store.read(at)) for at, rows in enumerate(shards) if store.has(at)]
    for rows, rollouts in stored:
        answers |= zip(rows, rollouts, strict=True)
        progress(len(rows))
    missing = [row for rows in shards for row in rows if row not in answers]
    if missing:
        shard_of = {row: number for number, rows in enumerate(shards) for row in rows}
        left = Counter(shard_of[row] for row in missing)
        with jax.set_mesh(mesh):
            slots = Slots(
                teacher=_side(rounded(reader) if sampling.weights == "int8" else reader, prompts),
                student=None if student is None else _side(student.reader, student.prompts),
                draft=sampling.draft,
                mesh=mesh,
                stops=jnp.zeros(reader.decoder.spec.vocab, bool).at[stops].set(True),
                choice=Choice(sampling.temperature, sampling.top_k, sampling.top_p),
                targets=targets,
                steps=steps,
                batch=_rows_on(mesh, len(shards[0])),
            )
            for rows, samples in slots.run(missing, seed):
                answers |= zip(rows, _rollouts(samples, prompts, rows), strict=True)
                left.subtract(shard_of[row] for row in rows)
                if store is not None:
                    for number in {shard_of[row] for row in rows}:
                        if not left[number]:
                            store.write(number, [answers[row] for row in shards[number]])
                progress(len(rows))
    return [answers[row] for row in sorted(answers)]


def rounded(reader: Reader) -> Reader:
    """The reader with its matrices in int8; what stands before its rows stays as it is."""
    return dataclasses.replace(reader, decoder=quantize.int8(reader.decoder))


def identity(reader: Reader) -> str:
    """A digest of a model's shape, dtype and weights: the same on every mesh, another after any training step."""
    sums, decoder = np.asarray(_bit_sums(reader)), reader.decoder
    return _digest((repr(decoder.spec), str(decoder.dtype)), sums)


def _identities(reader: Reader, prompts: Prompts, student: Student | None) -> dict[str, str]:
    who = {"model": identity(reader), "prompts": _digest(prompts.inputs, *prompts.contexts, *prompts.own)}
    if student is None:
        return who
    shown = _digest(student.prompts.context, *student.prompts.own)
    return who | {"student": identity(student.reader), "student_prompts": shown}


def check(reader: Reader, prompts: Prompts, steps: int) -> None:
    """Raises UserError naming the first prompt that the model cannot read or cannot answer within its positions."""
    spec, before = reader.decoder.spec, reader.length
    if steps < 1:
        raise UserError(f"an answer needs at least 1 token, got a limit of {steps}")
    longest = max(prompts.contexts, key=len)
    for text, own in zip(prompts.inputs, prompts.own, strict=True):
        length, ids = before + len(longest) + len(own), np.concatenate([*prompts.contexts, own])
        if length + steps > spec.max_positions:
            raise UserError(
                f"the prompt of {text[:60]!r} has {length} tokens, with {steps} more for the answer that is over "
                f"the model's {spec.max_positions}; shorten the context or the answer"
            )
        if ids.min() < 0 or ids.max() >= spec.vocab:
            raise UserError(
                f"the prompt of {text[:60]!r} has token {ids.max()}, the model's vocabulary ends at {spec.vocab - 1}; "
                "use the tokenizer that belongs to the model"
            )


def _drafter(sampling: Sampling, prompts: Prompts, student: Student | None) -> Student | None:
    """The student, if it is to draft. Raises UserError if it cannot."""
    if not sampling.draft:
        return None
    if prompts.others:
        raise UserError(f"sampling.draft={sampling.draft} cannot go with an ensemble of prompts; set it to 0")
    if student is None:
        raise UserError(f"sampling.draft={sampling.draft} needs a student that drafts; give one, or set it to 0")
    return student


def _shards(prompts: Prompts, sampling: Sampling) -> list[list[Row]]:
    """Shards of rows of like length, the longest first, so that a machine that is too small fails at once."""
    if sampling.batch < 1 or sampling.per_input < 1:
        raise UserError(
            f"sampling needs a batch and samples per input of 1 or more, got {sampling.batch} and {sampling.per_input}"
        )
    rows = [(index, number) for index in range(len(prompts.own)) for number in range(sampling.per_input)]
    rows.sort(key=lambda row: -len(prompts.own[row[0]]))
    return [rows[start : start + sampling.batch] for start in range(0, len(rows), sampling.batch)]


def _side(reader: Reader, prompts: Prompts) -> Side:
    return Side(reader.after(*prompts.contexts).unstacked(), prompts.own)


def _rows_on(mesh: jax.sharding.Mesh, rows: int) -> int:
    parts = parallel.batch_parts(mesh)
    return -(-rows // parts) * parts


def _rollouts(samples: dict[str, Any], prompts: Prompts, rows: Sequence[Row]) -> Iterator[Rollout]:
    for row, (index, number) in enumerate(rows):
        length = int(samples["real"][row].sum())
        recorded = {name: np.array(x[row, :length]) for name, x in samples["targets"].items()}
        kept: dict[str, Any] = {name: np.array(samples[name][row, :length]) for name in RAGGED}
        yield Rollout(prompts.inputs[index], number, stopped=bool(samples["stopped"][row]), targets=recorded, **kept)


@jax.jit
def _bit_sums(reader: Reader) -> UInt32[Array, "leaves"]:
    """Each weight array's bits, summed as integers: exact, so that the order of summing does not matter."""

    def one(leaf: Array) -> Array:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(reader)])


def _digest(texts: Sequence[str] | np.ndarray, *arrays: np.ndarray) -> str:
    """SHA-256 of texts and arrays, each with its length, shortened to 16 hex digits."""
    total = hashlib.sha256()
    for part in (texts, *arrays):
        data = part.tobytes() if isinstance(part, np.ndarray) else "\0".join(part).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]
