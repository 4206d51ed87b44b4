"""Prompts -> sampled completions, compiled whole: prefill, then one `while_loop` that ends when every row has stopped.

In: left-padded prompts, one key a row, an optional shared prefix. Out: `Samples`: ids, log-probabilities and targets.
Logits exist for one column at a time. The caller has entered `jax.set_mesh`.

A prefix of several contexts is an ensemble: every row is read after each of them, and its next token is chosen by the
mean of the probabilities, which is also what is recorded.

Columns of a cache hold what a row has read (prompt and answer), columns of `State.written` what it has answered.
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
    """Completions, right-padded; where `real` is False the other arrays are undefined."""

    ids: Int[Array, "B C"]  # stop token included
    logprobs: Float[Array, "B C"]  # of the chosen id under the model itself, at temperature 1
    real: Bool[Array, "B C"]
    stopped: Bool[Array, "B"]  # by a stop token, not by the length limit
    targets: dict[str, Array]  # recorded of the distribution that each id was drawn from, [B, C, ...]
    verdicts: Int[Array, "B C"]  # on a student's draft of this token, see speculate.py; 0: there was no draft


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The state between two steps: each row's next input token, its cache, and its answer so far."""

    tokens: Int[Array, "B"]  # the next to be read: written, or the prompt's last, but not in `past`
    keys: Key[Array, "B"]
    alive: Bool[Array, "B"]  # still writing; a row that is not is free
    stopped: Bool[Array, "B"]
    ages: Int[Array, "B"]  # tokens written
    past: cache.Cache  # in an ensemble with a leading axis of members, except for the lengths
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
    """Samples of at most `steps` tokens after each left-padded prompt. A row of padding only fills the batch.

    A row's sample depends on its prompt and its key, never on the other rows.
    """
    reader = reader.unstacked()
    rows = jnp.arange(len(prompts))
    state = start(reader, len(rows), prompts.shape[1] - 1 + steps, targets=targets, steps=steps)
    state = admit(reader, state, prompts, real, keys, rows)
    return collect(decode(reader, state, stops, len(rows), choice=choice, targets=targets), rows)


@functools.partial(jax.jit, static_argnames=("batch", "columns", "targets", "steps"))
def start(reader: Reader, batch: int, columns: int, *, targets: Target, steps: int) -> State:
    """The state of `batch` free rows, with `columns` of a cache: longest prompt + steps - 1."""

    def zeros(shape: tuple[int, ...], dtype: Any) -> Array:
        return constrain(jnp.zeros((batch, *shape), dtype), "batch", *("length",) * len(shape))

    recorded = {name: zeros((steps, *shape), dtype) for name, (shape, dtype) in targets.buffers().items()}
    dtypes = {"ids": jnp.int32, "logprobs": jnp.float32, "verdicts": jnp.int32}
    return State(
        tokens=zeros((), jnp.int32),
        keys=jax.random.split(jax.random.key(0), batch),
        alive=zeros((), jnp.bool_),
        stopped=zeros((), jnp.bool_),
        ages=zeros((), jnp.int32),
        past=cache.new_cache(reader.decoder.spec, batch, columns, reader.decoder.dtype, reader.contexts),
        written={name: zeros((steps,), dtype) for name, dtype in dtypes.items()} | {"targets": recorded},
    )


@functools.partial(jax.jit, donate_argnames="state")
def admit(
    reader: Reader,
    state: State,
    prompts: Int[Array, "A T"],
    real: Bool[Array, "A T"],
    keys: Key[Array, "A"],
    rows: Int[Array, "A"],
) -> State:
    """The state with left-padded prompts put into these free rows; a prompt whose last column is padding is ignored.

    All but the last prompt token is read. Decoding begins with the last one, so that only decoding makes logits.
    """
    refilled, source = refills(len(state.alive), real, rows)
    return State(
        tokens=put(state.tokens, prompts[:, -1], refilled, source),
        keys=put(state.keys, keys, refilled, source),
        alive=state.alive | refilled,
        stopped=state.stopped & ~refilled,
        ages=jnp.where(refilled, 0, state.ages),
        past=fill(reader, state.past, prompts, real, refilled, source),
        written=state.written,
    )


def refills(batch: int, real: Bool[Array, "A T"], rows: Int[Array, "A"]) -> tuple[Bool[Array, "B"], Int[Array, "B"]]:
    """The mask of the rows that are refilled, and for each of them the index of its prompt (any for other rows).

    The prompts move to the rows: a gather leaves every row of the batch on its device, a scatter would not.
    """
    matches = (rows[None] == jnp.arange(batch)[:, None]) & real[:, -1][None]
    return matches.any(1), matches.argmax(1)


def put(
    old: Shaped[Array, "B ..."], new: Shaped[Array, "A ..."], refilled: Bool[Array, "B"], source: Int[Array, "B"]
) -> Shaped[Array, "B ..."]:
    """`old` with row `source[b]` of `new` in every row b that is refilled, see `refills`."""
    return jnp.where(_like(refilled, old), new[source], old)


