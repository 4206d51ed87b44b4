"""The decoder: tokens -> hidden states. Logits are made where they are used, by `Decoder.logits` or its `Readout`.

Layers are stacked and run by one `jax.lax.scan`; `remat` says what the backward pass recomputes. For sampling they are
taken apart, once, by `unstack`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cdjax.errors import UserError
from cdjax.model import attention, cache
from cdjax.model.layers import PRODUCT, Projection, RMSNorm, Scales, rope, weight
from cdjax.model.spec import DecoderSpec
from cdjax.parallel import constrain, shardings

KeysValues: TypeAlias = tuple[Float[Array, "B K S H"], Float[Array, "B K S H"]]  # of one layer
Contexts: TypeAlias = tuple[Float[Array, "G K P H"], Float[Array, "G K P H"]]  # a layer's keys and values of a prefix
ContextMask: TypeAlias = Bool[Array, "G P"] | Bool[Array, "B T P"]  # a prefix's tokens, or those that each query sees
Past: TypeAlias = tuple[Float[Array, "B K S H"], Float[Array, "B K S H"], Int[Array, "B"]]  # a layer's cache, lengths
Streams: TypeAlias = dict[int, Float[Array, "B T D"]]  # the residual stream after a layer, by its number

REMAT: dict[str, Callable] = {
    "none": lambda layer: layer,
    "dots": functools.partial(
        jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(PRODUCT), prevent_cse=False
    ),
    "full": functools.partial(jax.checkpoint, prevent_cse=False),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Readout:
    """The output head: the vocabulary's weights, the dtype that products are computed in, and the cap on logits."""

    weights: Any  # float32, a gradient, or a transform's placeholder
    layout: str = dataclasses.field(metadata=dict(static=True))  # the weights' axes: "vd", or "dv"
    dtype: jnp.dtype = dataclasses.field(metadata=dict(static=True))
    soft_cap: float | None = dataclasses.field(metadata=dict(static=True))
    scales: Float[Array, "V"] | None = None  # of int8 weights

    def __call__(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Float32 logits."""
        weights = self.weights.astype(self.dtype)
        logits = jnp.einsum(f"...d,{self.layout}->...v", hidden, weights, preferred_element_type=jnp.float32)
        if self.scales is not None:
            logits = logits * jnp.broadcast_to(self.scales, logits.shape)
        return logits if self.soft_cap is None else self.soft_cap * jnp.tanh(logits / self.soft_cap)

    def gathered(self) -> "Readout":
        """The readout with its weights in the compute dtype, and split over the vocabulary's axis alone."""
        axes = ("vocab" if letter == "v" else "act_embed" for letter in self.layout)
        return dataclasses.replace(self, weights=constrain(self.weights.astype(self.dtype), *axes))


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions, and with biases or query and key norms if the family has them."""

    def __init__(self, spec: DecoderSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype) -> None:
        self.spec = spec
        make = functools.partial(Projection, spec.layers, rngs=rngs, dtype=dtype)
        into_q, into_kv = (spec.embed, spec.heads, spec.head_dim), (spec.embed, spec.kv_heads, spec.head_dim)
        self.q = make(into_q, ("embed", "heads", "head_dim"), bias=spec.qkv_bias)
        self.k = make(into_kv, ("embed", "kv_heads", "head_dim"), bias=spec.qkv_bias)
        self.v = make(into_kv, ("embed", "kv_heads", "head_dim"), bias=spec.qkv_bias)
        self.o = make((spec.heads, spec.head_dim, spec.embed), ("heads", "head_dim", "embed"), contract=2)
        norm = functools.partial(RMSNorm, (spec.layers,), spec.head_dim, "head_dim", spec.norm_eps, rngs=rngs)
        self.q_norm = norm() if spec.qk_norm else None
        self.k_norm = norm() if spec.qk_norm else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        past: Past | None,
        shared: Contexts | None,
        shared_mask: ContextMask | None,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """The output of attention, and the keys and values that it read beside those of the prefix.

        `past` is a cache that the rows' keys and values are written into, each row's from its length on.
        """
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rope(q, positions, self.spec), rope(k, positions, self.spec)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
        if past is not None:
            before_k, before_v, columns = past
            k, v = cache.write(before_k, k, columns), cache.write(before_v, v, columns)
        return self.o(attention.attend(q, k, v, mask, shared, shared_mask)), (k, v)


class Block(nnx.Module):
    """A layer: attention and a gated MLP, each after a norm and added to the stream."""

    def __init__(self, spec: DecoderSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype) -> None:
        make = functools.partial(Projection, spec.layers, rngs=rngs, dtype=dtype)
        norm = functools.partial(RMSNorm, (spec.layers,), spec.embed, "embed", spec.norm_eps, rngs=rngs)
        self.attention_norm = norm()
        self.attention = Attention(spec, rngs=rngs, dtype=dtype)
        self.mlp_norm = norm()
        self.gate = make((spec.embed, spec.mlp), ("embed", "mlp"))
        self.up = make((spec.embed, spec.mlp), ("embed", "mlp"))
        self.down = make((spec.mlp, spec.embed), ("mlp", "embed"))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        past: Past | None,
        shared: Contexts | None,
        shared_mask: ContextMask | None,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """The stream after the layer, and its keys and values as `Attention` returns them."""
        attended, kv = self.attention(self.attention_norm(x), positions, mask, past, shared, shared_mask)
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
        dtype: jnp.dtype = jnp.dtype("float32"),
        remat: str = "dots",
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.remat = remat
        self.embedding = weight(rngs, (spec.vocab, spec.embed), ("vocab", "embed"))
        self.embedding_scales: Scales | None = nnx.data(None)  # of an int8 embedding
        self.blocks: Block | nnx.List = Block(spec, rngs=rngs, dtype=dtype)
        self.final_norm = RMSNorm((), spec.embed, "embed", spec.norm_eps, rngs=rngs)
        self.head = None if spec.tied else weight(rngs, (spec.embed, spec.vocab), ("embed", "vocab"))
        self.head_scales: Scales | None = nnx.data(None)

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of the weights; not known inside jit."""
        sharding = self.embedding[...].sharding
        assert isinstance(sharding, jax.sharding.NamedSharding) and isinstance(sharding.mesh, jax.sharding.Mesh)
        return sharding.mesh

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        real: Bool[Array, "B T"],
        *,
        prefix: cache.Prefix | None = None,
        past: cache.Cache | None = None,
        texts: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], cache.Cache | None]:
        """Hidden states after the final norm, and `past` with these tokens written into it.

        `positions` count from 0, or from the end of the row's context in `prefix`. Padding has `real` False; with a
        `past` it is on the right. `past` is for a model whose layers are apart, see `unstack`.
        If rows hold several texts, `texts` numbers them, and `positions` start anew with each text.
        """
        if past is None:
            return self.states(tokens, positions, real, (), prefix=prefix, texts=texts)[0], None
        mask = past.visible(tokens.shape[1], self.spec.window)
        x, (k, v), _ = self._layers(tokens, positions, mask, prefix, past, keep=True)
        return self.final_norm(x), cache.Cache(k, v, past.lengths + real.sum(1))

    def states(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        real: Bool[Array, "B T"],
        layers: tuple[int, ...],
        *,
        prefix: cache.Prefix | None = None,
        texts: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Streams]:
        """Hidden states after the final norm, and the residual stream at each of `layers`, by its number as given.

        Numbers are those of transformers' `hidden_states`: 0 is the embedding, i the stream after layer i of L, and
        negative numbers count from the end. L, or -1, differs: it is the stream before the final norm, transformers'
        is after it. Raises UserError for a number that the decoder does not have.
        """
        mask = attention.visible(positions, positions, real, self.spec.window)
        if texts is not None:
            mask &= texts[:, :, None] == texts[:, None, :]
        x, _, streams = self._layers(tokens, positions, mask, prefix, None, keep=False, streams=layers)
        return self.final_norm(x), streams

    def read(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        real: Bool[Array, "B T"],
        *,
        prefix: cache.Prefix | None = None,
    ) -> tuple[Float[Array, "L B K T H"], Float[Array, "L B K T H"]]:
        """The tokens' keys and values in every layer, to fill a prefix or a cache with."""
        mask = attention.visible(positions, positions, real, self.spec.window)
        _, (k, v), _ = self._layers(tokens, positions, mask, prefix, None, keep=True)
        return (jnp.stack(k), jnp.stack(v)) if isinstance(self.blocks, nnx.List) else (k, v)

    def _layers(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        prefix: cache.Prefix | None,
        past: cache.Cache | None,
        *,
        keep: bool,
        streams: tuple[int, ...] = (),
    ) -> tuple[Float[Array, "B T D"], Any, Streams]:
        """The stream after the last layer, each layer's keys and values, and the streams of chosen layers.

        Keys and values are stacked or apart as the layers are; stacked layers give them only with `keep`.
        """
        index = {number: _stream_index(number, self.spec) for number in streams}
        chosen = sorted(set(index.values()))
        x = self._embed(tokens)
        shared_mask = None if prefix is None else prefix.visible(positions, self.spec.window)

        @REMAT[self.remat]
        def layer(x: Array, part: tuple[Block, Past | None, Contexts | None]) -> tuple[Array, KeysValues]:
            block, before, shared = part
            return block(x, positions, mask, before, shared, shared_mask)

        if not isinstance(self.blocks, nnx.List):
            assert past is None, "a cache is for a model whose layers are apart"
            shared = None if prefix is None else (prefix.k, prefix.v)

            # The scan carries a buffer of the chosen layers' streams, instead of stacking those of all layers: a chosen
            # layer writes its stream into its slot, and any other layer into a last slot, which nobody reads.
            slots = np.array([chosen.index(i) if i in chosen else len(chosen) for i in range(self.spec.layers + 1)])
            kept = _put(jnp.zeros((len(chosen) + 1, *x.shape), x.dtype), x, slots[0]) if chosen else None

            def step(carry: tuple[Array, Array | None], part: Any) -> tuple[tuple[Array, Array | None], Any]:
                (x, kept), (slot, *part) = carry, part
                x, kv = layer(x, tuple(part))
                return (x, None if kept is None else _put(kept, x, slot)), kv if keep else None

            by_layer = (slots[1:] if chosen else None, self.blocks, None, shared)
            (x, kept), kv = jax.lax.scan(step, (x, kept), by_layer)
            return x, kv, {} if kept is None else {number: kept[chosen.index(i)] for number, i in index.items()}
        after, layers_kv = [x], []
        for number, block in enumerate(self.blocks):
            before = None if past is None else (past.k[number], past.v[number], past.lengths)
            shared = None if prefix is None else (prefix.k[number], prefix.v[number])
            x, kv = layer(x, (block, before, shared))
            after.append(x)
            layers_kv.append(kv)
        return x, tuple(zip(*layers_kv, strict=True)), {number: after[i] for number, i in index.items()}

    def _embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        embedded = self.embedding[...][tokens]
        if self.embedding_scales is not None:
            embedded = embedded * self.embedding_scales[...][tokens][..., None]
        # Every device looks up its columns of the table for all rows, and exchanges the result, which is smaller.
        embedded = constrain(embedded.astype(self.dtype), "row", "length", "embed")
        return constrain(embedded, "batch", "length", "act_embed")

    def logits(self, hidden: Float[Array, "*b D"]) -> Float[Array, "*b V"]:
        """Float32 logits over the vocabulary, from hidden states."""
        return self.readout()(hidden)

    def readout(self) -> Readout:
        """The output head, whose weights `logits` multiplies by."""
        weights, scales, layout = self.embedding, self.embedding_scales, "vd"
        if self.head is not None:
            weights, scales, layout = self.head, self.head_scales, "dv"
        return Readout(
            weights[...], layout, self.dtype, self.spec.logit_soft_cap, None if scales is None else scales[...]
        )


