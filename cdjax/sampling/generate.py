"""Prompts -> sampled completions, compiled whole: prefill, then one `while_loop` that ends when every row has stopped.

In: left-padded prompts, one key a row, an optional shared prefix. Out: `Samples`, with what the decode step knew about
each token. Logits exist for one column at a time. The caller has entered `jax.set_mesh`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from cdjax import config
from cdjax.model import cache, decoder
from cdjax.parallel import constrain
from cdjax.sampling import choose


@dataclasses.dataclass(frozen=True)
class Record:
    """What is kept of the distribution that each token was drawn from, at the objective's temperature."""

    top_k: int = 0
    draws: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k < 0 or self.draws < 0 or not 0 < self.temperature < float("inf"):
            raise config.UserError(f"a record needs counts of 0 or more and a temperature above 0, got {self}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Samples:
    """Completions, right-padded. Everything is zero where `real` is False."""

    ids: Int[Array, "B C"]  # stop token included
    logprobs: Float[Array, "B C"]  # of the chosen id under the model itself, at temperature 1
    real: Bool[Array, "B C"]
    stopped: Bool[Array, "B"]  # by a stop token, not by the length limit
    top_ids: Int[Array, "B C k"]  # most likely first
    top_logprobs: Float[Array, "B C k"]  # of the full softmax
    draws: Int[Array, "B C n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Between two steps: the token each row reads next, and what has been written so far."""

    step: Int[Array, ""]
    tokens: Int[Array, "B"]
    positions: Int[Array, "B"]
    alive: Bool[Array, "B"]
    past: cache.Cache
    written: dict[str, Array]  # the fields of Samples that have a C axis


@functools.partial(jax.jit, static_argnames=("choice", "record", "steps"))
def generate(
    model: decoder.Decoder,
    prompts: Int[Array, "B T"],
    real: Bool[Array, "B T"],
    keys: Key[Array, "B"],
    stops: Bool[Array, "V"],
    prefix: cache.Prefix | None,
    *,
    choice: choose.Choice,
    record: Record,
    steps: int,
) -> Samples:
    """At most `steps` tokens after each left-padded prompt. A row whose last column is padding only fills the batch.

    What a row gets depends on its prompt and its key, never on the rest of the batch.
    """

    def step(state: State) -> State:
        tokens, positions, alive = state.tokens[:, None], state.positions[:, None], state.alive[:, None]
        hidden, past = model(tokens, positions, alive, prefix=prefix, past=state.past)
        logits = constrain(model.logits(hidden[:, 0]), "batch", "vocab")
        uniforms = _uniforms(keys, state.step, 1 + record.draws)
        column = _column(logits, uniforms, choice, record)
        column = {name: jnp.where(_like(state.alive, x), x, 0) for name, x in column.items()} | {"real": state.alive}
        written = {name: _write(state.written[name], column[name], state.step) for name in state.written}
        alive_after = state.alive & ~stops[column["ids"]]
        assert past is not None
        return State(state.step + 1, column["ids"], state.positions + 1, alive_after, past, written)

    state = _prefill(model, prompts, real, prefix, record, steps)
    state = jax.lax.while_loop(lambda state: (state.step < steps) & state.alive.any(), step, state)
    return Samples(stopped=real[:, -1] & ~state.alive, **state.written)


def _prefill(model, prompts, real, prefix, record: Record, steps: int) -> State:
    """Reads all but the last prompt token. The loop begins with that one, so that only the loop makes logits."""
    batch, length = prompts.shape
    positions = decoder.row_positions(real, prefix)
    past = cache.new_cache(model.spec, batch, length - 1 + steps, model.dtype)
    if length > 1:
        _, past = model(prompts[:, :-1], positions[:, :-1], real[:, :-1], prefix=prefix, past=past)
    shapes = {
        "ids": ((), jnp.int32),
        "logprobs": ((), jnp.float32),
        "real": ((), jnp.bool_),
        "top_ids": ((record.top_k,), jnp.int32),
        "top_logprobs": ((record.top_k,), jnp.float32),
        "draws": ((record.draws,), jnp.int32),
    }
    written = {name: jnp.zeros((batch, steps, *shape), dtype) for name, (shape, dtype) in shapes.items()}
    return State(jnp.int32(0), prompts[:, -1], positions[:, -1], real[:, -1], past, written)


def _column(logits, uniforms, choice: choose.Choice, record: Record) -> dict[str, Array]:
    """One token a row, [B], and what is recorded of the distribution it came from, [B, k] and [B, n]."""
    ids = choice(logits, uniforms[:, 0])
    _, top_ids = choose.largest(logits, record.top_k)
    return {
        "ids": ids,
        "logprobs": choose.logprobs(logits, ids[:, None], 1.0)[:, 0],
        "top_ids": top_ids,
        "top_logprobs": choose.logprobs(logits, top_ids, record.temperature),
        "draws": choose.draw(choose.softmax_weights(logits, record.temperature), uniforms[:, 1:]),
    }


def _uniforms(keys, step, count: int):
    """[B, count] numbers in [0, 1) that belong to a row and a step. The first of them does not depend on `count`."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, step), (count,)))(keys)


def _write(rows, column, step):
    return jax.lax.dynamic_update_slice_in_dim(rows, column[:, None], step, axis=1)


def _like(row, x):
    return row.reshape(row.shape + (1,) * (x.ndim - 1))
