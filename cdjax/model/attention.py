"""Grouped-query attention over the rows' own keys and over a prefix that all rows share.

The prefix has no batch axis, so attention over it is one matrix product for the whole batch. The two parts are merged
by their log-sum-exp, which equals one softmax over both.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NEGATIVE = jnp.float32(-1e30)


def visible(
    query: Int[Array, "*b T"], keys: Int[Array, "*b S"], real: Bool[Array, "*b S"], window: int | None
) -> Bool[Array, "*b T S"]:
    """Which keys a query may see: real ones at its own position or before, inside the sliding window."""
    distance = query[..., :, None] - keys[..., None, :]
    seen = (distance >= 0) & real[..., None, :]
    return seen if window is None else seen & (distance < window)


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "B T S"],
    shared: tuple[Float[Array, "P K H"], Float[Array, "P K H"]] | None,
    shared_mask: Bool[Array, "B T P"] | None,
) -> Float[Array, "B T N H"]:
    """Softmax attention in float32; `shared` keys and values come before the rows' own."""
    batch, length, heads, size = q.shape
    kv_heads = k.shape[-2]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, size) * size**-0.5
    part = _partial(grouped, k, v, mask, "bskh")
    if shared is not None and shared_mask is not None:
        part = _merge(_partial(grouped, *shared, shared_mask, "skh"), part)
    top, total, summed = part
    out = summed / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)[..., None]
    return jnp.moveaxis(out, 3, 1).reshape(batch, length, heads, size).astype(q.dtype)


def _partial(grouped, k, v, mask, keys: str):
    """Unnormalised attention over one set of keys: row maximum, sum of exponentials, weighted values (B K G T ..)."""
    scores = jnp.einsum(f"btkgh,{keys}->bkgts", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, NEGATIVE)
    top = scores.max(-1)
    weights = jnp.where(mask[:, None, None], jnp.exp(scores - top[..., None]), 0.0)
    summed = jnp.einsum(f"bkgts,{keys}->bkgth", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return top, weights.sum(-1), summed


def _merge(one, two):
    top = jnp.maximum(one[0], two[0])
    a, b = jnp.exp(one[0] - top), jnp.exp(two[0] - top)
    return top, a * one[1] + b * two[1], a[..., None] * one[2] + b[..., None] * two[2]
