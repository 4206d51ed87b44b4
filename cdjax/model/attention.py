"""Grouped-query attention over the rows' own keys and over contexts that many rows share.

A context's keys have no row axis, so attention over them is one matrix product for all its rows. The two parts are
merged by their log-sum-exp, which equals one softmax over both.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cdjax import parallel
from cdjax.model import kernels

NEGATIVE = jnp.float32(-1e30)
QUERIES = 128  # of a text that are done together, over the keys up to the last of them
BLOCK = 256  # keys of a cache that are done together


def visible(
    query: Int[Array, "*b T"], keys: Int[Array, "*b S"], real: Bool[Array, "*b S"], window: int | None
) -> Bool[Array, "*b T S"]:
    """Which keys a query may see: real ones at its own position or before, inside the sliding window."""
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
    """Softmax attention in float32. Every B / G rows also see one context of `shared`, placed before their own keys.

    `shared_mask` says what there is of each context, or, where a sliding window moves on, what every query sees of it.
    A query that sees nothing gets some finite value. As many keys as queries are the same tokens: no query sees a later
    column.
    """
    batch, length, heads, size = q.shape
    kv_heads = k.shape[1]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, size) * size**-0.5
    same = length == k.shape[2]
    step = max(QUERIES, -(-length // 8)) if same else length
    blocks = []
    for start in range(0, length, step):
        part, end = slice(start, start + step), slice(0, start + step if same else None)
        find = _own if same else _own_used
        found = find(grouped[:, part], k[:, :, end], v[:, :, end], mask[:, part, end])
        if shared is not None and shared_mask is not None:
            seen = shared_mask if shared_mask.ndim == 2 else shared_mask[:, part]
            found = _merge(_shared(grouped[:, part], *shared, seen), found)
        blocks.append(found[2] / found[1][..., None])
    out = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, 3)
    return jnp.moveaxis(out, 3, 1).reshape(batch, length, heads, size).astype(q.dtype)


def _own(grouped, k, v, mask):
    """Unnormalised attention of each row over its own keys: maximum, sum of exponentials, weighted values (B K g T ..).

    A query that sees nothing weighs all keys alike; merged with one that sees something, that has weight 0.
    """
    scores = jnp.einsum("btkgh,bksh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    top, weights = _weights(jnp.where(mask[:, None, None], scores, NEGATIVE))
    summed = jnp.einsum("bkgts,bksh->bkgth", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return top, weights.sum(-1), summed


def _own_used(grouped, k, v, mask):
    """The same, block by block up to the last key that any query sees: a cache is mostly room for what comes."""
    if k.shape[2] <= BLOCK:
        return _own(grouped, k, v, mask)
    used = jnp.where(mask.any((0, 1)), jnp.arange(mask.shape[2]), 0).max()

    def block(at, found):
        part = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=at * BLOCK, slice_size=BLOCK, axis=2)
        return _merge(found, _own(grouped, part(k), part(v), part(mask)))

    return jax.lax.fori_loop(
        1, used // BLOCK + 1, block, _own(grouped, k[:, :, :BLOCK], v[:, :, :BLOCK], mask[..., :BLOCK])
    )


def _shared(grouped, k, v, mask):
    """The same over the contexts: for each context and head one product of all its queries with one set of keys."""
    whole = len(k) == 1 and mask.ndim == 2 and len(grouped) % parallel.parts("batch") == 0
    if not whole:
        return _contexts(grouped, k, v, mask)
    return jax.lax.platform_dependent(grouped, k, v, mask, tpu=_one_context, default=_contexts)


def _contexts(grouped, k, v, mask):
    contexts, mask = len(k), mask[:, None] if mask.ndim == 2 else mask
    queries = grouped.reshape(contexts, -1, *grouped.shape[1:])
    seen = mask.reshape(contexts, 1, -1, mask.shape[1], 1, mask.shape[2])
    scores = jnp.einsum("xrtkgh,xkph->xkrtgp", queries, k, preferred_element_type=jnp.float32)
    top, weights = _weights(jnp.where(seen, scores, NEGATIVE))
    summed = jnp.einsum("xkrtgp,xkph->xkrtgh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)

    def by_row(x):
        x = jnp.moveaxis(x, (0, 2, 1, 4, 3), (0, 1, 2, 3, 4))
        return x.reshape(-1, *x.shape[2:])

    return by_row(top), by_row(weights.sum(-1)), by_row(summed)


@jax.custom_vjp
def _one_context(grouped, k, v, mask):
    return kernels.by_row(grouped, k[0], v[0], mask.sum())


def _one_context_forward(*inputs):
    return _one_context(*inputs), inputs


def _one_context_backward(inputs, gradient):
    """The kernel has no gradient of its own: the scores are made again."""
    *inputs, mask = inputs
    return *jax.vjp(lambda *inputs: _contexts(*inputs, mask), *inputs)[1](gradient), None


_one_context.defvjp(_one_context_forward, _one_context_backward)


def _weights(scores):
    top = jax.lax.stop_gradient(scores.max(-1))  # it cancels, and so does its gradient
    return top, jnp.exp(scores - top[..., None])


def _merge(one, two):
    top = jnp.maximum(one[0], two[0])
    a, b = jnp.exp(one[0] - top), jnp.exp(two[0] - top)
    return top, a * one[1] + b * two[1], a[..., None] * one[2] + b[..., None] * two[2]
