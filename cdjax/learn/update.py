"""Batches of pairs -> a trained student: a compiled step, and the loop around it.

In: `TrainState`, `PairBatch`. Out: the next `TrainState` and metrics as (sum, count).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cdjax import parallel
from cdjax.errors import UserError
from cdjax.lessons.pairs import PairBatch
from cdjax.losses import check, fused, misfits, reads_teacher, states
from cdjax.losses.loss import Term
from cdjax.losses.positions import Positions
from cdjax.model.reader import Reader
from cdjax.sampling.targets.target import Target
from cdjax.students import Student, Trainable

Metrics: TypeAlias = dict[str, tuple[Array, Array]]


@runtime_checkable
class Steps(Protocol):
    """Batches by step number, such as `batches.Batches`."""

    def __len__(self) -> int: ...
    def __getitem__(self, step: int) -> PairBatch: ...


class Later:
    """Batches whose steps are numbered from `before` on, the number of updates before them."""

    def __init__(self, batches: Steps, before: int) -> None:
        self._batches, self._before = batches, before

    def __len__(self) -> int:
        return self._before + len(self._batches)

    def __getitem__(self, step: int) -> PairBatch:
        return self._batches[step - self._before]


class Diverged(RuntimeError):
    """The loss or the gradient is not finite."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters, optimizer state and step: all that an update changes.

    `update` donates it: the arrays of its argument cannot be read afterwards.
    """

    params: Trainable
    opt_state: Any
    step: Any  # updates done, an int32 scalar: also the data cursor


def start(params: Trainable, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """A fresh state on the mesh, with a copy of `params`, since `update` donates them."""
    with jax.set_mesh(mesh):
        return jax.jit(functools.partial(_fresh, tx), out_shardings=_shardings(params, tx, mesh))(params)


def abstract(params: Trainable, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """The shapes and shardings of the state that `start` returns, for loading a checkpoint."""
    shapes = jax.eval_shape(functools.partial(_fresh, tx), params)

    def placed(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes, _shardings(params, tx, mesh))


def make_update(
    student: Student,
    tx: optax.GradientTransformation,
    targets: Target,
    losses: tuple[Term, ...],
    mesh: jax.sharding.Mesh,
) -> Callable[[TrainState, Any, Reader | None, PairBatch], tuple[TrainState, Metrics]]:
    """The compiled step `update(state, frozen, teacher, batch) -> (state, metrics)`; `state` is donated.

    `student` makes a reader of `state.params` and `frozen`, see students/. `teacher`, which has read the contexts that
    the batch is grouped by, is for full targets only, otherwise None. The gradient is that of the sum over the global
    batch divided by its number of tokens with a weight. A batch of more parts than devices is read in micro-batches,
    with the same gradient and the memory of a single part per device.
    Raises UserError for losses that need what the targets do not give.
    """
    check(losses, targets)

    @functools.partial(jax.jit, donate_argnames="state")
    def update(state, frozen, teacher, batch):
        count = jnp.maximum((batch.weight != 0).sum(), 1)

        def loss(params: Trainable, part: PairBatch) -> tuple[Array, dict[str, Array]]:
            reader = student.reader(params, frozen)
            return batch_loss(reader, teacher, part, targets=targets, losses=losses, over=count)

        place = functools.partial(_place, mesh=mesh)
        pieces = len(batch.weight) // parallel.batch_parts(mesh)
        grads, sums = _accumulate(jax.grad(loss, has_aux=True), state.params, batch, pieces, place)
        changes, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics = {name: (total, count) for name, total in sums.items() if name != "count"}
        metrics["grad_norm"] = (optax.tree.norm(grads), jnp.ones(()))
        return place(TrainState(optax.apply_updates(state.params, changes), opt_state, state.step + 1)), metrics

    return update


def batch_loss(
    student: Reader,
    teacher: Reader | None,
    batch: PairBatch,
    *,
    targets: Target,
    losses: tuple[Term, ...],
    over: Int[Array, ""] | int = 1,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch and the sums of its metrics, of `fused.loss` and `states.loss` together.

    The student reads `batch.student`, and for full targets the teacher reads `batch.teacher`. Raises UserError for
    losses that the targets or the models' shapes do not serve.
    """
    layers, teacher_layers = states.layers(losses)
    if teacher is not None and (wrong := list(misfits(losses, student.decoder.spec, teacher.decoder.spec))):
        raise UserError("; ".join(wrong))
    hidden, streams = student.states(batch.student, layers)
    teacher_hidden, teacher_streams = None, dict[int, Array]()
    if teacher is not None and reads_teacher(losses, targets):
        assert batch.teacher is not None
        teacher_hidden, teacher_streams = jax.lax.stop_gradient(teacher.states(batch.teacher, teacher_layers))
    positions = Positions(hidden, teacher_hidden, batch.ids, batch.weight, batch.targets, batch.temperature)
    head = None if teacher is None else teacher.decoder
    loss, sums = fused.loss(student.decoder, head, positions, targets=targets, losses=losses, over=over)
    if not layers:
        return loss, sums
    more, state_sums = states.loss(streams, teacher_streams, batch.weight, losses=losses, over=over)
    return loss + more, sums | state_sums | {"loss": sums["loss"] + state_sums["loss"]}


