"""Named checkpoint tensors <-> the decoder's stacked parameters on a mesh.

In: a function from a tensor's Hugging Face name to its array. Out: a `Decoder`; and from a decoder the tensors by name.
`TABLE` alone relates the two layouts; it is read in both directions.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdjax import parallel
from cdjax.errors import UserError
from cdjax.model import decoder, precision
from cdjax.model.decoder import Decoder
from cdjax.model.spec import DecoderSpec

Fetch = Callable[[str], np.ndarray]
Path = tuple[str, ...]
SHOWN = 10  # wrong tensors in one message


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The checkpoint tensors that a parameter of the decoder is stacked from: an entry of the table.

    Checkpoints store a projection as [out, in] and merge heads with head_dim; the decoder's is [*in, *out]. `contract`
    is the decoder's number of input axes; 0 means that the tensor is not a projection and is not transposed.
    """

    name: str  # with {} for the layer
    contract: int = 0

    @property
    def per_layer(self) -> bool:
        return "{}" in self.name

    def names(self, layers: int) -> list[str]:
        """The checkpoint's tensors, in the order of the decoder's layers."""
        return [self.name.format(layer) for layer in range(layers)] if self.per_layer else [self.name]

    def outer_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The decoder's shape of a layer -> the checkpoint's."""
        if self.contract:
            return math.prod(shape[self.contract :]), math.prod(shape[: self.contract])
        return shape if self.name.endswith("embed_tokens.weight") else (math.prod(shape),)

    def read(self, outer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The checkpoint's array of a layer -> the decoder's."""
        return (outer.T if self.contract else outer).reshape(shape)

    def write(self, inner: np.ndarray) -> np.ndarray:
        """The decoder's array of a layer -> the checkpoint's."""
        if self.contract:
            rows, columns = self.outer_shape(inner.shape)
            return inner.reshape(columns, rows).T
        return inner.reshape(self.outer_shape(inner.shape))


TABLE: dict[Path, Tensor] = {
    ("embedding",): Tensor("model.embed_tokens.weight"),
    ("blocks", "attention_norm", "scale"): Tensor("model.layers.{}.input_layernorm.weight"),
    ("blocks", "attention", "q", "w"): Tensor("model.layers.{}.self_attn.q_proj.weight", contract=1),
    ("blocks", "attention", "k", "w"): Tensor("model.layers.{}.self_attn.k_proj.weight", contract=1),
    ("blocks", "attention", "v", "w"): Tensor("model.layers.{}.self_attn.v_proj.weight", contract=1),
    ("blocks", "attention", "q", "bias"): Tensor("model.layers.{}.self_attn.q_proj.bias"),
    ("blocks", "attention", "k", "bias"): Tensor("model.layers.{}.self_attn.k_proj.bias"),
    ("blocks", "attention", "v", "bias"): Tensor("model.layers.{}.self_attn.v_proj.bias"),
    ("blocks", "attention", "q_norm", "scale"): Tensor("model.layers.{}.self_attn.q_norm.weight"),
    ("blocks", "attention", "k_norm", "scale"): Tensor("model.layers.{}.self_attn.k_norm.weight"),
    ("blocks", "attention", "o", "w"): Tensor("model.layers.{}.self_attn.o_proj.weight", contract=2),
    ("blocks", "mlp_norm", "scale"): Tensor("model.layers.{}.post_attention_layernorm.weight"),
    ("blocks", "gate", "w"): Tensor("model.layers.{}.mlp.gate_proj.weight", contract=1),
    ("blocks", "up", "w"): Tensor("model.layers.{}.mlp.up_proj.weight", contract=1),
    ("blocks", "down", "w"): Tensor("model.layers.{}.mlp.down_proj.weight", contract=1),
    ("final_norm", "scale"): Tensor("model.norm.weight"),
    ("head",): Tensor("lm_head.weight", contract=1),
}


