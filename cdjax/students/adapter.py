"""Low-rank weights beside a decoder's matrices (LoRA, arXiv 2106.09685): put in, taken out, merged.

In: a `model.Decoder`, which stays as it is. Out: another decoder with the same arrays.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cdjax import parallel
from cdjax.model.decoder import Decoder
from cdjax.model.layers import Projection, weight


def fresh(model: Decoder, rank: int, seed: int) -> nnx.State:
    """New low-rank weights for every projection, on the model's mesh: a [L, *in, R] is random, b [L, R, *out] zero."""

    def make(key: jax.Array) -> nnx.State:
        # `_draw` relies on the order of attributes: a fresh module has them as they were assigned.
        decoder = Decoder(model.spec, rngs=nnx.Rngs(0))
        _draw(decoder, rank, nnx.Rngs(params=key))
        return nnx.state(decoder, nnx.LoRAParam)

    key, mesh = jax.random.key(seed), model.mesh
    with jax.set_mesh(mesh):
        return jax.jit(make, out_shardings=parallel.shardings(jax.eval_shape(make, key), mesh))(key)


def put(model: Decoder, low: nnx.State, scale: float) -> Decoder:
    """The decoder with `fresh` or trained low-rank weights: every projection adds scale * x @ a @ b."""
    adapted = _copy(model)
    for path, module in nnx.iter_modules(adapted):
        if isinstance(module, Projection):
            weights: Any = functools.reduce(operator.getitem, path, low)
            module.a, module.b, module.scale = weights["a"], weights["b"], scale
    return adapted


def take_out(model: Decoder) -> Decoder:
    """The decoder without its low-rank weights."""
    base = _copy(model)
    for _, module in nnx.iter_modules(base):
        if isinstance(module, Projection):
            module.a, module.b, module.scale = None, None, 1.0
    return base


def merge(model: Decoder) -> Decoder:
    """The decoder with w + scale * a @ b for every matrix w; the model itself if it has no low-rank weights."""
    if not jax.tree.leaves(nnx.state(model, nnx.LoRAParam)):
        return model

    def merged(model: Decoder) -> Decoder:
        for _, module in nnx.iter_modules(model):
            if isinstance(module, Projection) and module.a is not None and module.b is not None:
                w, low = module.w[...], _product(module.a[...], module.b[...])
                module.w = module.w.replace(w + module.scale * low.reshape(w.shape))
        return take_out(model)

    with jax.set_mesh(model.mesh):
        shardings = parallel.shardings(jax.eval_shape(merged, model), model.mesh)
        return jax.jit(merged, out_shardings=shardings)(model)


def _draw(module: nnx.Module, rank: int, rngs: nnx.Rngs) -> None:
    """Gives every projection low-rank weights, drawn from `rngs` in the order of a decoder's weights.

    Each weight that the decoder already has takes a key, too, which nobody uses: seeded results depend on it.
    """
    for part in list(vars(module).values()):
        if isinstance(part, nnx.Module):
            _draw(part, rank, rngs)
        elif isinstance(part, nnx.Variable):
            rngs.params()
    if isinstance(module, Projection):
        (layers, *shape), (_, *axes) = module.w.shape, module.w.axes
        into, out = slice(0, module.contract), slice(module.contract, None)
        down = nnx.initializers.normal(1.0 / math.sqrt(math.prod(shape[into])))
        low = functools.partial(weight, rngs, kind=nnx.LoRAParam)
        module.a = low((layers, *shape[into], rank), ("layers", *axes[into], "rank"), init=down)
        module.b = low((layers, rank, *shape[out]), ("layers", "rank", *axes[out]), init=nnx.initializers.zeros)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[L, .., R] @ [L, R, ..] in full float32 precision, which a merged model keeps; a step may round more."""
    return jnp.einsum("l...r,lrx->l...x", a, b.reshape(*b.shape[:2], -1), precision="highest")


def _copy(model: Decoder) -> Decoder:
    """A decoder of new modules with the same arrays."""
    return jax.tree.map(lambda leaf: leaf, model)
