"""The teacher's answers to all inputs; a shard of them is written to disk as soon as it is complete.

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
from cdjax.sampling.slots import Request, Side, Slots
from cdjax.sampling.store import RAGGED, Rollout, Store
from cdjax.sampling.targets.target import Target
from cdjax.views.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class Student:
    """The model that drafts the answers, and its prompts for the same inputs."""

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

    With `sampling.weights="int8"` the model is rounded first, and what is recorded is of the rounded model. With
    `sampling.draft` a `student` drafts the answers: other samples of the same distribution. Prompts with several
    contexts are an ensemble, see generate.py.
    A shard that `store` has is read, not sampled again. `progress` is called with the number of answers just added.
    Raises UserError if the store holds answers to something else, or if a prompt does not fit the model.
    """
    shards = _shards(prompts, sampling)
    check_fits(reader, prompts, steps)
    student = _drafter(sampling, prompts, student)
    if student is not None:
        check_fits(student.reader, student.prompts, steps)
    if store is not None:
        asked: dict[str, Any] = {"sampling": dataclasses.asdict(sampling), "targets": plain(targets)}
        asked |= {"steps": steps, "seed": seed, "stops": _digest(stops)} | _identities(reader, prompts, student)
        store.open(asked)
    answers: dict[Request, Rollout] = {}
    for number, requests in enumerate(shards):
        if store is not None and store.has(number):
            answers |= zip(requests, store.read(number), strict=True)
            progress(len(requests))
    missing = [request for requests in shards for request in requests if request not in answers]
    if missing:
        shard_of = {request: number for number, requests in enumerate(shards) for request in requests}
        left = Counter(shard_of[request] for request in missing)  # answers that each shard still waits for
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
            for requests, samples in slots.run(missing, seed):
                answers |= zip(requests, _rollouts(samples, prompts, requests), strict=True)
                left.subtract(shard_of[request] for request in requests)
                if store is not None:
                    for number in {shard_of[request] for request in requests}:
                        if not left[number]:
                            store.write(number, [answers[request] for request in shards[number]])
                progress(len(requests))
    return [answers[request] for request in sorted(answers)]


def rounded(reader: Reader) -> Reader:
    """The reader with its matrices in int8; its prefix is not rounded."""
    return dataclasses.replace(reader, decoder=quantize.int8(reader.decoder))


def identity(reader: Reader) -> str:
    """A digest of a reader's spec, dtype, weights and prefix: equal on every mesh, changed by any training step."""
    sums, decoder = np.asarray(_bit_sums(reader)), reader.decoder
    return _digest((repr(decoder.spec), str(decoder.dtype)), sums)


def _identities(reader: Reader, prompts: Prompts, student: Student | None) -> dict[str, str]:
    digests = {"model": identity(reader), "prompts": _digest(prompts.inputs, *prompts.contexts, *prompts.suffixes)}
    if student is None:
        return digests
    student_prompts = _digest(student.prompts.context, *student.prompts.suffixes)
    return digests | {"student": identity(student.reader), "student_prompts": student_prompts}


def check_fits(reader: Reader, prompts: Prompts, steps: int) -> None:
    """Raises UserError naming the first prompt that the model cannot read or cannot answer within its positions."""
    spec, before = reader.decoder.spec, reader.length
    if steps < 1:
        raise UserError(f"an answer needs at least 1 token, got a limit of {steps}")
    longest = max(prompts.contexts, key=len)
    for text, prompt in zip(prompts.inputs, prompts.suffixes, strict=True):
        length, ids = before + len(longest) + len(prompt), np.concatenate([*prompts.contexts, prompt])
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
    """The student if answers are drafted, else None. Raises UserError if there is no student, or an ensemble."""
    if not sampling.draft:
        return None
    if prompts.others:
        raise UserError(f"sampling.draft={sampling.draft} cannot go with an ensemble of prompts; set it to 0")
    if student is None:
        raise UserError(f"sampling.draft={sampling.draft} needs a student that drafts; give one, or set it to 0")
    return student


def _shards(prompts: Prompts, sampling: Sampling) -> list[list[Request]]:
    """Shards of requests of similar length, the longest first, so that a machine that is too small fails early."""
    if sampling.batch < 1 or sampling.per_input < 1:
        raise UserError(
            f"sampling needs a batch and samples per input of 1 or more, got {sampling.batch} and {sampling.per_input}"
        )
    requests = [(index, number) for index in range(len(prompts.suffixes)) for number in range(sampling.per_input)]
    requests.sort(key=lambda request: -len(prompts.suffixes[request[0]]))
    return [requests[start : start + sampling.batch] for start in range(0, len(requests), sampling.batch)]


def _side(reader: Reader, prompts: Prompts) -> Side:
    return Side(reader.after(*prompts.contexts).unstacked(), prompts.suffixes)


def _rows_on(mesh: jax.sharding.Mesh, rows: int) -> int:
    """The number of rows, rounded up to a multiple of the devices that a batch is split over."""
    parts = parallel.batch_parts(mesh)
    return -(-rows // parts) * parts


def _rollouts(samples: dict[str, Any], prompts: Prompts, requests: Sequence[Request]) -> Iterator[Rollout]:
    """Each request's rollout, cut to its length. The rows of `samples` beyond the requests are padding."""
    for row, (index, number) in enumerate(requests):
        length = int(samples["real"][row].sum())
        recorded = {name: np.array(x[row, :length]) for name, x in samples["targets"].items()}
        fields: dict[str, Any] = {name: np.array(samples[name][row, :length]) for name in RAGGED}
        yield Rollout(prompts.inputs[index], number, stopped=bool(samples["stopped"][row]), targets=recorded, **fields)


@jax.jit
def _bit_sums(reader: Reader) -> UInt32[Array, "leaves"]:
    """The sum of each array's bits, modulo 2**32: exact, so that no mesh's order of summation changes it."""

    def bit_sum(leaf: Array) -> Array:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)

    return jnp.stack([bit_sum(leaf) for leaf in jax.tree.leaves(reader)])


def _digest(texts: Sequence[str] | np.ndarray, *arrays: np.ndarray) -> str:
    """SHA-256 of texts and arrays, each with its length, shortened to 16 hex digits."""
    total = hashlib.sha256()
    for part in (texts, *arrays):
        data = part.tobytes() if isinstance(part, np.ndarray) else "\0".join(part).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]
