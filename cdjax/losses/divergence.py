"""A divergence's value, derivative and dense reference, from its function h(log p, log q) of an outcome.

In: log-probabilities of teacher and student. Out: nats per position; `logits.py` and `fused.py` compute them in tiles.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from cdjax.losses.loss import Divergence

Pointwise: TypeAlias = Callable[[Array, Array], Array]  # h: p and q of the same shape -> each outcome's summand


def divergence(
    teacher_logits: Float[Array | np.ndarray, "*b V"],
    student_logits: Float[Array | np.ndarray, "*b V"],
    mask: Shaped[Array | np.ndarray, "*b"],
    loss: Divergence,
    *,
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """The mean divergence of unmasked positions in nats, times temperature^2; 0 if all are masked.

    Logits at masked positions, infinities included, change neither value nor gradient.
    """
    mask = jnp.asarray(mask, bool)
    teacher, student = (
        jax.nn.log_softmax(jnp.where(mask[..., None], jnp.asarray(logits, jnp.float32), 0.0) / temperature)
        for logits in (teacher_logits, student_logits)
    )
    token = total(loss.pointwise, teacher, student)
    return temperature**2 * jnp.sum(token, where=mask) / jnp.maximum(mask.sum(), 1)


def total(h: Pointwise, p: Float[Array, "*b o"], q: Float[Array, "*b o"]) -> Float[Array, "*b"]:
    """The sum of h over the last axis; an outcome that both sides exclude adds nothing, and has no gradient."""
    either = (p > -jnp.inf) | (q > -jnp.inf)
    return jnp.sum(h(jnp.where(either, p, 0.0), jnp.where(either, q, 0.0)), -1, where=either)


def derivative(h: Pointwise, p: Float[Array, "*b o"], q: Float[Array, "*b o"]) -> Float[Array, "*b o"]:
    """dh / dq of every outcome.

    By the student's logits the sum of h has the slope dh / dq - exp(q) * (the sum of dh / dq over all outcomes).
    """
    return jax.grad(lambda q: h(p, q).sum())(q)


def expected(p: Float[Array, "*b"], x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """exp(p) * x, and 0 for an outcome that p excludes, whatever its x is."""
    possible = p > -jnp.inf
    return jnp.where(possible, jnp.exp(jnp.where(possible, p, 0.0)) * x, 0.0)


def kl(p: Float[Array, "*b o"], q: Float[Array, "*b o"]) -> Float[Array, "*b"]:
    """KL(p || q) over the last axis."""
    possible = p > -jnp.inf
    p, q = jnp.where(possible, p, 0.0), jnp.where(possible, q, 0.0)
    return jnp.sum(jnp.exp(p) * (p - q), -1, where=possible)