@dataclasses.dataclass(frozen=True)
class Build:
    """The settings of a decoder beside its spec and weights."""

    mesh: jax.sharding.Mesh
    dtype: str = "float32"  # of the computation, or "auto", see `precision.choose`; weights stay float32
    remat: str = "dots"

    def random(self, spec: DecoderSpec, seed: int) -> Decoder:
        """A randomly initialised decoder on the mesh, see `decoder.create`."""
        return decoder.create(spec, self.mesh, seed=seed, dtype=jnp.dtype(self.computed_in(spec)), remat=self.remat)

    def computed_in(self, spec: DecoderSpec) -> str:
        """The dtype of the computation; "auto" is measured."""
        return precision.choose(spec)["dtype"] if self.dtype == "auto" else self.dtype

    def fresh(self, spec: DecoderSpec, key: jax.Array) -> Decoder:
        """A randomly initialised decoder; under `jax.eval_shape` only its shapes."""
        return Decoder(spec, rngs=nnx.Rngs(params=key), dtype=jnp.dtype(self.dtype), remat=self.remat)


def expected(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a checkpoint of this spec."""
    abstract = jax.eval_shape(lambda key: Decoder(spec, rngs=nnx.Rngs(params=key)), jax.random.key(0))
    shapes: dict[str, tuple[int, ...]] = {}
    for path, variable in _variables(abstract):
        tensor = TABLE[path]
        shape = variable.shape[1:] if tensor.per_layer else variable.shape
        shapes |= dict.fromkeys(tensor.names(spec.layers), tensor.outer_shape(shape))
    return shapes


def check(spec: DecoderSpec, shapes: dict[str, tuple[int, ...]], path: Any) -> None:
    """Raises UserError naming every tensor of a checkpoint that is missing, unknown, or of another shape."""
    needed = expected(spec)
    missing = [f"{name} is missing" for name in needed if name not in shapes]
    wrong = [
        f"{name} has shape {list(shapes[name])}, wanted {list(shape)}"
        for name, shape in needed.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    unknown = [f"{name} is unknown to this architecture" for name in shapes if name not in needed]
    if mistakes := [*missing, *wrong, *unknown]:
        rest = [f"and {len(mistakes) - SHOWN} more"] if len(mistakes) > SHOWN else []
        raise UserError(f"{path} does not hold the model that it describes: " + "; ".join(mistakes[:SHOWN] + rest))


def assemble(spec: DecoderSpec, fetch: Fetch, build: Build) -> Decoder:
    """The decoder of fetched tensors, each read once; a device, and the host, hold only their parts of a parameter."""
    build = dataclasses.replace(build, dtype=build.computed_in(spec))
    graph, abstract = nnx.split(jax.eval_shape(functools.partial(build.fresh, spec), jax.random.key(0)))
    shardings = parallel.shardings(abstract, build.mesh)

    def read(path: Any, variable: nnx.Variable, sharding: nnx.Variable) -> nnx.Variable:
        tensor = TABLE[_keys(path)]
        stack = _stack(tensor, tensor.names(spec.layers), variable.shape, sharding.get_value(), fetch)
        return variable.replace(stack)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(read, abstract, shardings, is_leaf=_is_variable))


def named(decoder: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    """The decoder's weights under their checkpoint names and layout, one parameter on the host at a time."""
    for path, variable in _variables(decoder):
        tensor, whole = TABLE[path], np.asarray(variable.get_value())
        layers = whole if tensor.per_layer else whole[None]
        for name, layer in zip(tensor.names(decoder.spec.layers), layers, strict=True):
            yield name, np.ascontiguousarray(tensor.write(layer))


def _stack(
    tensor: Tensor, names: list[str], shape: tuple[int, ...], sharding: jax.sharding.Sharding, fetch: Fetch
) -> jax.Array:
    """The parameter stacked from each layer's tensor; only the parts that this host's devices hold are kept.

    A part is named by the text of its index, `cut`: slices are not hashable in Python 3.11.
    """
    cuts = {str(cut): cut for cut in sharding.addressable_devices_indices_map(shape).values() if cut is not None}
    parts = {key: np.empty(np.broadcast_to(False, shape)[cut].shape, np.float32) for key, cut in cuts.items()}
    for layer, name in enumerate(names):
        whole = tensor.read(fetch(name), shape[1:] if tensor.per_layer else shape)
        for key, cut in cuts.items():
            if tensor.per_layer:
                parts[key][layer] = whole[cut[1:]]
            else:
                parts[key][...] = whole[cut]
    return jax.make_array_from_callback(shape, sharding, lambda cut: parts[str(cut)])


def _variables(tree: Any) -> list[tuple[Path, nnx.Variable]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.state(tree, nnx.Param), is_leaf=_is_variable)
    return [(_keys(path), leaf) for path, leaf in leaves]


def _keys(path: Any) -> Path:
    return tuple(str(part.key) for part in path)


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)
