"""Answers that somebody wrote -> the same answers with what teachers say before each of their tokens.

In: `Rollout`s and the teachers' prompts of their inputs. Out: `Rollout`s with targets, as if a teacher's decode step
had recorded them. Logits exist for some columns at a time.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from cdjax import parallel
from cdjax.model.cache import Prefix
from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from cdjax.sampling import choose, generate, read, slots
from cdjax.sampling.store import Rollout
from cdjax.sampling.targets.target import Recorded, Target
from cdjax.views.prompts import Prompts

Rows: TypeAlias = tuple[Int[Array, "B _"], Bool[Array, "B _"]]  # ids, and which of them are real


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model, and the prompts under which it reads inputs; of an ensemble's every prompt counts."""

    reader: Reader
    prompts: Prompts


def reread(
    rollouts: Sequence[Rollout],
    teachers: Sequence[Teacher],
    targets: Target,
    mesh: jax.sharding.Mesh,
    *,
    steps: int,
    batch: int,
    seed: int,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Rollout]:
    """The rollouts with targets: of several teachers, or several prompts of one, the mean of their probabilities.

    A context is read once, and all batches have one shape: `batch` answers of `steps` tokens. Draws use the random
    numbers that sampling with this `seed` would have recorded them with. Nothing is read where nothing is recorded.
    """
    if not targets.buffers() or not rollouts:
        return list(rollouts)
    parts = parallel.batch_parts(mesh)
    batch = -(-min(batch, len(rollouts)) // parts) * parts
    index = {text: row for row, text in enumerate(teachers[0].prompts.inputs)}
    answers = read.padded([rollout.ids for rollout in rollouts], steps, left=False)
    own = [dict(zip(teacher.prompts.inputs, teacher.prompts.own, strict=True)) for teacher in teachers]
    asked = [[prompts[rollout.input] for rollout in rollouts] for prompts in own]
    widths = [slots.width(max(map(len, prompts))) for prompts in asked]
    prompts = [read.padded(rows, width, left=True) for rows, width in zip(asked, widths, strict=True)]
    which = np.array([(index[rollout.input], rollout.sample) for rollout in rollouts], np.int32)
    recorded: list[Recorded] = []
    with jax.set_mesh(mesh):
        models = tuple(teacher.reader.decoder for teacher in teachers)
        prefixes = tuple(_prefixes(teacher) for teacher in teachers)
        for start in range(0, len(rollouts), batch):
            rows = np.minimum(np.arange(start, start + batch), len(rollouts) - 1)  # the last one fills the last batch
            some = jax.tree.map(lambda x, rows=rows: x[rows], (tuple(prompts), answers, which))
            placed, completion, numbers = parallel.place_batch(some, mesh)
            keys = slots.keys(jax.random.key(seed), numbers)
            found = jax.device_get(_observe(models, prefixes, placed, completion, keys, targets=targets))
            count = min(batch, len(rollouts) - start)
            recorded += [jax.tree.map(lambda x, row=row: x[row], found) for row in range(count)]
            progress(count)
    return [
        dataclasses.replace(rollout, targets={name: x[: len(rollout.ids)] for name, x in kept.items()})
        for rollout, kept in zip(rollouts, recorded, strict=True)
    ]


@functools.partial(jax.jit, static_argnames="targets")
def _observe(
    models: tuple[Decoder, ...],
    prefixes: tuple[tuple[Prefix | None, ...], ...],
    prompts: tuple[Rows, ...],
    answers: Rows,
    keys: Key[Array, "B"],
    *,
    targets: Target,
) -> Recorded:
    """What is recorded at every token of the answers, [B, C, ...]."""
    ids, real = answers
    hidden = [
        (read.completion_hidden(Reader(model, prefix), *own, ids, real), model.readout().gathered())
        for model, own, contexts in zip(models, prompts, prefixes, strict=True)
        for prefix in contexts
    ]
    columns = ids.shape[1]
    numbers = jax.vmap(lambda age: generate.uniforms(keys, jnp.full(len(keys), age), 1 + targets.uniforms), out_axes=1)(
        jnp.arange(columns)
    )
    size = read.columns_at_once(models[0], ids)

    def part(given: tuple) -> Recorded:
        states, ids, numbers = given
        flat = [
            parallel.constrain(out(state), "batch", "length", "vocab").reshape(ids.size, -1)
            for state, (_, out) in zip(states, hidden, strict=True)
        ]
        logits = flat[0] if len(flat) == 1 else choose.mean(jnp.stack(flat))
        made = targets.observe(logits, ids.reshape(-1), numbers.reshape(ids.size, numbers.shape[-1]))
        return jax.tree.map(lambda x: x.reshape(*ids.shape, *x.shape[1:]), made)

    pieces = [read.chunks(state, size) for state, _ in hidden]
    made = jax.lax.map(part, (pieces, read.chunks(ids, size), read.chunks(numbers[..., 1:], size)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(len(keys), -1, *x.shape[3:])[:, :columns], made)


def _prefixes(teacher: Teacher) -> tuple[Prefix | None, ...]:
    """The keys and values of each of the teacher's contexts."""
    return tuple(teacher.reader.after(context).prefix for context in teacher.prompts.contexts)