def fill(
    reader: Reader,
    past: cache.Cache,
    prompts: Int[Array, "A T"],
    real: Bool[Array, "A T"],
    refilled: Bool[Array, "B"],
    source: Int[Array, "B"],
) -> cache.Cache:
    """The cache with the prompts, all but their last tokens, in the rows that are refilled, see `refills`."""
    lengths = put(past.lengths, real[:, :-1].sum(1), refilled, source)
    if prompts.shape[1] == 1:
        return dataclasses.replace(past, lengths=lengths)
    columns = slice(0, prompts.shape[1] - 1)

    def refill(old: Array, new: Array) -> Array:
        return old.at[:, :, columns].set(put(old[:, :, columns], new.astype(old.dtype), refilled, source))

    def read(reader: Reader, past: cache.Cache) -> tuple[None, cache.Cache]:
        k, v = _read(reader, prompts[:, :-1], real[:, :-1])
        return None, cache.Cache(tuple(map(refill, past.k, k)), tuple(map(refill, past.v, v)), lengths)

    return by_member(read, reader, past)[1]


def _read(
    reader: Reader, prompts: Int[Array, "A T"], real: Bool[Array, "A T"]
) -> tuple[Float[Array, "L A K T H"], Float[Array, "L A K T H"]]:
    """Keys and values of left-padded prompts, rotated to the left: a cache has a row's tokens from column 0 on."""
    width, lengths = prompts.shape[1], real.sum(1)
    columns = jnp.arange(width)[None]
    moved = jnp.take_along_axis(prompts, (columns - lengths[:, None]) % width, 1)
    real = columns < lengths[:, None]
    return reader.decoder.read(moved, row_positions(real, reader.prefix), real, prefix=reader.prefix)


def by_member(
    function: Callable[[Reader, cache.Cache], tuple[Any, cache.Cache]], reader: Reader, past: cache.Cache
) -> tuple[Any, cache.Cache]:
    """`function(reader, past)`; for an ensemble the results of all its members, stacked on a leading axis.

    A member is the decoder after one of the contexts, with its own keys and values of the rows.
    """
    prefix = reader.prefix
    if prefix is None or reader.contexts == 1:
        return function(reader, past)

    def member(k: Array, v: Array, length: Array, past_k: Any, past_v: Any) -> tuple[Any, Any, Any, Array]:
        single = Reader(reader.decoder, cache.Prefix(k[:, None], v[:, None], length[None]))
        result, after = function(single, cache.Cache(past_k, past_v, past.lengths))
        return result, after.k, after.v, after.lengths  # lengths are the same for all members: out_axes=None

    members = jax.vmap(member, in_axes=(1, 1, 0, 0, 0), out_axes=(0, 0, 0, None))
    results, *after = members(prefix.k, prefix.v, prefix.lengths, past.k, past.v)
    return results, cache.Cache(*after)


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
    """The state after as many steps as it takes until at least `free` rows are free: stopped, or at the limit."""
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
        place = jnp.where(state.alive, state.ages, steps)  # beyond the end for a free row: `write` drops it
        ages = state.ages + state.alive
        stopped = state.alive & stops[column["ids"]]
        alive = state.alive & ~stopped & (ages < steps)
        # Attention reads the columns up to the end of the longest row: a free row is emptied, it would cost the others.
        past = dataclasses.replace(past, lengths=jnp.where(alive, past.lengths, 0))
        return State(
            tokens=column["ids"],
            keys=state.keys,
            alive=alive,
            stopped=state.stopped | stopped,
            ages=ages,
            past=past,
            written=jax.tree.map(lambda rows, new: write(rows, new, place), state.written, column),
        )

    return jax.lax.while_loop(lambda state: state.alive.sum() > batch - free, step, state)


@jax.jit
def collect(state: State, rows: Int[Array, "A"]) -> Samples:
    """The samples that these rows have written."""
    written = jax.tree.map(lambda x: x[rows], state.written)
    real = jnp.arange(state.written["ids"].shape[1])[None] < state.ages[rows][:, None]
    return Samples(real=real, stopped=state.stopped[rows], **written)


def observe(
    logits: Float[Array, "B V"], ids: Int[Array, "B"], uniforms: Float[Array, "B u"], targets: Target
) -> dict[str, Any]:
    """A column of `State.written`: for each row its chosen id and the arrays recorded beside it, [B, ...]."""
    return {
        "ids": ids,
        "logprobs": choose.logprobs(logits, ids[:, None], 1.0)[:, 0],
        "targets": targets.observe(logits, ids, uniforms),
        "verdicts": jnp.zeros_like(ids),
    }


def uniforms(keys: Key[Array, "B"], ages: Int[Array, "B"], count: int) -> Float[Array, "B u"]:
    """Random numbers in [0, 1), determined by a row's key and a place in its answer.

    The first, which chooses the token, does not depend on `count`: what is recorded does not change what is sampled.
    """
    return jax.vmap(lambda key, age: jax.random.uniform(jax.random.fold_in(key, age), (count,)))(keys, ages)


def write(rows: Shaped[Array, "B C ..."], entries: Shaped[Array, "B ..."], places: Int[Array, "B ..."]) -> Array:
    """The rows with new entries at each row's own places, all different; places of C or more are dropped."""
    row = jnp.arange(len(rows)).reshape(-1, *(1,) * (places.ndim - 1))
    return rows.at[row, places].set(entries, mode="drop", unique_indices=True)


def _like(x: Bool[Array, "B"], other: Shaped[Array, "B ..."]) -> Bool[Array, "B ..."]:
    """A flag for each row with trailing axes of size 1, so that it broadcasts against `other`."""
    return x.reshape(x.shape + (1,) * (other.ndim - 1))
