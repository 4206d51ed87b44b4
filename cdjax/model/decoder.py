"""The decoder: tokens -> hidden states. Logits are made where they are used, by `Decoder.logits` or its `Readout`.

Layers are stacked and run by one `jax.lax.scan`; `remat` says what the backward pass recomputes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cdjax import config
from cdjax.model import attention, cache
from cdjax.model.layers import Projection, RMSNorm, rope, weight
from cdjax.model.spec import DecoderSpec
from cdjax.parallel import constrain, shardings

REMAT: dict[str, Callable] = {
    "none": lambda layer: layer,
    "dots": functools.partial(
        jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable, prevent_cse=False
    ),
    "full": functools.partial(jax.checkpoint, prevent_cse=False),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readout:
    """What makes logits of hidden states: the vocabulary's weights, computed with in `dtype`, and the cap on them."""

    weights: Any  # float32, or a gradient, or what a transform puts in their place
    layout: str = dataclasses.field(metadata=dict(static=True))  # their axes: "vd", or "dv"
    dtype: jnp.dtype = dataclasses.field(metadata=dict(static=True))
    soft_cap: float | None = dataclasses.field(metadata=dict(static=True))

    def __call__(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Float32 logits."""
        weights = self.weights.astype(self.dtype)
        logits = jnp.einsum(f"...d,{self.layout}->...v", hidden, weights, preferred_element_type=jnp.float32)
        return logits if self.soft_cap is None else self.soft_cap * jnp.tanh(logits / self.soft_cap)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions; biases and query/key norms where the family has them."""

    def __init__(self, spec: DecoderSpec, *, rngs: nnx.Rngs, adapter: config.Adapter, dtype: jnp.dtype) -> None:
        self.spec = spec
        make = functools.partial(Projection, spec.layers, rngs=rngs, adapter=adapter, dtype=dtype)
        into_q, into_kv = (spec.embed, spec.heads, spec.head_dim), (spec.embed, spec.kv_heads, spec.head_dim)
        self.q = make(into_q, ("embed", "heads", "head_dim"), bias=spec.qkv_bias)
        self.k = make(into_kv, ("embed", "kv_heads", "head_dim"), bias=spec.qkv_bias)
        self.v = make(into_kv, ("embed", "kv_heads", "head_dim"), bias=spec.qkv_bias)
        self.o = make((spec.heads, spec.head_dim, spec.embed), ("heads", "head_dim", "embed"), contract=2)
        norm = functools.partial(RMSNorm, (spec.layers,), spec.head_dim, "head_dim", spec.norm_eps, rngs=rngs)
        self.q_norm = norm() if spec.qk_norm else None
        self.k_norm = norm() if spec.qk_norm else None

    def __call__(self, x, positions, mask, kv, column, shared, shared_mask):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rope(q, positions, self.spec), rope(k, positions, self.spec)
        if kv is not None:
            write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=column, axis=1)
            k, v = kv = (write(kv[0], k.astype(kv[0].dtype)), write(kv[1], v.astype(kv[1].dtype)))
        return self.o(attention.attend(q, k, v, mask, shared, shared_mask)), kv


class Block(nnx.Module):
    """One layer: attention and a gated MLP, each after a norm, each added to the stream."""

    def __init__(self, spec: DecoderSpec, *, rngs: nnx.Rngs, adapter: config.Adapter, dtype: jnp.dtype) -> None:
        make = functools.partial(Projection, spec.layers, rngs=rngs, adapter=adapter, dtype=dtype)
        norm = functools.partial(RMSNorm, (spec.layers,), spec.embed, "embed", spec.norm_eps, rngs=rngs)
        self.attention_norm = norm()
        self.attention = Attention(spec, rngs=rngs, adapter=adapter, dtype=dtype)
        self.mlp_norm = norm()
        self.gate = make((spec.embed, spec.mlp), ("embed", "mlp"))
        self.up = make((spec.embed, spec.mlp), ("embed", "mlp"))
        self.down = make((spec.mlp, spec.embed), ("mlp", "embed"))

    def __call__(self, x, positions, mask, kv, column, shared, shared_mask):
        attended, kv = self.attention(self.attention_norm(x), positions, mask, kv, column, shared, shared_mask)
        x = constrain(x + attended, "batch", "length", "act_embed")
        h = self.mlp_norm(x)
        x = x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))
        return constrain(x, "batch", "length", "act_embed"), kv


