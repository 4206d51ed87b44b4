"""Prompts -> sampled completions, compiled whole: prefill, then one `while_loop` that ends when every row has stopped.

In: left-padded prompts, one key a row, an optional shared prefix. Out: `Samples`, with what the decode step knew about
each token. Logits exist for one column at a time. The caller has entered `jax.set_mesh`.

A prefix of several contexts is an ensemble: every row is read after each of them, and its next token is chosen by the
mean of the probabilities, which is also what is recorded.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from cdjax.model import cache
from cdjax.model.decoder import row_positions
from cdjax.model.reader import Reader
from cdjax.parallel import constrain, whole_rows
from cdjax.sampling import choose
from cdjax.sampling.targets.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """Completions, right-padded. What stands where `real` is False means nothing."""

    ids: Int[Array, "B C"]  # stop token included
    logprobs: Float[Array, "B C"]  # of the chosen id under the model itself, at temperature 1
    real: Bool[Array, "B C"]
    stopped: Bool[Array, "B"]  # by a stop token, not by the length limit
    targets: dict[str, Array]  # what they record of the distribution that each id was drawn from, [B, C, ...]
    verdicts: Int[Array, "B C"]  # on another model's draft of this id, see speculate.py; 0 where there was none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Between two steps: what each row reads next, what it has read, and what it has written so far."""

    tokens: Int[Array, "B"]
    keys: Key[Array, "B"]
    alive: Bool[Array, "B"]
    stopped: Bool[Array, "B"]
    ages: Int[Array, "B"]  # tokens written
    past: cache.Cache  # in an ensemble with a leading axis of its members, but for the lengths
    written: dict[str, Any]  # the fields of Samples that have a C axis


@functools.partial(jax.jit, static_argnames=("choice", "targets", "steps"))
def generate(
    reader: Reader,
    prompts: Int[Array, "B T"],
    real: Bool[Array, "B T"],
    keys: Key[Array, "B"],
    stops: Bool[Array, "V"],
    *,
    choice: choose.Choice,
    targets: Target,
    steps: int,
) -> Samples:
    """At most `steps` tokens after each left-padded prompt. A row whose last column is padding only fills the batch.

    What a row gets depends on its prompt and its key, never on the rest of the batch.
    """
    reader = reader.unstacked()
    rows = jnp.arange(len(prompts))
    state = start(reader, len(rows), prompts.shape[1] - 1 + steps, targets=targets, steps=steps)
    state = admit(reader, state, prompts, real, keys, rows)
    return collect(decode(reader, state, stops, len(rows), choice=choice, targets=targets), rows)


@functools.partial(jax.jit, static_argnames=("batch", "slots", "targets", "steps"))
def start(reader: Reader, batch: int, slots: int, *, targets: Target, steps: int) -> State:
    """Rows that wait for a prompt. `slots` is `steps` and the length of the longest prompt, less one."""

    def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
        return constrain(jnp.zeros((batch, *shape), dtype), "batch", *("length",) * len(shape))

    recorded = {name: zeros((steps, *shape), dtype) for name, (shape, dtype) in targets.buffers().items()}
    columns = {"ids": jnp.int32, "logprobs": jnp.float32, "verdicts": jnp.int32}
    return State(
        tokens=zeros((), jnp.int32),
        keys=jax.random.split(jax.random.key(0), batch),
        alive=zeros((), jnp.bool_),
        stopped=zeros((), jnp.bool_),
        ages=zeros((), jnp.int32),
        past=cache.new_cache(reader.decoder.spec, batch, slots, reader.decoder.dtype, reader.contexts),
        written={name: zeros((steps,), dtype) for name, dtype in columns.items()} | {"targets": recorded},
    )


@functools.partial(jax.jit, donate_argnames="state")
def admit(
    reader: Reader,
    state: State,
    prompts: Int[Array, "R T"],
    real: Bool[Array, "R T"],
    keys: Key[Array, "R"],
    rows: Int[Array, "R"],
) -> State:
    """Puts left-padded prompts into rows that are free; one whose last column is padding goes nowhere.

    Reads all but the last prompt token. Decoding begins with that one, so that only decoding makes logits.
    """
    new, which = places(len(state.alive), real, rows)
    return State(
        tokens=put(state.tokens, prompts[:, -1], new, which),
        keys=put(state.keys, keys, new, which),
        alive=state.alive | new,
        stopped=state.stopped & ~new,
        ages=jnp.where(new, 0, state.ages),
        past=fill(reader, state.past, prompts, real, new, which),
        written=state.written,
    )


def places(batch: int, real: Bool[Array, "R T"], rows: Int[Array, "R"]) -> tuple[Bool[Array, "B"], Int[Array, "B"]]:
    """Which rows of the batch get a prompt, and which one: the prompts move, the rows stay on their devices."""
    found = (rows[None] == jnp.arange(batch)[:, None]) & real[:, -1][None]
    return found.any(1), found.argmax(1)


def put(old: Shaped[Array, "B ..."], fresh: Shaped[Array, "R ..."], new: Bool[Array, "B"], which: Int[Array, "B"]):
    """`old` with what the new rows get of `fresh`, see `places`."""
    return jnp.where(_like(new, old), fresh[which], old)


