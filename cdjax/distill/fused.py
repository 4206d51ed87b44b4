"""Hidden states and soft targets at every completion position -> sums of the loss, and its gradient on the way.

Logits exist for one tile of positions at a time, and masked positions have none: on every device the real ones come
first, and the loop ends with them. The forward pass leaves behind the gradient with respect to the hidden states and
the vocabulary's weights, which the backward pass only scales: no product is made twice.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from cdjax import config, parallel
from cdjax.distill import losses
from cdjax.model.decoder import Decoder, Readout

POSITIONS = 128  # the fewest positions of a tile
OUTCOMES = 4096  # the fewest outcomes of a block, the part of the vocabulary whose gradient is made at a time

Cut: TypeAlias = Callable[..., Array]  # [n, V] -> [n, v], the columns of one block
Slope: TypeAlias = Callable[[Cut], Array]  # the derivative with respect to the logits of one block, [n, v]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Positions:
    """What the loss reads at every completion position. Soft targets that are not used may have width 0."""

    hidden: Float[Array, "*b D"]  # the student's
    teacher: Float[Array, "*b D"] | None  # the teacher's, for full targets
    ids: Int[Array, "*b"]
    real: Bool[Array, "*b"]  # the one loss mask
    top_ids: Int[Array, "*b k"]
    top_logprobs: Float[Array, "*b k"]  # at the objective's temperature
    draws: Int[Array, "*b n"]  # at the objective's temperature


def sums(
    student: Decoder,
    teacher: Decoder | None,
    positions: Positions,
    *,
    objective: config.Objective,
    tile: int | None = None,
) -> dict[str, Float[Array, ""]]:
    """Float32 sums over the real ones of [B, C] positions: `loss`, what it is made of, and their `count`.

    `loss` is alpha * cross_entropy + (1 - alpha) * temperature^2 * divergence; `cross_entropy` is on `ids` at
    temperature 1; `kl` is KL(teacher || student) at the objective's temperature, for full and top_k targets.
    Only `loss` has a gradient, for the hidden states and the weights of the student's logits. Every device makes the
    logits of `tile` positions at a time; by default they are a quarter as large as the gradient of the weights.
    """
    check(objective, positions)
    full = teacher is not None and objective.targets == "full" and objective.kind != "cross_entropy"
    wanted = teacher.readout() if teacher is not None and full else None
    parts = jax.tree.map(_apart, vars(positions) | {"teacher": positions.teacher if full else None})
    length = parts["real"].shape[1]
    tiles = -(-length // (tile or max(student.spec.embed // 4, POSITIONS)))
    tile = -(-length // tiles)
    parts = jax.tree.map(functools.partial(_filled, length=tiles * tile), parts)
    return _sums((objective, tile), parts.pop("hidden"), student.readout(), wanted, parts)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(how, hidden, out, wanted, parts):
    return _run(how, hidden, out, wanted, parts, gradient=False, of_weights=False)[0]


def _forward(how, hidden, out, wanted, parts):
    of_weights = out.weights.perturbed  # not those of a student whose adapter is all that trains
    hidden, out, wanted, parts = jax.tree.map(lambda x: x.value, (hidden, out, wanted, parts))
    found, change = _run(how, hidden, out, wanted, parts, gradient=True, of_weights=of_weights)
    return found, (change, out)


def _backward(how, saved, by):
    (hidden, weights), out = saved
    if isinstance(by["loss"], SymbolicZero):
        return None, None, None, None
    by_out = None if weights is None else dataclasses.replace(out, weights=weights * by["loss"])
    return (hidden * by["loss"]).astype(hidden.dtype), by_out, None, None


_sums.defvjp(_forward, _backward, symbolic_zeros=True)


def _run(how, hidden, out, wanted, parts, *, gradient, of_weights):
    """The sums, and d loss / d (hidden states [devices, M, D], weights), None where they are not asked for."""
    objective, tile = how
    given, wanted = out.gathered(), None if wanted is None else wanted.gathered()
    real = parts["real"]
    first = jnp.argsort(~real, 1, stable=True)

    def one(rows, hidden, parts, change):
        """Of one device: the sums over a tile, and `change` with the tile's part added."""
        at = _blank(jax.tree.map(lambda x: x[rows], Positions(hidden=hidden, **parts)))
        terms, slope = _terms(given, wanted, at, objective)
        found = {name: jnp.sum(term, where=at.real) for name, term in terms.items()}
        if gradient:
            by_hidden, by_weights = _pulled(given, at, slope, change[1])
            change = change[0].at[rows].set(by_hidden.astype(hidden.dtype), unique_indices=True), by_weights
        return found, change

    def add(i, carry):
        total, change = carry
        rows = jax.lax.dynamic_slice_in_dim(first, i * tile, tile, 1)
        found, change = parallel.on_each(one, rows, hidden, parts, change)
        return jax.tree.map(jnp.add, total, found), change

    devices = len(real)
    axes = ("batch", *_axes(out.layout, "act_embed"))
    by_weights = parallel.constrain(jnp.zeros((devices, *out.weights.shape)), *axes) if of_weights else None
    change = (jnp.zeros_like(hidden), by_weights) if gradient else None
    shapes, _ = jax.eval_shape(functools.partial(parallel.on_each, one), first[:, :tile], hidden, parts, change)
    total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, change = jax.lax.fori_loop(0, -(-real.sum(1).max() // tile), add, (total, change))
    if of_weights:
        change = change[0], parallel.constrain(change[1].sum(0), *_axes(out.layout, "embed"))
    return jax.tree.map(jnp.sum, total), change


def _pulled(given: Readout, at: Positions, slope: Slope, by_weights: Array | None) -> tuple[Array, Array | None]:
    """d loss / d hidden of a tile, and `by_weights` with d loss / d weights added, one block after the other."""
    axis, layout = given.layout.index("v"), given.layout
    size = given.weights.shape[axis]
    block = _block(size)

    def add(i, carry):
        by_hidden, by_weights = carry

        def cut(x: Array, axis: int = -1) -> Array:
            return x if block == size else jax.lax.dynamic_slice_in_dim(x, i * block, block, axis)

        by_logits = jnp.where(at.real[:, None], slope(cut), 0.0).astype(given.dtype)
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        by_hidden += product(f"nv,{layout}->nd", by_logits, cut(given.weights, axis))
        if by_weights is not None:
            here = cut(by_weights, axis) + product(f"nv,nd->{layout}", by_logits, at.hidden)
            by_weights = jax.lax.dynamic_update_slice_in_dim(by_weights, here, i * block, axis)
        return by_hidden, by_weights

    return jax.lax.fori_loop(0, size // block, add, (jnp.zeros(at.hidden.shape), by_weights))


def _terms(given: Readout, wanted: Readout | None, at: Positions, objective: config.Objective) -> tuple[dict, Slope]:
    """Every term of the objective at each position of a tile, and the slope of `loss`."""
    logits = parallel.constrain(given(at.hidden), "length", "vocab")
    logprobs, towards = _listed(logits, at.ids[:, None], 1.0)
    hard, slope = -logprobs[:, 0], towards(-jnp.ones(logprobs.shape))
    terms = {"loss": hard, "cross_entropy": hard, "count": jnp.ones(hard.shape)}
    if objective.kind != "cross_entropy":
        soft, soft_slope, extra = _soft(logits, wanted, at, objective)
        a, b = objective.alpha, (1 - objective.alpha) * objective.temperature**2
        terms |= extra | {"loss": a * hard + b * soft if a else b * soft}
        slope = _weighed(a, slope, b, soft_slope)
    if given.soft_cap is None:
        return terms, slope
    return terms, lambda cut: slope(cut) * (1 - jnp.square(cut(logits) / given.soft_cap))


def _soft(logits: Array, wanted: Readout | None, at: Positions, objective: config.Objective) -> tuple:
    """The divergence from the kind of targets there is, its slope, and the metrics that come with it."""
    if objective.targets == "full":
        assert wanted is not None and at.teacher is not None
        teacher = parallel.constrain(wanted(at.teacher), "length", "vocab")
        return _full(teacher, logits, objective)
    if objective.targets == "sampled":
        logprobs, towards = _listed(logits, at.draws, objective.temperature)
        return -logprobs.mean(-1), towards(jnp.full(logprobs.shape, -1 / logprobs.shape[-1])), {}
    logprobs, towards = _listed(logits, at.top_ids, objective.temperature)
    buckets = functools.partial(losses.bucket_divergence, at.top_logprobs, beta=objective.beta)
    soft, back = jax.vjp(functools.partial(buckets, kind=objective.kind), logprobs)
    extra = {
        "kl": buckets(logprobs, kind="forward_kl"),
        "teacher_top_mass": jnp.exp(at.top_logprobs).sum(-1),
        "student_top_mass": jnp.exp(logprobs).sum(-1),
    }
    return soft, towards(*back(jnp.ones(soft.shape))), extra


def _full(teacher: Array, student: Array, objective: config.Objective) -> tuple[Array, Slope, dict]:
    """The divergence between two rows of logits, its slope with respect to the student's, and forward KL."""
    p, q = (_normaliser(logits, objective.temperature) for logits in (teacher, student))
    kind, beta = objective.kind, objective.beta
    pull = losses.pull(p(teacher), q(student), kind=kind, beta=beta)
    soft, kl = (losses.token_divergence(p(teacher), q(student), kind=kind, beta=beta) for kind in (kind, "forward_kl"))

    def slope(cut: Cut) -> Array:
        by = losses.slope(p(cut(teacher)), q(cut(student)), pull, kind=kind, beta=beta)
        return by / objective.temperature

    return soft, slope, {"kl": kl}


def _listed(logits: Array, ids: Array, temperature: float) -> tuple[Array, Callable[[Array], Slope]]:
    """Log-probabilities of k ids [n, k], and what makes a slope of the derivatives with respect to them."""
    q = _normaliser(logits, temperature)

    def towards(by: Array) -> Slope:
        pulls = jnp.zeros_like(logits).at[jnp.arange(len(ids))[:, None], ids].add(by)
        mass = by.sum(-1, keepdims=True)
        return lambda cut: (cut(pulls) - mass * jnp.exp(q(cut(logits)))) / temperature

    return q(jnp.take_along_axis(logits, ids, -1)), towards


def _normaliser(logits: Array, temperature: float) -> Callable[[Array], Array]:
    """Turns any of the logits [n, V] into log-probabilities."""
    peak = logits.max(-1, keepdims=True)
    total = jnp.log(jnp.sum(jnp.exp((logits - peak) / temperature), -1, keepdims=True))
    return lambda some: (some - peak) / temperature - total


def _weighed(a: float, one: Slope, b: float, two: Slope) -> Slope:
    return lambda cut: a * one(cut) + b * two(cut) if a else b * two(cut)


def _axes(layout: str, embed: str) -> tuple[str, ...]:
    return tuple({"v": "vocab", "d": embed}[letter] for letter in layout)


def _block(vocab: int) -> int:
    """Outcomes of a block: equal blocks, so a divisor of the vocabulary; all where it is split over devices."""
    most = 1 if parallel.parts("vocab") > 1 else max(vocab // OUTCOMES, 1)
    return next(vocab // blocks for blocks in range(most, 0, -1) if vocab % blocks == 0)


def _blank(at: Positions) -> Positions:
    """The same with zeros at masked positions: nothing that stands there may reach a value or a gradient."""

    def one(x: Array) -> Array:
        return jnp.where(at.real.reshape(at.real.shape + (1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    return jax.tree.map(one, at)


def _apart(x: Array) -> Array:
    """[B, C, ...] -> [devices, B / devices * C, ...]."""
    x = parallel.apart(x)
    return x.reshape(len(x), x.shape[1] * x.shape[2], *x.shape[3:])


def _filled(x: Array, length: int) -> Array:
    """Zeros, which are masked positions, up to so many a device."""
    return jnp.pad(x, ((0, 0), (0, length - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
