"""The written formulas: divergences between teacher and student, their dense reference, and their slopes.

In: `Positions`. Out: nats a position, from logits and log-probabilities; `fused.py` computes them tile by tile.
Names follow GKD (arXiv 2306.13649): teacher p, student q; forward_kl KL(p||q), reverse_kl KL(q||p), and
jsd beta KL(p||m) + (1 - beta) KL(q||m) with m = beta p + (1 - beta) q.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from cdjax.errors import UserError
from cdjax.losses import Objective
from cdjax.sampling.targets.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """What the loss reads at every completion position."""

    hidden: Float[Array, "*b D"]  # the student's
    teacher: Float[Array, "*b D"] | None  # the teacher's, for full targets
    ids: Int[Array, "*b"]
    weight: Float[Array, "*b"]  # in the loss; 0 where there is no token: the one loss mask
    targets: dict[str, Array]  # what was recorded of the teacher, [*b, ...]
    temperature: Float[Array, "*b"] | None = None  # None: the targets' own at every position

    @property
    def real(self) -> Bool[Array, "*b"]:
        """Which positions count."""
        return self.weight != 0


def check(targets: Target, objective: Objective, positions: Positions | None = None) -> None:
    """Raises UserError for an objective that cannot be computed, or not from these positions."""
    if objective.kind == "cross_entropy":
        return
    if not targets.gives & ({"probabilities", "draws"} if objective.kind == "forward_kl" else {"probabilities"}):
        raise UserError(
            f"objective.kind={objective.kind} needs the teacher's probabilities, and targets.kind={targets.kind} does "
            "not have them; use objective.kind=forward_kl, or targets.kind=top_k or full"
        )
    if not 0 <= objective.alpha <= 1:
        raise UserError(f"objective.alpha={objective.alpha} must be in 0 .. 1")
    if positions is None:
        return
    if (
        "states" in targets.gives and positions.teacher is None
    ) or not targets.buffers().keys() <= positions.targets.keys():
        raise UserError(f"targets.kind={targets.kind}, but the answers were recorded without them")


def divergence(
    teacher_logits: Float[Array | np.ndarray, "*b V"],
    student_logits: Float[Array | np.ndarray, "*b V"],
    mask: Shaped[Array | np.ndarray, "*b"],
    *,
    kind: str,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Float[Array, ""]:
    """temperature^2 times the mean over unmasked positions, in nats; 0 where nothing is unmasked.

    What stands at masked positions, infinities included, changes neither value nor gradient.
    """
    mask = jnp.asarray(mask, bool)
    teacher, student = (
        jax.nn.log_softmax(jnp.where(mask[..., None], jnp.asarray(logits, jnp.float32), 0.0) / temperature)
        for logits in (teacher_logits, student_logits)
    )
    token = token_divergence(teacher, student, kind=kind, beta=beta)
    return temperature**2 * jnp.sum(token, where=mask) / jnp.maximum(mask.sum(), 1)


def token_divergence(
    teacher: Float[Array, "*b V"], student: Float[Array, "*b V"], *, kind: str, beta: float
) -> Float[Array, "*b"]:
    """The divergence at every position from log-probabilities over V outcomes; raises UserError for a bad beta."""
    kind = _end(kind, beta)
    if kind == "forward_kl":
        return kl(teacher, student)
    if kind == "reverse_kl":
        return kl(student, teacher)
    # The gradient of logaddexp is not a number where both sides are minus infinity.
    either = (teacher > -jnp.inf) | (student > -jnp.inf)
    p, q = jnp.where(either, teacher, 0.0), jnp.where(either, student, 0.0)
    mixture = _mixture(p, q, beta)
    return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


def pull(teacher: Float[Array, "*b V"], student: Float[Array, "*b V"], *, kind: str, beta: float) -> Float[Array, "*b"]:
    """What `slope` must know of all V outcomes at once: KL of the student to what it is drawn towards."""
    kind = _end(kind, beta)
    if kind == "forward_kl":
        return jnp.zeros(student.shape[:-1])
    return kl(student, teacher if kind == "reverse_kl" else _mixture(teacher, student, beta))


def slope(
    teacher: Float[Array, "*b v"], student: Float[Array, "*b v"], pull: Float[Array, "*b"], *, kind: str, beta: float
) -> Float[Array, "*b v"]:
    """d token_divergence / d (student's logits) at any v of the outcomes; log-probabilities must be finite.

    With d / d log q = q g it is q (g - sum q g), and g is -p / q, log q - log p, or (1 - beta) (log q - log m).
    """
    kind, q = _end(kind, beta), jnp.exp(student)
    if kind == "forward_kl":
        return q - jnp.exp(teacher)
    if kind == "reverse_kl":
        return q * (student - teacher - pull[..., None])
    return (1 - beta) * q * (student - _mixture(teacher, student, beta) - pull[..., None])


def kl(p: Float[Array, "*b V"], q: Float[Array, "*b V"]) -> Float[Array, "*b"]:
    """KL(p || q) over the last axis, from log-probabilities; an outcome that p excludes adds nothing, whatever q is."""
    possible = p > -jnp.inf
    p, q = jnp.where(possible, p, 0.0), jnp.where(possible, q, 0.0)
    return jnp.sum(jnp.exp(p) * (p - q), -1, where=possible)


def _mixture(teacher: Array, student: Array, beta: float) -> Array:
    return jnp.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))


def _end(kind: str, beta: float) -> str:
    """jsd at its end-points is one of the KLs; raises UserError for what is no divergence."""
    if kind not in ("forward_kl", "reverse_kl", "jsd"):
        raise UserError(f"objective.kind={kind!r} is no divergence; use forward_kl, reverse_kl or jsd")
    if kind == "jsd" and not 0 <= beta <= 1:
        raise UserError(f"objective.beta={beta} must be between 0 (forward_kl) and 1 (reverse_kl)")
    return {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, kind) if kind == "jsd" else kind
