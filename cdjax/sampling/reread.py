"""Answers of any origin -> the same answers with targets: the teachers' distribution before each token.

In: `Rollout`s and the teachers' prompts for their inputs. Out: `Rollout`s with targets, as if a teacher's decode step
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

Padded: TypeAlias = tuple[Int[Array, "B _"], Bool[Array, "B _"]]  # ids, and the mask of real ids


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model and its prompts for the inputs; prompts with several contexts are an ensemble."""

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
    """The rollouts with targets recorded from the teachers' distribution before each token.

    Several teachers, or several contexts of a teacher, are an ensemble: the mean of their probabilities. A context is
    read once, and all batches have one shape: `batch` answers of `steps` tokens. Draws use the random numbers that
    sampling with this `seed` would have used. If the targets record nothing, nothing is read.
    """
    if not targets.buffers() or not rollouts:
        return list(rollouts)
    parts = parallel.batch_parts(mesh)
    batch = -(-min(batch, len(rollouts)) // parts) * parts
    index = {text: row for row, text in enumerate(teachers[0].prompts.inputs)}
    answers = read.padded([rollout.ids for rollout in rollouts], steps, left=False)
    by_input = [dict(zip(teacher.prompts.inputs, teacher.prompts.suffixes, strict=True)) for teacher in teachers]
    unpadded = [[prompt[rollout.input] for rollout in rollouts] for prompt in by_input]  # of each teacher
    widths = [slots.width(max(map(len, prompts))) for prompts in unpadded]
    prompts = [read.padded(rows, width, left=True) for rows, width in zip(unpadded, widths, strict=True)]
    requests = np.array([(index[rollout.input], rollout.sample) for rollout in rollouts], np.int32)
    recorded: list[Recorded] = []
    with jax.set_mesh(mesh):
        models = tuple(teacher.reader.decoder for teacher in teachers)
        prefixes = tuple(_prefixes(teacher) for teacher in teachers)
        for start in range(0, len(rollouts), batch):
            rows = np.minimum(np.arange(start, start + batch), len(rollouts) - 1)  # the last row fills the last batch
            on_host = jax.tree.map(lambda x, rows=rows: x[rows], (tuple(prompts), answers, requests))
            placed, completion, asked = parallel.place_batch(on_host, mesh)
            keys = slots.keys(jax.random.key(seed), asked)
            observed = jax.device_get(_observe(models, prefixes, placed, completion, keys, targets=targets))
            count = min(batch, len(rollouts) - start)
            recorded += [jax.tree.map(lambda x, row=row: x[row], observed) for row in range(count)]
            progress(count)
    return [
        dataclasses.replace(rollout, targets={name: x[: len(rollout.ids)] for name, x in columns.items()})
        for rollout, columns in zip(rollouts, recorded, strict=True)
    ]


@functools.partial(jax.jit, static_argnames="targets")
def _observe(
    models: tuple[Decoder, ...],
    prefixes: tuple[tuple[Prefix | None, ...], ...],
    prompts: tuple[Padded, ...],
    answers: Padded,
    keys: Key[Array, "B"],
    *,
    targets: Target,
) -> Recorded:
    """The arrays that `targets` record before every token of the answers, [B, C, ...]."""
    ids, real = answers
    members = [  # of the ensemble: hidden states [B, C, D], and the readout that makes logits of them
        (read.completion_hidden(Reader(model, prefix), *prompt, ids, real), model.readout().gathered())
        for model, prompt, contexts in zip(models, prompts, prefixes, strict=True)
        for prefix in contexts
    ]
    columns = ids.shape[1]
    numbers = jax.vmap(lambda age: generate.uniforms(keys, jnp.full(len(keys), age), 1 + targets.uniforms), out_axes=1)(
        jnp.arange(columns)
    )
    size = read.columns_at_once(models[0], ids)

    def observe(chunk: tuple[list[Array], Array, Array]) -> Recorded:
        hidden, ids, numbers = chunk
        flat = [
            parallel.constrain(out(states), "batch", "length", "vocab").reshape(ids.size, -1)
            for states, (_, out) in zip(hidden, members, strict=True)
        ]
        logits = flat[0] if len(flat) == 1 else choose.mean(jnp.stack(flat))
        recorded = targets.observe(logits, ids.reshape(-1), numbers.reshape(ids.size, numbers.shape[-1]))
        return jax.tree.map(lambda x: x.reshape(*ids.shape, *x.shape[1:]), recorded)

    hidden = [read.chunks(states, size) for states, _ in members]
    # A place's first number would choose its token, but the tokens are given.
    recorded = jax.lax.map(observe, (hidden, read.chunks(ids, size), read.chunks(numbers[..., 1:], size)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(len(keys), -1, *x.shape[3:])[:, :columns], recorded)


def _prefixes(teacher: Teacher) -> tuple[Prefix | None, ...]:
    """The keys and values of each of the teacher's contexts."""
    return tuple(teacher.reader.after(context).prefix for context in teacher.prompts.contexts)
