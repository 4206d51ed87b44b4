"""A decoder -> what is trained and what is frozen; adapters are added, left out and merged here.

In: `model.Decoder`. Out: (graph, trainable state, frozen state) for `learn/update.py`, or another Decoder.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cdjax import parallel
from cdjax.model.decoder import Decoder
from cdjax.model.layers import Projection
from cdjax.students import Adapter


def split(model: Decoder, adapter: Adapter) -> tuple[Any, nnx.State, nnx.State]:
    """Graph, trainable and frozen state: the low-rank adapter trains if it has a rank, otherwise every weight.

    `nnx.merge(graph, trainable, frozen)` is the model again. Raises ValueError if the adapter is not there.
    """
    kind = nnx.LoRAParam if adapter.rank else nnx.Param
    graph, (trainable, frozen) = nnx.graphdef(model), nnx.split_state(nnx.state(model), kind, ...)
    if not jax.tree.leaves(trainable):
        raise ValueError(f"adapter.rank={adapter.rank}, but the model has no adapter; add_adapter gives it one")
    return graph, trainable, frozen


def add_adapter(model: Decoder, adapter: Adapter, seed: int) -> Decoder:
    """The same function with a fresh low-rank adapter (rank 0: without); base weights are shared, not copied.

    An adapter that the model already has is merged into the base weights first.
    """
    model = merge_adapter(model)
    if not adapter.rank:
        return model

    def low_rank(key: jax.Array) -> nnx.State:
        return nnx.state(_create(model, adapter, key), nnx.LoRAParam)

    key, mesh = jax.random.key(seed), _mesh(model)
    with jax.set_mesh(mesh):
        fresh = jax.jit(low_rank, out_shardings=parallel.shardings(jax.eval_shape(low_rank, key), mesh))(key)
    return nnx.merge(_graph(model, adapter), fresh, nnx.state(model))


def merge_adapter(model: Decoder) -> Decoder:
    """A decoder without adapter that computes the same: w + alpha / rank * a @ b. `model` itself is unchanged."""
    if not has_adapter(model):
        return model

    def merged(model: Decoder) -> nnx.State:
        base = dict(nnx.to_flat_state(nnx.state(without_adapter(model))))
        for path, module in nnx.iter_modules(model):
            if isinstance(module, Projection) and module.a is not None and module.b is not None:
                w, low = base[*path, "w"], _product(module.a[...], module.b[...])
                base[*path, "w"] = w.replace(w[...] + module.scale * low.reshape(w.shape))
        return nnx.from_flat_state(base)

    mesh = _mesh(model)
    with jax.set_mesh(mesh):
        where = parallel.shardings(jax.eval_shape(merged, model), mesh)
        return nnx.merge(_graph(model, Adapter()), jax.jit(merged, out_shardings=where)(model))


def without_adapter(model: Decoder) -> Decoder:
    """The base model beside the adapter, sharing its weights: the teacher of a student that starts from it."""
    if not has_adapter(model):
        return model
    base = nnx.filter_state(nnx.state(model), nnx.Not(nnx.LoRAParam))
    return nnx.merge(_graph(model, Adapter()), base)


def has_adapter(model: Decoder) -> bool:
    """Whether the model has low-rank weights."""
    return bool(jax.tree.leaves(nnx.state(model, nnx.LoRAParam)))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[L, .., R] @ [L, R, ..] in full float32: merging happens once, and must not round as a step may."""
    return jnp.einsum("l...r,lrx->l...x", a, b.reshape(*b.shape[:2], -1), precision="highest")


def _create(like: Decoder, adapter: Adapter, key: jax.Array) -> Decoder:
    return Decoder(like.spec, rngs=nnx.Rngs(params=key), adapter=adapter, dtype=like.dtype, remat=like.remat)


def _graph(like: Decoder, adapter: Adapter) -> Any:
    return nnx.graphdef(jax.eval_shape(functools.partial(_create, like, adapter), jax.random.key(0)))


def _mesh(model: Decoder) -> jax.sharding.Mesh:
    """The mesh that the weights were born on."""
    where = model.embedding[...].sharding
    assert isinstance(where, jax.sharding.NamedSharding) and isinstance(where.mesh, jax.sharding.Mesh)
    return where.mesh