class Decoder(nnx.Module):
    """A decoder-only language model. float32 master weights, computed in `dtype`."""

    def __init__(
        self,
        spec: DecoderSpec,
        *,
        rngs: nnx.Rngs,
        adapter: config.Adapter = config.Adapter(),
        dtype: jnp.dtype = jnp.dtype("float32"),
        remat: str = "none",
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.remat = remat
        self.embedding = weight(rngs, (spec.vocab, spec.embed), ("vocab", "embed"))
        self.blocks = Block(spec, rngs=rngs, adapter=adapter, dtype=dtype)
        self.final_norm = RMSNorm((), spec.embed, "embed", spec.norm_eps, rngs=rngs)
        self.head = None if spec.tied else weight(rngs, (spec.embed, spec.vocab), ("embed", "vocab"))

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        real: Bool[Array, "B T"],
        *,
        prefix: cache.Prefix | None = None,
        past: cache.Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], cache.Cache | None]:
        """Hidden states after the final norm, and `past` with these tokens written into it.

        `positions` count from 0, or from `prefix.length` when there is a prefix. Padding has `real` False.
        """
        table = constrain(self.embedding[...].astype(self.dtype), "vocab", "act_embed")  # gathered before the look-up
        x = constrain(table[tokens], "batch", "length", "act_embed")
        keys, keys_real, column = positions, real, jnp.int32(0)
        if past is not None:
            column = past.column
            write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=column, axis=1)
            keys, keys_real = write(past.positions, positions), write(past.real, real)
        mask = attention.visible(positions, keys, keys_real, self.spec.window)
        shared_mask = None
        if prefix is not None:
            at = jnp.broadcast_to(jnp.arange(prefix.length), (tokens.shape[0], prefix.length))
            shared_mask = attention.visible(positions, at, jnp.ones_like(at, bool), self.spec.window)

        @REMAT[self.remat]
        def layer(x, part):
            block, kv, shared = part
            return block(x, positions, mask, kv, column, shared, shared_mask)

        kv = None if past is None else (past.k, past.v)
        shared = None if prefix is None else (prefix.k, prefix.v)
        x, kv = jax.lax.scan(layer, x, (self.blocks, kv, shared))
        if past is not None and kv is not None:
            past = cache.Cache(kv[0], kv[1], keys, keys_real, column + tokens.shape[1])
        return self.final_norm(x), past

    def logits(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Float32 logits over the vocabulary, from hidden states."""
        return self.readout()(hidden)

    def readout(self) -> Readout:
        """The part of the weights that `logits` needs."""
        weights, layout = (self.embedding, "vd") if self.head is None else (self.head, "dv")
        return Readout(weights[...], layout, self.dtype, self.spec.logit_soft_cap)


@jax.jit
def read_prefix(model: Decoder, context: Int[Array, "P"]) -> cache.Prefix:
    """The keys and values of a context, computed at batch 1."""
    length = context.shape[0]
    positions = jnp.arange(length)[None]
    empty = cache.new_cache(model.spec, 1, length, model.dtype)
    _, past = model(context[None], positions, jnp.ones((1, length), bool), past=empty)
    assert past is not None
    return cache.Prefix(past.k[:, 0], past.v[:, 0])


def row_positions(real: Bool[Array, "B T"], prefix: cache.Prefix | None) -> Int[Array, "B T"]:
    """Positions of left- or right-padded rows, counted after the prefix; padding gets the nearest real one."""
    start = 0 if prefix is None else prefix.length
    return start + jnp.maximum(jnp.cumsum(real, 1) - 1, 0)


def create(
    spec: DecoderSpec,
    mesh: jax.sharding.Mesh,
    *,
    seed: int = 0,
    adapter: config.Adapter = config.Adapter(),
    dtype: jnp.dtype = jnp.dtype("float32"),
    remat: str = "none",
) -> Decoder:
    """A randomly initialised decoder, born sharded: never whole on one device."""

    def make(key: jax.Array) -> Decoder:
        return Decoder(spec, rngs=nnx.Rngs(params=key), adapter=adapter, dtype=dtype, remat=remat)

    key = jax.random.key(seed)
    with jax.set_mesh(mesh):
        return jax.jit(make, out_shardings=shardings(jax.eval_shape(make, key), mesh))(key)