def train(
    update: Callable[[TrainState, PairBatch], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Steps,
    *,
    on_step: Callable[[int, dict[str, float]], None],
    save: Callable[[TrainState, int], None] | None = None,
    every: int = 0,
) -> TrainState:
    """Runs the steps from `state.step` to the end of `batches`, and returns the state after them.

    A step's metrics are read, and given to `on_step` with its number from 1, after the next step is dispatched, so that
    the device never waits. `save` gets a copy of the state after every `every` steps (0: never, and not after the
    last), while the next step runs, if the state's metrics are finite. Raises Diverged if any are not.
    """
    waiting: list[tuple[int, Metrics]] = []
    copied: tuple[TrainState, int] | None = None
    for step in range(int(state.step) + 1, len(batches) + 1):
        with jax.profiler.TraceAnnotation("prepare a batch"):
            batch = batches[step - 1]
        with jax.profiler.StepTraceAnnotation("update", step_num=step):
            state, metrics = update(state, batch)
        waiting.append((step, metrics))
        while len(waiting) > 1:
            _report(*waiting.pop(0), on_step)
        if save is not None and copied is not None:
            with jax.profiler.TraceAnnotation("save"):
                save(*copied)
        due = save is not None and every > 0 and step % every == 0 and step < len(batches)
        copied = (jax.tree.map(jnp.copy, state), step) if due else None
    for step, metrics in waiting:
        _report(step, metrics, on_step)
    return state


def _report(step: int, metrics: Metrics, on_step: Callable[[int, dict[str, float]], None]) -> None:
    with jax.profiler.TraceAnnotation("read the metrics"):
        values = {name: float(total) / float(count) for name, (total, count) in jax.device_get(metrics).items()}
    if not all(math.isfinite(values[name]) for name in ("loss", "grad_norm")):
        raise Diverged(
            f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; lower training.optim.lr, "
            "raise training.optim.warmup, or set training.optim.clip, in another --workdir. Checkpoints of earlier "
            "steps are untouched."
        )
    on_step(step, values)


def _accumulate(gradient: Callable, params: Trainable, batch: PairBatch, count: int, place: Callable) -> Any:
    """The sum of `gradient(params, part)` over `count` micro-batches of the batch."""
    if count == 1:
        return gradient(params, batch)
    leaves, structure = jax.tree.flatten(batch)
    whole = functools.partial(jax.tree.unflatten, structure)
    parts = [_pieces(leaf, count) for leaf in leaves]

    def add(total: Any, part: list[Array]) -> tuple[Any, None]:
        grads, sums = jax.tree.map(jnp.add, total, gradient(params, whole(part)))
        return (place(grads), sums), None

    shapes = jax.eval_shape(gradient, params, whole([part[0] for part in parts]))
    return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), parts)[0]


def _pieces(x: Array, count: int) -> Array:
    """[B, ...] -> [count, B / count, ...], every count-th row in a micro-batch, so that no row changes its device."""
    apart = jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)
    return parallel.constrain(apart, "length", "batch", *("length",) * (x.ndim - 1))


def _fresh(tx: optax.GradientTransformation, params: Trainable) -> TrainState:
    return TrainState(jax.tree.map(jnp.copy, params), tx.init(params), jnp.int32(0))


def _shardings(params: Trainable, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    return parallel.shardings(jax.eval_shape(functools.partial(_fresh, tx), params), mesh)


def _place(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Constrains every leaf to the sharding of its logical axes, so that the states of all steps have the same."""
    return jax.lax.with_sharding_constraint(tree, parallel.shardings(tree, mesh))
