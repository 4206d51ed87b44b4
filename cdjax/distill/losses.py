"""Hidden states of the student and soft targets of the teacher -> sums of the loss over completion positions.

`divergence` is the dense reference. `fused` gives the same numbers chunk by chunk, so that [B, C, V] never exists.
Names follow GKD (arXiv 2306.13649): teacher p, student q; forward_kl KL(p||q), reverse_kl KL(q||p), and
jsd beta KL(p||m) + (1 - beta) KL(q||m) with m = beta p + (1 - beta) q.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from cdjax import config, parallel
from cdjax.model.decoder import Decoder

POSITIONS = 512  # on one device at a time: two float32 arrays of this by the vocabulary are what the loss costs
ROUNDING = 1e-7  # a float32 sum of probabilities does not know a tail smaller than this


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """What the loss reads at every completion position. Soft targets that are not used may have width 0."""

    hidden: Float[Array, "B C D"]  # the student's
    teacher: Float[Array, "B C D"] | None  # the teacher's, for full targets
    ids: Int[Array, "B C"]
    real: Bool[Array, "B C"]  # the one loss mask
    top_ids: Int[Array, "B C k"]
    top_logprobs: Float[Array, "B C k"]  # at the objective's temperature
    draws: Int[Array, "B C n"]  # at the objective's temperature


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
    if kind == "jsd":
        kind = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, kind)
    if kind == "forward_kl":
        return _kl(teacher, student)
    if kind == "reverse_kl":
        return _kl(student, teacher)
    if kind != "jsd":
        raise config.UserError(f"objective.kind={kind!r} is no divergence; use forward_kl, reverse_kl or jsd")
    if not 0 < beta < 1:
        raise config.UserError(f"objective.beta={beta} must be between 0 (forward_kl) and 1 (reverse_kl)")
    # The gradient of logaddexp is not a number where both sides are minus infinity.
    either = (teacher > -jnp.inf) | (student > -jnp.inf)
    p, q = jnp.where(either, teacher, 0.0), jnp.where(either, student, 0.0)
    mixture = jnp.logaddexp(p + math.log(beta), q + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def bucket_divergence(
    top_ids: Int[Array, "*b k"],
    top_logprobs: Float[Array, "*b k"],
    student_logits: Float[Array, "*b V"],
    *,
    kind: str,
    beta: float,
) -> Float[Array, "*b"]:
    """The divergence of k + 1 outcomes: the teacher's k most likely ids, and everything else as one."""
    listed = (top_logprobs, logprobs_of(student_logits, top_ids))
    teacher, student = (jnp.concatenate([top, _tail(top)], -1) for top in listed)
    return token_divergence(teacher, student, kind=kind, beta=beta)


