"""Parameters with logical axes, and the layers that are not attention: projection, norm, rotary positions.

Every parameter of a block is created with a leading `layers` axis; `jax.lax.scan` hands over one layer at a time.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from cdjax.model.spec import DecoderSpec

PRODUCT = "product"  # the name under which rematerialisation may keep a projection's result


def weight(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    *,
    kind: type[nnx.Param] | type[nnx.LoRAParam] = nnx.Param,
    init: jax.nn.initializers.Initializer = nnx.initializers.normal(0.02),
) -> nnx.Variable:
    """A float32 master weight that knows its logical axes."""
    return kind(init(rngs.params(), shape, jnp.float32), axes=axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: Float[Array, "..."], w: Float[Array, "..."], contract: int = 1) -> Float[Array, "..."]:
    """x @ w over the last `contract` axes of x and the first of w: summed in float32, rounded once.

    The backward products are made of operands in the same dtype, with float32 sums: left to itself, the gradient of a
    float32 sum of bfloat16 products is a float32 product, at half the speed or less.
    """
    return _summed(x, w, contract)


def _product_forward(x: Array, w: Array, contract: int) -> tuple[Array, tuple[Array, Array]]:
    return product(x, w, contract), (x, w)


def _product_backward(contract: int, operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, w = operands
    out, rows = tuple(range(-(w.ndim - contract), 0)), tuple(range(x.ndim - contract))
    return _summed(gradient, w, (out, out)).astype(x.dtype), _summed(x, gradient, (rows, rows)).astype(w.dtype)


def _summed(a: Array, b: Array, axes: int | tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """`jnp.tensordot`, summed in float32 and rounded to a's dtype.

    On a TPU float32 sums are not asked for: its matrix unit makes them in any case, and the request would have it
    exchange and store results twice as wide.
    """

    def dot(a: Array, b: Array, sum_in: Any) -> Array:
        return jnp.tensordot(a, b, axes, preferred_element_type=sum_in).astype(a.dtype)

    on_tpu, default = (functools.partial(dot, sum_in=dtype) for dtype in (None, jnp.float32))
    return jax.lax.platform_dependent(a, b, tpu=on_tpu, default=default)


product.defvjp(_product_forward, _product_backward)


class Scales(nnx.Variable):
    """The float32 size of a step of an int8 matrix, for each of its outputs; see `quantize`."""


class Projection(nnx.Module):
    """x @ w (+ bias) (+ scale * x @ a @ b), contracting the first `contract` axes of w.

    Every weight has a leading `layers` axis, which a scan or `decoder.unstack` takes off before the call.
    """

    def __init__(
        self,
        layers: int,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        *,
        rngs: nnx.Rngs,
        contract: int = 1,
        bias: bool = False,
        dtype: jnp.dtype = jnp.dtype("float32"),
    ) -> None:
        self.contract = contract
        self.outputs = len(shape) - contract  # number of axes
        self.dtype = dtype
        self.w = weight(rngs, (layers, *shape), ("layers", *axes))
        self.scales: Scales | None = nnx.data(None)  # of w if it is int8
        # Assigned once: nnx fixes an attribute as static or as data at its first assignment.
        of_bias = (layers, *shape[contract:]), ("layers", *axes[contract:])
        self.bias = weight(rngs, *of_bias, init=nnx.initializers.zeros) if bias else None
        # Low-rank weights [L, *in, R] and [L, R, *out] of an adapter, see students/adapter.py.
        self.a: nnx.Variable | None = nnx.data(None)
        self.b: nnx.Variable | None = nnx.data(None)
        self.scale = 1.0

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        w = self.w[...].astype(self.dtype)
        if self.scales is None:
            y = checkpoint_name(product(x, w, self.contract), PRODUCT)
        else:
            summed = jnp.tensordot(x, w, self.contract, preferred_element_type=jnp.float32)
            y = (summed * jnp.broadcast_to(self.scales[...], summed.shape)).astype(self.dtype)
        if self.bias is not None:
            y = y + jnp.broadcast_to(self.bias[...].astype(self.dtype), y.shape)
        if self.a is not None and self.b is not None:
            low = product(x, self.a[...].astype(self.dtype), self.contract)
            y = y + self.scale * product(low, self.b[...].astype(self.dtype))
        return y


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, computed in float32. `stack` is the leading layers axis, if any."""

    def __init__(self, stack: tuple[int, ...], size: int, axis: str, eps: float, *, rngs: nnx.Rngs) -> None:
        self.eps = eps
        axes = ("layers", axis) if stack else (axis,)
        self.scale = weight(rngs, (*stack, size), axes, init=nnx.initializers.ones)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.eps)
        return (normed * jnp.broadcast_to(self.scale[...], x.shape)).astype(x.dtype)


def rope(
    x: Float[Array, "B T heads H"], positions: Int[Array, "B T"], spec: DecoderSpec
) -> Float[Array, "B T heads H"]:
    """Queries or keys with their heads rotated by the positions, in float32; halves of a head are paired.

    Rotary positions: arXiv 2104.09864. Pairing halves, not neighbours, is Hugging Face's convention.
    """
    freq = jnp.asarray(frequencies(spec), jnp.float32)
    angle = positions[..., None, None] * freq[None, None, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


def frequencies(spec: DecoderSpec) -> np.ndarray:
    """Rotary frequencies, [H / 2]; with `rope_scaling` the long wavelengths are stretched as Llama 3.1 does."""
    freq = spec.rope_theta ** -(np.arange(0, spec.head_dim, 2, dtype=np.float64) / spec.head_dim)
    if spec.rope_scaling is None:
        return freq
    scaling = spec.rope_scaling
    turns = scaling.original_max_positions * freq / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    # 1: turns so often within the original positions that it stays as it is; 0: stretched by the whole factor.
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * freq + (1 - keep) * freq / scaling.factor