def fill(
    reader: Reader,
    past: cache.Cache,
    prompts: Int[Array, "R T"],
    real: Bool[Array, "R T"],
    new: Bool[Array, "B"],
    which: Int[Array, "B"],
) -> cache.Cache:
    """`past` with all but the last token of their prompts in the new rows, see `places`."""
    lengths = put(past.lengths, real[:, :-1].sum(1), new, which)
    if prompts.shape[1] == 1:
        return dataclasses.replace(past, lengths=lengths)
    columns = slice(0, prompts.shape[1] - 1)

    def one(old: Array, fresh: Array) -> Array:
        return old.at[:, :, columns].set(put(old[:, :, columns], fresh.astype(old.dtype), new, which))

    def read(reader: Reader, past: cache.Cache) -> tuple[None, cache.Cache]:
        k, v = _read(reader, prompts[:, :-1], real[:, :-1])
        return None, cache.Cache(tuple(map(one, past.k, k)), tuple(map(one, past.v, v)), lengths)

    return by_member(read, reader, past)[1]


def _read(reader, prompts, real):
    """Keys and values of left-padded prompts, moved to the left so that a row's columns have no gaps."""
    width, lengths = prompts.shape[1], real.sum(1)
    columns = jnp.arange(width)[None]
    moved = jnp.take_along_axis(prompts, (columns - lengths[:, None]) % width, 1)
    real = columns < lengths[:, None]
    return reader.decoder.read(moved, row_positions(real, reader.prefix), real, prefix=reader.prefix)


def by_member(
    function: Callable[[Reader, cache.Cache], tuple[Any, cache.Cache]], reader: Reader, past: cache.Cache
) -> tuple[Any, cache.Cache]:
    """`function` of the reader and the cache; of an ensemble's, what it gives for each member, one above the other."""
    prefix = reader.prefix
    if prefix is None or reader.contexts == 1:
        return function(reader, past)

    def member(k: Array, v: Array, length: Array, past_k: Any, past_v: Any) -> tuple[Any, Any, Any, Array]:
        own = Reader(reader.decoder, cache.Prefix(k[:, None], v[:, None], length[None]))
        found, after = function(own, cache.Cache(past_k, past_v, past.lengths))
        return found, after.k, after.v, after.lengths  # all members have read as many tokens of a row

    each = jax.vmap(member, in_axes=(1, 1, 0, 0, 0), out_axes=(0, 0, 0, None))
    found, *after = each(prefix.k, prefix.v, prefix.lengths, past.k, past.v)
    return found, cache.Cache(*after)


@functools.partial(jax.jit, static_argnames=("choice", "targets"), donate_argnames="state")
def decode(
    reader: Reader,
    state: State,
    stops: Bool[Array, "V"],
    free: int | Int[Array, ""],
    *,
    choice: choose.Choice,
    targets: Target,
) -> State:
    """Steps until at least `free` rows are free."""
    batch, steps = state.written["ids"].shape

    def read(state: State, reader: Reader, past: cache.Cache) -> tuple[Array, cache.Cache]:
        positions = past.lengths if reader.prefix is None else past.lengths + reader.prefix.starts(batch)
        row = (x[:, None] for x in (state.tokens, positions, state.alive))
        hidden, after = reader.decoder(*row, prefix=reader.prefix, past=past)
        assert after is not None
        return constrain(reader.decoder.logits(hidden[:, 0]), "batch", "vocab"), after

    def step(state: State) -> State:
        logits, past = by_member(functools.partial(read, state), reader, state.past)
        logits = whole_rows(logits if logits.ndim == 2 else choose.mean(logits))
        numbers = uniforms(state.keys, state.ages, 1 + targets.uniforms)
        column = observe(logits, choice(logits, numbers[:, 0]), numbers[:, 1:], targets)
        at = jnp.where(state.alive, state.ages, steps)  # beyond the end: nothing is written
        ages = state.ages + state.alive
        stopped = state.alive & stops[column["ids"]]
        alive = state.alive & ~stopped & (ages < steps)
        past = dataclasses.replace(past, lengths=jnp.where(alive, past.lengths, 0))  # what has ended is not read again
        return State(
            tokens=column["ids"],
            keys=state.keys,
            alive=alive,
            stopped=state.stopped | stopped,
            ages=ages,
            past=past,
            written=jax.tree.map(lambda old, new: write(old, new, at), state.written, column),
        )

    return jax.lax.while_loop(lambda state: state.alive.sum() > batch - free, step, state)


@jax.jit
def collect(state: State, rows: Int[Array, "R"]) -> Samples:
    """What these rows have written."""
    written = jax.tree.map(lambda x: x[rows], state.written)
    real = jnp.arange(state.written["ids"].shape[1])[None] < state.ages[rows][:, None]
    return Samples(real=real, stopped=state.stopped[rows], **written)


def observe(
    logits: Float[Array, "B V"], ids: Int[Array, "B"], uniforms: Float[Array, "B n"], targets: Target
) -> dict[str, Any]:
    """One token a row, [B], and what `targets` record of the distribution it came from, [B, ...]."""
    return {
        "ids": ids,
        "logprobs": choose.logprobs(logits, ids[:, None], 1.0)[:, 0],
        "targets": targets.observe(logits, ids, uniforms),
        "verdicts": jnp.zeros_like(ids),
    }


def uniforms(keys: Key[Array, "B"], ages: Int[Array, "B"], count: int) -> Float[Array, "B n"]:
    """Numbers in [0, 1) of a row and a place in its answer. The first of them does not depend on `count`."""
    return jax.vmap(lambda key, age: jax.random.uniform(jax.random.fold_in(key, age), (count,)))(keys, ages)


def write(rows: Shaped[Array, "B C ..."], column: Shaped[Array, "B ..."], at: Int[Array, "B ..."]) -> Array:
    """Each row's next entries at its own places, all different; what is beyond the end is not written."""
    which = jnp.arange(len(rows)).reshape(-1, *(1,) * (at.ndim - 1))
    return rows.at[which, at].set(column, mode="drop", unique_indices=True)


def _like(row, x):
    return row.reshape(row.shape + (1,) * (x.ndim - 1))