def logprobs_of(logits: Float[Array, "*b V"], ids: Int[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Log-probability of each listed id, without writing the log-softmax of the whole vocabulary."""
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    total = jnp.log(jnp.sum(jnp.exp(logits - peak), -1, keepdims=True))
    return jnp.take_along_axis(logits, ids, -1) - peak - total


def fused(
    student: Decoder, teacher: Decoder | None, positions: Positions, *, objective: config.Objective, chunk: int
) -> dict[str, Float[Array, ""]]:
    """Float32 sums over the real positions: `loss`, what it is made of, and their `count`.

    `loss` is alpha * cross_entropy + (1 - alpha) * temperature^2 * divergence; `cross_entropy` is on `ids` at
    temperature 1; `kl` is KL(teacher || student) at the objective's temperature, for full and top_k targets.
    """
    check(objective, positions)

    leaves, structure = jax.tree.flatten(positions)
    parts = [_chunks(leaf, chunk) for leaf in leaves]

    def sums(part: list[Array]) -> dict[str, Array]:
        at = _blank(jax.tree.unflatten(structure, part))
        terms = _terms(student, teacher, at, objective)
        shown = {name: term if name == "loss" else jax.lax.stop_gradient(term) for name, term in terms.items()}
        shown["count"] = jnp.ones(at.real.shape)
        return {name: jnp.sum(term, where=at.real) for name, term in shown.items()}

    first = [part[0] for part in parts]
    if len(parts[0]) == 1:
        return sums(first)

    def add(total: dict[str, Array], part: list[Array]) -> tuple[dict[str, Array], None]:
        return jax.tree.map(jnp.add, total, jax.checkpoint(sums)(part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(sums, first))
    total, _ = jax.lax.scan(add, zeros, parts)
    return total


def chunk_size(rows: int, length: int) -> int:
    """Completion columns to score at once with so many rows on a device: equal chunks of about POSITIONS positions."""
    chunks = min(max(-(-rows * length // POSITIONS), 1), length)
    return -(-length // chunks)


def check(objective: config.Objective, positions: Positions | None = None) -> None:
    """Raises UserError for an objective that cannot be computed, or not from these positions."""
    if objective.kind == "cross_entropy":
        return
    if objective.targets == "sampled" and objective.kind != "forward_kl":
        raise config.UserError(
            f"objective.kind={objective.kind} needs the teacher's probabilities, and targets=sampled has only ids "
            "drawn from them; use kind=forward_kl, or targets=top_k or full"
        )
    if not (objective.temperature > 0 and 0 <= objective.alpha <= 1):
        raise config.UserError(
            f"objective.temperature={objective.temperature} must be above 0, and alpha={objective.alpha} in 0 .. 1"
        )
    if positions is None:
        return
    width = {"top_k": positions.top_ids.shape[-1], "sampled": positions.draws.shape[-1]}
    if (objective.targets == "full" and positions.teacher is None) or width.get(objective.targets) == 0:
        raise config.UserError(f"objective.targets={objective.targets}, but the rollouts were recorded without them")


def _terms(student: Decoder, teacher: Decoder | None, at: Positions, objective: config.Objective) -> dict[str, Any]:
    """Every term of the objective at each position of one chunk."""
    logits = _logits(student, at.hidden)
    hard = -logprobs_of(logits, at.ids[..., None])[..., 0]
    if objective.kind == "cross_entropy":
        return {"loss": hard, "cross_entropy": hard}
    soft, extra = _soft(_heated(logits, objective), teacher, at, objective)
    loss = objective.temperature**2 * soft
    if objective.alpha:
        loss = objective.alpha * hard + (1 - objective.alpha) * loss
    return {"loss": loss, "cross_entropy": hard} | extra


def _soft(logits: Array, teacher: Decoder | None, at: Positions, objective: config.Objective) -> tuple[Array, dict]:
    """The divergence from the kind of targets there is, and the metrics that come with it."""
    if objective.targets == "sampled":
        return -logprobs_of(logits, at.draws).mean(-1), {}
    if objective.targets == "top_k":
        soft, kl = (
            bucket_divergence(at.top_ids, at.top_logprobs, logits, kind=kind, beta=objective.beta)
            for kind in (objective.kind, "forward_kl")
        )
        masses = {
            "teacher_top_mass": jnp.exp(at.top_logprobs).sum(-1),
            "student_top_mass": jnp.exp(logprobs_of(logits, at.top_ids)).sum(-1),
        }
        return soft, {"kl": kl} | masses
    assert teacher is not None and at.teacher is not None
    wanted = jax.nn.log_softmax(_heated(jax.lax.stop_gradient(_logits(teacher, at.teacher)), objective))
    given = jax.nn.log_softmax(logits)
    soft, kl = (
        token_divergence(wanted, given, kind=kind, beta=objective.beta) for kind in (objective.kind, "forward_kl")
    )
    return soft, {"kl": kl}


def _logits(model: Decoder, hidden: Array) -> Array:
    return parallel.constrain(model.logits(hidden), "batch", "length", "vocab")


def _heated(logits: Array, objective: config.Objective) -> Array:
    return logits if objective.temperature == 1 else logits / objective.temperature


def _kl(p: Array, q: Array) -> Array:
    """KL(p || q) over the last axis, from log-probabilities; an outcome that p excludes adds nothing, whatever q is."""
    possible = p > -jnp.inf
    p, q = jnp.where(possible, p, 0.0), jnp.where(possible, q, 0.0)
    return jnp.sum(jnp.exp(p) * (p - q), -1, where=possible)


def _tail(top: Array) -> Array:
    """Log of the mass that listed log-probabilities leave; not below rounding, so that reverse KL stays bounded."""
    mass = jnp.minimum(jax.nn.logsumexp(top, -1, keepdims=True), -ROUNDING)
    return jnp.log(-jnp.expm1(mass))


def _blank(part: Positions) -> Positions:
    """The same with zeros at masked positions: nothing that stands there may reach a value or a gradient."""

    def one(x: Array) -> Array:
        return jnp.where(part.real.reshape(part.real.shape + (1,) * (x.ndim - 2)), x, jnp.zeros((), x.dtype))

    return jax.tree.map(one, part)


def _chunks(x: Array, chunk: int) -> Array:
    """[B, C, ...] -> [C / chunk, B, chunk, ...]; the last chunk is filled with zeros, which are masked positions."""
    filled = jnp.pad(x, ((0, 0), (0, -x.shape[1] % chunk), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(filled.reshape(x.shape[0], filled.shape[1] // chunk, chunk, *x.shape[2:]), 1, 0)
