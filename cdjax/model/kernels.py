"""Attention of all rows over a single context, for TPUs: the scores, which XLA writes to main memory, stay on the chip.

In: the queries of all rows and the context's keys and values. Out: an `attention.Partial`, which is merged with the
attention of each row over its own keys. The method is that of flash attention (arXiv 2205.14135): a running maximum and
sum over blocks of keys.
"""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from cdjax import parallel

QUERIES, KEYS = 512, 2048  # of a block: its scores take 4 MB of the chip's vector memory (VMEM)
MEMORY = 64 * 2**20  # bytes of VMEM that a kernel may take
LEAST = -1e30  # score of a masked key

Ref: TypeAlias = Any  # a block of an array in the chip's memory, which a kernel reads and writes


def by_row(
    grouped: Float[Array, "B T K g H"],
    k: Float[Array, "K P H"],
    v: Float[Array, "K P H"],
    length: Int[Array, ""],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "B K g T"], Float[Array, "B K g T"], Float[Array, "B K g T H"]]:
    """`over_context` for queries by row, on every device with its own rows and heads."""

    def local(
        grouped: Float[Array, "B T K g H"], k: Float[Array, "K P H"], v: Float[Array, "K P H"], length: Int[Array, ""]
    ) -> tuple[Array, Array, Array]:
        batch, columns, heads, group, size = grouped.shape
        q = grouped.transpose(2, 0, 3, 1, 4).reshape(heads, -1, size)  # [K, B g T, H]
        top, total, weighted = (
            jnp.swapaxes(x.reshape(heads, batch, group, columns, *x.shape[2:]), 0, 1)
            for x in over_context(q, k, v, length, interpret=interpret)
        )
        return top, total, weighted

    row = parallel.spec("batch", "kv_heads", "length", "length")
    inputs = (parallel.spec("batch", "length", "kv_heads"), parallel.spec("kv_heads"), parallel.spec("kv_heads"))
    mapped = jax.shard_map(local, in_specs=(*inputs, jax.P()), out_specs=(row, row, row), check_vma=False)
    return mapped(grouped, k, v, length)


@functools.partial(jax.jit, static_argnames="interpret")
def over_context(
    q: Float[Array, "K queries H"],
    k: Float[Array, "K P H"],
    v: Float[Array, "K P H"],
    length: Int[Array, ""],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "K queries"], Float[Array, "K queries"], Float[Array, "K queries H"]]:
    """Softmax attention over the first `length` of P keys, at least 1, before its division, in float32.

    Returns for each query the largest score, the sum of exponentials, and the sum of values weighted by them. It has no
    gradient.
    """
    heads, queries, size = q.shape
    block, keys = min(QUERIES, queries), min(KEYS, k.shape[1])
    # The grid is (head, block of queries, block of keys); the last runs innermost and adds to the same output blocks.
    vmem = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
    scalars = vmem((1, 1, block), lambda head, query_block, _: (head, 0, query_block))  # a number for each query
    by_query = vmem((1, block, size), lambda head, query_block, _: (head, query_block, 0))
    by_key = vmem((1, keys, size), lambda head, _, key_block: (head, key_block, 0))
    scalars_shape = jax.ShapeDtypeStruct((heads, 1, queries), jnp.float32)
    products = 2 * 2 * heads * queries * k.shape[1] * size
    top, total, summed = pl.pallas_call(
        functools.partial(_block, keys=keys),
        grid=(heads, pl.cdiv(queries, block), pl.cdiv(k.shape[1], keys)),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), by_query, by_key, by_key],
        out_specs=[scalars, scalars, by_query],
        out_shape=[scalars_shape, scalars_shape, jax.ShapeDtypeStruct(q.shape, jnp.float32)],
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


def _block(length: Ref, q: Ref, k: Ref, v: Ref, top: Ref, total: Ref, summed: Ref, values: Ref, *, keys: int) -> None:
    """Adds a block of keys to the partial attention of a block of queries.

    Scores are [keys, queries], and `values`, the scratch, is [H, queries]: sums and maxima over keys then run over
    whole vectors, with a query in each lane.
    """
    key_block = pl.program_id(2)
    left = length[0, 0] - key_block * keys  # keys of the context from this block on

    @pl.when(key_block == 0)
    def _():
        top[...] = jnp.full(top.shape, LEAST, jnp.float32)
        total[...] = jnp.zeros(total.shape, jnp.float32)
        values[...] = jnp.zeros(values.shape, jnp.float32)

    def add(scores: Array, v: Array) -> None:
        before, largest = top[0], jnp.maximum(top[0], scores.max(0, keepdims=True))
        weights, rescale = jnp.exp(scores - largest), jnp.exp(before - largest)
        top[0] = largest
        total[0] = rescale * total[0] + weights.sum(0, keepdims=True)
        values[...] = rescale * values[...] + _dot(v, weights.astype(v.dtype), 0, 0)

    @pl.when(left >= keys)
    def _():
        add(_dot(k[0], q[0], 1, 1), v[0])

    @pl.when((left > 0) & (left < keys))
    def _():
        # Memory beyond the last key may hold anything, and 0 times NaN is NaN: values are masked as well as scores.
        real = jax.lax.broadcasted_iota(jnp.int32, (keys, 1), 0) < left
        scores = jnp.where(real, _dot(k[0], q[0], 1, 1), LEAST)
        add(scores, jnp.where(real, v[0], jnp.zeros_like(v[0])))

    @pl.when(key_block == pl.num_programs(2) - 1)
    def _():
        summed[0] = values[...].T


def _dot(a: Array, b: Array, over_a: int, over_b: int) -> Array:
    """The product of two matrices, summed in float32 over an axis of each."""
    return jax.lax.dot_general(a, b, (((over_a,), (over_b,)), ((), ())), preferred_element_type=jnp.float32)
