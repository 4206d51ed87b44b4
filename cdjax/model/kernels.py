"""Attention of all rows over one context, for TPUs: the scores, which XLA writes to main memory, stay on the chip.

In: the queries of all rows and the context's keys and values. Out: what `attention` merges with the rows' own part.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from cdjax import parallel

QUERIES, KEYS = 512, 2048  # of a block: its scores take 4 MB of the chip's own memory
MEMORY = 64 * 2**20  # that a kernel may take of it
LEAST = -1e30


def by_row(
    grouped: Float[Array, "B T K g H"],
    k: Float[Array, "K P H"],
    v: Float[Array, "K P H"],
    length: Int[Array, ""],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "B K g T"], Float[Array, "B K g T"], Float[Array, "B K g T H"]]:
    """`over_context` with each device's rows and heads on that device."""

    def local(grouped, k, v, length):
        batch, columns, heads, group, size = grouped.shape
        q = grouped.transpose(2, 0, 3, 1, 4).reshape(heads, -1, size)
        parts = over_context(q, k, v, length, interpret=interpret)
        return tuple(jnp.swapaxes(x.reshape(heads, batch, group, columns, *x.shape[2:]), 0, 1) for x in parts)

    row = parallel.spec("batch", "kv_heads", "length", "length")
    inputs = (parallel.spec("batch", "length", "kv_heads"), parallel.spec("kv_heads"), parallel.spec("kv_heads"))
    mapped = jax.shard_map(local, in_specs=(*inputs, jax.P()), out_specs=(row, row, row), check_vma=False)
    return mapped(grouped, k, v, length)


@functools.partial(jax.jit, static_argnames="interpret")
def over_context(
    q: Float[Array, "K M H"],
    k: Float[Array, "K P H"],
    v: Float[Array, "K P H"],
    length: Int[Array, ""],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "K M"], Float[Array, "K M"], Float[Array, "K M H"]]:
    """Softmax attention over the first `length` of P keys, which is 1 or more, before its division, in float32.

    For each query the largest score, the sum of exponentials, and the values weighted by them. Without a gradient.
    """
    heads, queries, size = q.shape
    block, keys = min(QUERIES, queries), min(KEYS, k.shape[1])
    here = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
    row = here((1, 1, block), lambda head, at, _: (head, 0, at))
    by_query = here((1, block, size), lambda head, at, _: (head, at, 0))
    by_key = here((1, keys, size), lambda head, _, at: (head, at, 0))
    flat = jax.ShapeDtypeStruct((heads, 1, queries), jnp.float32)
    products = 2 * 2 * heads * queries * k.shape[1] * size
    top, total, summed = pl.pallas_call(
        functools.partial(_block, keys=keys),
        grid=(heads, pl.cdiv(queries, block), pl.cdiv(k.shape[1], keys)),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), by_query, by_key, by_key],
        out_specs=[row, row, by_query],
        out_shape=[flat, flat, jax.ShapeDtypeStruct(q.shape, jnp.float32)],
        scratch_shapes=[pltpu.VMEM((size, block), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=MEMORY
        ),
        cost_estimate=pl.CostEstimate(
            flops=products,
            transcendentals=heads * queries * k.shape[1],
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (q, k, v)) + 4 * q.size,
        ),
        interpret=interpret,
    )(length.reshape(1, 1), q, k, v)  # two axes: under vmap the last two must be whole in a block
    return top[:, 0], total[:, 0], summed


def _block(length, q, k, v, top, total, summed, values, *, keys: int):
    """One block of queries against one block of keys. Scores lie keys by queries: sums run over whole vectors."""
    at = pl.program_id(2)
    left = length[0, 0] - at * keys

    @pl.when(at == 0)
    def _():
        top[...] = jnp.full(top.shape, LEAST, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        values[...] = jnp.zeros(values.shape, jnp.float32)

    def add(scores, v):
        before, largest = top[0], jnp.maximum(top[0], scores.max(0, keepdims=True))
        weights, kept = jnp.exp(scores - largest), jnp.exp(before - largest)
        top[0] = largest
        total[0] = kept * total[0] + weights.sum(0, keepdims=True)
        values[...] = kept * values[...] + _dot(v, weights.astype(v.dtype), 0, 0)

    @pl.when(left >= keys)
    def _():
        add(_dot(k[0], q[0], 1, 1), v[0])

    @pl.when((left > 0) & (left < keys))
    def _():
        # What lies beyond the last key may be anything, and nothing times not-a-number is not nothing.
        column = jax.lax.broadcasted_iota(jnp.int32, (keys, 1), 0) < left
        scores = jnp.where(column, _dot(k[0], q[0], 1, 1), LEAST)
        add(scores, jnp.where(column, v[0], jnp.zeros_like(v[0])))

    @pl.when(at == pl.num_programs(2) - 1)
    def _():
        summed[0] = values[...].T


def _dot(a, b, over_a: int, over_b: int):
    return jax.lax.dot_general(a, b, (((over_a,), (over_b,)), ((), ())), preferred_element_type=jnp.float32)
