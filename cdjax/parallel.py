"""The device mesh, logical axes, and the functions that place arrays on the mesh.

In: the number of devices along each axis. Out: a `jax.sharding.Mesh` with axes (data, fsdp, tensor); `constrain` for
activations, `shardings` for parameters. Model code names logical axes only; `RULES` maps them to mesh axes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cdjax.errors import UserError

AXES = ("data", "fsdp", "tensor")
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "row": "data",  # rows of a batch in an array whose other axis is split over fsdp
    "every_device": ("data", "fsdp", "tensor"),  # rows of a batch in an array with no other split axis
    "length": None,
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "rank": None,
    "act_embed": None,
}


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """A mesh over the first devices; with `data=-1` that axis takes the devices that the other two leave.

    Raises UserError if the axes ask for more devices than there are, or if jax cannot use any.
    """
    try:
        available = jax.device_count()
    except (RuntimeError, AssertionError) as error:  # a backend that was asked for and is not installed
        raise UserError(f"jax finds no device: {error}; see JAX_PLATFORMS and which jax is installed") from None
    data = data if data != -1 else max(1, available // (fsdp * tensor))
    shape = (data, fsdp, tensor)
    if min(shape) < 1:
        raise UserError(f"mesh axes must be positive (data may be -1), got {dict(zip(AXES, shape, strict=True))}")
    if math.prod(shape) > available:
        raise UserError(
            f"mesh data={shape[0]} fsdp={shape[1]} tensor={shape[2]} needs {math.prod(shape)} devices, "
            f"this machine has {available}; make an axis of `mesh` smaller"
        )
    devices = jax.devices()[: math.prod(shape)]
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def spec(*axes: str) -> PartitionSpec:
    """Logical axis names -> PartitionSpec. An unknown name is a KeyError, never "replicate"."""
    return PartitionSpec(*(RULES[axis] for axis in axes))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """The activation, constrained to its logical axes on the current mesh (`jax.set_mesh`); size-1 axes stay whole."""
    split = (None if size == 1 else RULES[axis] for axis, size in zip(axes, x.shape, strict=True))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*split))


def apart(x: jax.Array) -> jax.Array:
    """[B, ...] -> [devices, B / devices, ...] on the current mesh, each device's rows of the batch along axis 1."""
    devices = 1 if len(x) == 1 else parts("batch")
    split = x.reshape(devices, len(x) // devices, *x.shape[1:])
    return constrain(split, "batch", *("length",) * x.ndim)


def on_each(function: Callable, *args: Any) -> Any:
    """`function` applied on every device to its part of `args`, which have the leading axis of `apart`."""
    devices = len(jax.tree.leaves(args)[0])
    return jax.vmap(function, spmd_axis_name=None if devices == 1 else RULES["batch"])(*args)


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """The NamedSharding of every leaf: parameters by their `axes`, anything else replicated.

    Works for a model, its state and its optimizer state alike, since the axes travel with the Variables.
    Raises UserError naming the axis when a dimension does not divide by its mesh axes.
    """

    def sharding(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.Variable):
            return NamedSharding(mesh, PartitionSpec())
        for axis, size in zip(leaf.axes, leaf.shape, strict=True):
            parts = _parts(axis, mesh)
            if size % parts:
                raise UserError(f"{axis}={size} cannot be split over {parts} devices; change mesh {RULES[axis]}")
        return leaf.replace(NamedSharding(mesh, spec(*leaf.axes)))

    return jax.tree.map(sharding, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def whole_rows(x: jax.Array) -> jax.Array:
    """[B, V] split over the vocabulary -> split over rows; unchanged if B is no multiple of the devices."""
    return constrain(x, "every_device", "length") if len(x) % parts("every_device") == 0 else x


def parts(axis: str) -> int:
    """The number of pieces that the current mesh splits a logical axis into."""
    return _parts(axis, jax.sharding.get_abstract_mesh())


def batch_parts(mesh: jax.sharding.Mesh) -> int:
    """The number of devices that a batch is split over: a global batch is a multiple of it."""
    return _parts("batch", mesh)


def place_batch(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Host arrays with a leading batch axis -> device arrays split over (data, fsdp), in one transfer."""
    return jax.device_put(tree, NamedSharding(mesh, spec("batch")))


def _parts(axis: str, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> int:
    names = RULES[axis] or ()
    return math.prod(mesh.shape.get(name, 1) for name in ((names,) if isinstance(names, str) else names))
