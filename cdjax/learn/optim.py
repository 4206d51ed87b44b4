"""Optim -> an optax transformation: clip, AdamW, schedule.

In: the configuration and the number of steps. Out: a `GradientTransformation` over nnx parameter states.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cdjax.errors import UserError
from cdjax.learn import Optim

# Axes that do not count when vectors are told from matrices: a bias over heads x head_dim is a vector, and so are the
# keys of a prefix at each position.
NOT_A_SIDE = {"layers", "head_dim", "length"}


def make(cfg: Optim, steps: int) -> optax.GradientTransformation:
    """AdamW (0.9, 0.999, 1e-8) under `schedule(cfg, steps)`, after clipping by global norm if `cfg.clip` > 0.

    The learning rate is part of the state: updates that differ in nothing else are compiled once. Raises UserError, see
    `check`.
    """
    shape = schedule(dataclasses.replace(cfg, lr=1.0), steps)

    def descent(lr: Any) -> optax.GradientTransformation:
        adamw = optax.adamw(
            lambda step: lr * shape(step), b1=0.9, b2=0.999, eps=1e-8, weight_decay=cfg.weight_decay, mask=decay_mask
        )
        return optax.chain(optax.clip_by_global_norm(cfg.clip), adamw) if cfg.clip else adamw

    check(cfg)
    return optax.inject_hyperparams(descent)(lr=cfg.lr)


def schedule(cfg: Optim, steps: int) -> optax.Schedule:
    """Learning rate of step 0 .. steps - 1: linear warm-up that never is 0, then constant or down to 0 at `steps`."""
    check(cfg)
    decay_steps = max(steps - cfg.warmup, 1)
    decay = {
        "constant": optax.constant_schedule(cfg.lr),
        "linear": optax.linear_schedule(cfg.lr, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(cfg.lr, decay_steps),
    }[cfg.schedule]
    if not cfg.warmup:
        return decay
    warmup = optax.linear_schedule(cfg.lr / cfg.warmup, cfg.lr, max(cfg.warmup - 1, 1))
    return optax.join_schedules([warmup, decay], [cfg.warmup])


def check(cfg: Optim) -> None:
    """Raises UserError for a learning rate, warm-up, decay or clip that is negative or not finite."""
    for name in ("lr", "warmup", "weight_decay", "clip"):
        value = getattr(cfg, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"optim.{name}={value} must be a finite number that is not negative")


def rates(cfg: Optim, steps: int) -> list[float]:
    """The learning rate of every step, computed before training: a computation during a step would wait for it."""
    return np.broadcast_to(schedule(cfg, steps)(jnp.arange(steps)), steps).tolist()


def decay_mask(params: Any) -> Any:
    """True for matrices, False for norms, biases and the embedding, by each parameter's logical axes."""

    def decayed(variable: nnx.Variable) -> nnx.Variable:
        sides = [axis for axis in variable.axes if axis not in NOT_A_SIDE]
        return variable.replace(len(sides) > 1 and sides[0] != "vocab")

    return jax.tree.map(decayed, params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
