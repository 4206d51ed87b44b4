"""The dtype that a model computes in: bfloat16 if its matrix products are faster in it, otherwise float32.

In: a spec, and the default device. Out: the choice and the times that it rests on. Which dtype is faster depends on
the processor, on the compiler's version and on the sizes, so it is measured and not looked up. Weights stay float32,
and a device sums its products in float32 either way.

In float32 an accelerator multiplies at jax's default precision (TF32 on a GPU, bfloat16 on a TPU) unless
`JAX_DEFAULT_MATMUL_PRECISION=highest`.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jaxtyping import Array

from cdjax.model.layers import product
from cdjax.model.spec import DecoderSpec

KINDS = ("float32", "bfloat16")
ROWS, LENGTH = 4, 64  # tokens that are multiplied: enough for a product to run at its full rate
OUTCOMES = 32_768  # columns of the output table at most: its whole width would cost memory and take as long per column
REPEATS = 3
GAIN = 0.9  # bfloat16 rounds, so it has to save a tenth of the time


@functools.cache
def choose(spec: DecoderSpec) -> dict[str, Any]:
    """`{"dtype", "device", "seconds": {"float32", "bfloat16"}}`: the time of a forward and backward pass's products.

    Measured once a process; with several processes the first one's choice holds for all.
    """
    programs = {kind: _programs(spec, jnp.dtype(kind)) for kind in KINDS}
    seconds = dict.fromkeys(KINDS, float("inf"))
    for _ in range(REPEATS):  # in turns, so that another process on the machine slows both
        for kind, parts in programs.items():
            seconds[kind] = min(seconds[kind], sum(count * _time(run) for count, run in parts))
    faster = seconds["bfloat16"] < GAIN * seconds["float32"]
    faster = bool(multihost_utils.broadcast_one_to_all(jnp.asarray(faster)))
    return {"dtype": KINDS[faster], "device": jax.devices()[0].device_kind, "seconds": seconds}


def _programs(spec: DecoderSpec, dtype: jnp.dtype) -> list[tuple[float, Callable[[], Any]]]:
    """Compiled passes through an MLP and through the output table, each with its multiple in the model's products."""
    size = spec.embed * spec.mlp
    attention = 2 * spec.embed * (spec.heads + spec.kv_heads) * spec.head_dim
    outcomes = min(spec.vocab, OUTCOMES)
    mlp = _compiled(_mlp, dtype, (ROWS, LENGTH, spec.embed), (spec.embed, spec.mlp), (spec.mlp, spec.embed))
    table = _compiled(_table, dtype, (ROWS, LENGTH, spec.embed), (outcomes, spec.embed))
    return [(spec.layers * (3 * size + attention) / (2 * size), mlp), (spec.vocab / outcomes, table)]


def _compiled(function: Callable, dtype: jnp.dtype, *shapes: tuple[int, ...]) -> Callable[[], Any]:
    """A call of the function's forward and backward pass on random arrays of these shapes, compiled."""
    arrays = [0.1 * jax.random.normal(jax.random.key(0), shape) for shape in shapes]
    compute = functools.partial(function, dtype)
    both = jax.jit(jax.value_and_grad(compute, argnums=tuple(range(len(arrays)))))
    jax.block_until_ready(both(*arrays))
    return lambda: both(*arrays)


def _mlp(dtype: jnp.dtype, x: Array, up: Array, down: Array) -> Array:
    x, up, down = (array.astype(dtype) for array in (x, up, down))
    return product(jax.nn.silu(product(x, up)), down).astype(jnp.float32).sum()


def _table(dtype: jnp.dtype, x: Array, table: Array) -> Array:
    x, table = x.astype(dtype), table.astype(dtype)
    return jnp.square(jnp.einsum("...d,vd->...v", x, table, preferred_element_type=jnp.float32)).sum()


def _time(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
