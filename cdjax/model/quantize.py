"""A decoder -> the decoder with its matrices in int8, for sampling: a quarter of the memory and of the memory traffic.

Symmetric and weight-only: an integer between -127 and 127 for each weight, and a float32 step for each output of the
matrix. Products are made of the integers and scaled after they are summed. Norms, biases and low-rank weights are not
rounded.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from cdjax.model.decoder import Decoder
from cdjax.model.layers import Projection, Scales
from cdjax.parallel import constrain

LARGEST = 127


@jax.jit
def int8(model: Decoder) -> Decoder:
    """The decoder with rounded matrices; it samples, scores and reads contexts as any other, but has no gradient.

    A step is 1/127 of the largest weight of the same output, and rounding moves a weight by at most half a step. The
    caller has entered `jax.set_mesh`.
    """
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Projection):
            first = module.w.ndim - module.outputs - module.contract
            summed = tuple(range(first, first + module.contract))
            module.w, module.scales = _round(module.w, summed)
    model.embedding, model.embedding_scales = _round(model.embedding, (1,))
    if model.head is not None:
        model.head, model.head_scales = _round(model.head, (0,))
    return model


def _round(variable: nnx.Variable, summed: tuple[int, ...]) -> tuple[nnx.Variable, Scales]:
    """The weights as numbers of steps, rounded, and the size of a step, without the axes that a product sums over."""
    value = variable[...].astype(jnp.float32)
    largest = jnp.abs(value).max(summed, keepdims=True)
    scales: Array = jnp.where(largest > 0, largest, 1.0) / LARGEST
    axes = tuple(axis for number, axis in enumerate(variable.axes) if number not in summed)
    steps = constrain(jnp.round(value / scales).astype(jnp.int8), *variable.axes)
    return variable.replace(steps), Scales(constrain(scales.squeeze(summed), *axes), axes=axes)
