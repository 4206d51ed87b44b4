"""Grouped-query attention over each row's own keys and over contexts that many rows share.

A context's keys have no row axis, so attention over them is one matrix product for all its rows. Each part is left
unnormalised, a `Partial`; two parts are merged by their maxima and sums, which equals one softmax over both.
"""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cdjax import parallel
from cdjax.model import kernels

NEGATIVE = jnp.float32(-1e30)  # score of a masked key; finite, so that a query that sees nothing gets no NaN
QUERIES = 128  # queries of a text that are computed together, over the keys up to the last of these queries
BLOCK = 256  # keys of a cache that are computed together

# Softmax attention before its division, in float32: for each query the largest score, the sum of exponentials of the
# scores less that maximum, and the sum of values weighted by them.
Partial: TypeAlias = tuple[Float[Array, "B K g T"], Float[Array, "B K g T"], Float[Array, "B K g T H"]]


def visible(
    query: Int[Array, "*b T"], keys: Int[Array, "*b S"], real: Bool[Array, "*b S"], window: int | None
) -> Bool[Array, "*b T S"]:
    """Mask of the keys that each query may see: real, not after the query's position, inside the sliding window."""
    distance = query[..., :, None] - keys[..., None, :]
    seen = (distance >= 0) & real[..., None, :]
    return seen if window is None else seen & (distance < window)


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
    shared: tuple[Float[Array, "G K P H"], Float[Array, "G K P H"]] | None,
    shared_mask: Bool[Array, "G P"] | Bool[Array, "B T P"] | None,
) -> Float[Array, "B T N H"]:
    """Softmax attention of each row over its own keys and, before them, a context of `shared`; scores in float32.

    The first B / G rows see the first context, and so on. `shared_mask` [G, P] has the real tokens of each context, or
    [B, T, P] with a sliding window those that each query sees. A query that sees no key gets some finite value.
    With as many keys as queries (T = S), both are the same tokens, and no query may see a later column.
    """
    batch, length, heads, size = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, size) * size**-0.5
    # A text is computed in at most 8 blocks of queries, each over the keys up to its last query: nearly half of a long
    # text's scores are never made.
    causal = length == k.shape[2]
    step = max(QUERIES, -(-length // 8)) if causal else length
    blocks = []
    for start in range(0, length, step):
        queries, keys = slice(start, start + step), slice(0, start + step if causal else None)
        over_keys = _over_all if causal else _over_used
        partial = over_keys(grouped[:, queries], k[:, :, keys], v[:, :, keys], mask[:, queries, keys])
        if shared is not None and shared_mask is not None:
            seen = shared_mask if shared_mask.ndim == 2 else shared_mask[:, queries]
            partial = _merge(_over_shared(grouped[:, queries], *shared, seen), partial)
        _, total, weighted = partial
        blocks.append(weighted / total[..., None])
    out = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, 3)
    return jnp.moveaxis(out, 3, 1).reshape(batch, length, heads, size).astype(q.dtype)


def _over_all(
    grouped: Float[Array, "B T K g H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
) -> Partial:
    """Attention of each row over all its keys.

    A query that sees nothing weighs all keys alike, with a maximum of NEGATIVE: merged with a partial of the same query
    that sees something, it has weight 0.
    """
    scores = jnp.einsum("btkgh,bksh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    top, weights = _weights(jnp.where(mask[:, None, None], scores, NEGATIVE))
    summed = jnp.einsum("bkgts,bksh->bkgth", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return top, weights.sum(-1), summed


def _over_used(
    grouped: Float[Array, "B T K g H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
) -> Partial:
    """Attention of each row over its cache, block by block up to the last column that any query sees.

    Most columns of a cache are empty during most of the decoding: blocks beyond the last token are not read.
    """
    if k.shape[2] <= BLOCK:
        return _over_all(grouped, k, v, mask)
    last = jnp.where(mask.any((0, 1)), jnp.arange(mask.shape[2]), 0).max()

    def add(block: Int[Array, ""], partial: Partial) -> Partial:
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=block * BLOCK, slice_size=BLOCK, axis=2)
        return _merge(partial, _over_all(grouped, cut(k), cut(v), cut(mask)))

    first = _over_all(grouped, k[:, :, :BLOCK], v[:, :, :BLOCK], mask[..., :BLOCK])
    return jax.lax.fori_loop(1, last // BLOCK + 1, add, first)


def _over_shared(
    grouped: Float[Array, "B T K g H"],
    k: Float[Array, "G K P H"],
    v: Float[Array, "G K P H"],
    mask: Bool[Array, "G P"] | Bool[Array, "B T P"],
) -> Partial:
    """Attention over the contexts: for each context and head one product of all its queries with one set of keys.

    On a TPU a single context is read by a kernel, where its rows can be split over the devices.
    """
    fits_kernel = len(k) == 1 and mask.ndim == 2 and len(grouped) % parallel.parts("batch") == 0
    if not fits_kernel:
        return _contexts(grouped, k, v, mask)
    return jax.lax.platform_dependent(grouped, k, v, mask, tpu=_one_context, default=_contexts)


def _contexts(
    grouped: Float[Array, "B T K g H"],
    k: Float[Array, "G K P H"],
    v: Float[Array, "G K P H"],
    mask: Bool[Array, "G P"] | Bool[Array, "B T P"],
) -> Partial:
    """`_over_shared` in plain jax. In the products x is a context and r a row that reads it, B = x r."""
    contexts, mask = len(k), mask[:, None] if mask.ndim == 2 else mask
    queries = grouped.reshape(contexts, -1, *grouped.shape[1:])
    seen = mask.reshape(contexts, 1, -1, mask.shape[1], 1, mask.shape[2])
    scores = jnp.einsum("xrtkgh,xkph->xkrtgp", queries, k, preferred_element_type=jnp.float32)
    top, weights = _weights(jnp.where(seen, scores, NEGATIVE))
    summed = jnp.einsum("xkrtgp,xkph->xkrtgh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)

    def by_row(x: Array) -> Array:
        """[x, K, r, T, g, ...] -> [B, K, g, T, ...]."""
        x = jnp.moveaxis(x, (0, 2, 1, 4, 3), (0, 1, 2, 3, 4))
        return x.reshape(-1, *x.shape[2:])

    return by_row(top), by_row(weights.sum(-1)), by_row(summed)


@jax.custom_vjp
def _one_context(
    grouped: Float[Array, "B T K g H"],
    k: Float[Array, "1 K P H"],
    v: Float[Array, "1 K P H"],
    mask: Bool[Array, "1 P"],
) -> Partial:
    """`_over_shared` of a single context by the TPU kernel."""
    return kernels.by_row(grouped, k[0], v[0], mask.sum())


def _one_context_forward(*inputs: Array) -> tuple[Partial, tuple[Array, ...]]:
    return _one_context(*inputs), inputs


def _one_context_backward(inputs: tuple[Array, ...], gradient: Partial) -> tuple[Any, ...]:
    """The gradient of `_contexts`, which makes the scores again: the kernel has none."""
    grouped, k, v, mask = inputs
    _, vjp = jax.vjp(lambda grouped, k, v: _contexts(grouped, k, v, mask), grouped, k, v)
    return *vjp(gradient), None


_one_context.defvjp(_one_context_forward, _one_context_backward)


def _weights(scores: Float[Array, "*b S"]) -> tuple[Float[Array, "*b"], Float[Array, "*b S"]]:
    """The largest score of each query and the exponentials of the scores less that maximum."""
    top = jax.lax.stop_gradient(scores.max(-1))  # it cancels in the division, and so does its gradient
    return top, jnp.exp(scores - top[..., None])


def _merge(first: Partial, second: Partial) -> Partial:
    """Attention over the keys of both, rescaled to the larger maximum."""
    top = jnp.maximum(first[0], second[0])
    a, b = jnp.exp(first[0] - top), jnp.exp(second[0] - top)
    return top, a * first[1] + b * second[1], a[..., None] * first[2] + b[..., None] * second[2]
