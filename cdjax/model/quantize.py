"""A decoder -> the same one with its matrices in int8: a quarter of the memory and of the reading, for sampling.

Symmetric and weight-only: a whole number between -127 and 127 for each weight, and one float32 step for each output of
the matrix. Products are made of the whole numbers and scaled once summed. Norms, biases and low-rank weights
stay as they are.
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
    """Every weight moves by half a step at most, and a step is 1/127 of the largest weight of the same output.

    What comes out samples, scores and reads contexts as any decoder does; it has no gradient. The caller has entered
    `jax.set_mesh`.
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
    """The nearest whole numbers of steps, and the size of a step, which has no axis that the product sums over."""
    value = variable[...].astype(jnp.float32)
    largest = jnp.abs(value).max(summed, keepdims=True)
    scales: Array = jnp.where(largest > 0, largest, 1.0) / LARGEST
    axes = tuple(axis for at, axis in enumerate(variable.axes) if at not in summed)
    whole = constrain(jnp.round(value / scales).astype(jnp.int8), *variable.axes)
    return variable.replace(whole), Scales(constrain(scales.squeeze(summed), *axes), axes=axes)