def _stream_index(number: int, spec: DecoderSpec) -> int:
    """A stream's number counted from 0, the embedding. Raises UserError if the decoder does not have the stream."""
    if not -spec.layers - 1 <= number <= spec.layers:
        raise UserError(f"layer {number} of {spec.layers}: streams have numbers {-spec.layers - 1} to {spec.layers}")
    return number % (spec.layers + 1)


def _put(streams: Float[Array, "l B T D"], x: Float[Array, "B T D"], slot: Any) -> Float[Array, "l B T D"]:
    """The buffer with the stream `x` in a slot."""
    return constrain(jax.lax.dynamic_update_index_in_dim(streams, x, slot, 0), "layers", "batch", "length", "act_embed")


@jax.jit
def unstack(model: Decoder) -> Decoder:
    """The model in the form for sampling: layers apart, matrices in the compute dtype, the head laid out for x @ w.

    A scan over stacked layers would copy each layer's weights out of the stack, and convert them, for every token.
    """
    if isinstance(model.blocks, nnx.List):
        return model

    def cast(variable: nnx.Variable, axes: tuple[str, ...], value: Array) -> nnx.Variable:
        if value.ndim > 1 and value.dtype != jnp.int8 and not isinstance(variable, Scales):  # norms stay in float32
            value = value.astype(model.dtype)
        return variable.replace(constrain(value, *axes), axes=axes)

    def whole(variable: nnx.Variable) -> nnx.Variable:
        return cast(variable, variable.axes, variable[...])

    def of_layer(index: int, variable: nnx.Variable) -> nnx.Variable:
        return cast(variable, variable.axes[1:], variable[...][index])

    def blocks(index: int) -> Block:
        return map_variables(functools.partial(of_layer, index), model.blocks)

    map_variables = functools.partial(jax.tree.map, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    apart = map_variables(whole, model)
    apart.blocks = nnx.List([blocks(index) for index in range(model.spec.layers)])
    if model.head is None:
        apart.head = nnx.data(cast(model.embedding, model.embedding.axes[::-1], model.embedding[...].T))
        apart.head_scales = apart.embedding_scales
    return apart


def with_layers(model: Decoder, layers: Sequence[int]) -> Decoder:
    """The decoder with the listed layers alone, in their order. The caller has entered `jax.set_mesh`.

    Raises UserError for a layer that the decoder does not have, or that is listed twice.
    """
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(range(model.spec.layers)):
        raise UserError(f"layers={list(layers)} must be different numbers from 0 to {model.spec.layers - 1}")

    def make(key: jax.Array) -> Decoder:
        spec = dataclasses.replace(model.spec, layers=len(layers))
        return Decoder(spec, rngs=nnx.Rngs(params=key), dtype=model.dtype, remat=model.remat)

    def pick(variable: nnx.Variable) -> nnx.Variable:
        if variable.axes[0] != "layers":
            return variable
        return variable.replace(constrain(variable[...][np.array(layers)], *variable.axes))

    picked = jax.jit(functools.partial(jax.tree.map, pick, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)))
    return nnx.merge(nnx.graphdef(jax.eval_shape(make, jax.random.key(0))), picked(nnx.state(model)))


def row_positions(real: Bool[Array, "B T"], prefix: cache.Prefix | None) -> Int[Array, "B T"]:
    """Positions of left- or right-padded rows, counted after the prefix; padding has the nearest token's."""
    positions = jnp.maximum(jnp.cumsum(real, 1) - 1, 0)
    return positions if prefix is None else positions + prefix.starts(len(real))[:, None]


def create(
    spec: DecoderSpec,
    mesh: jax.sharding.Mesh,
    *,
    seed: int = 0,
    dtype: jnp.dtype = jnp.dtype("float32"),
    remat: str = "dots",
) -> Decoder:
    """A randomly initialised decoder, created sharded over the mesh: no device ever holds all of it."""

    def make(key: jax.Array) -> Decoder:
        return Decoder(spec, rngs=nnx.Rngs(params=key), dtype=dtype, remat=remat)

    key = jax.random.key(seed)
    with jax.set_mesh(mesh):
        return jax.jit(make, out_shardings=shardings(jax.eval_shape(make, key), mesh))(key)
