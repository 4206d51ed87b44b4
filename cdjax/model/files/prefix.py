"""Keys and values that stand before all that a model reads, as a file.

`prefix.safetensors` has "k" and "v", float32 [L, T, K, H] of T positions from 0 on, rotary positions applied, and in
its metadata "format" (cdjax prefix 1), "model" (the source of the decoder that reads after them), and lists with commas
between numbers: "stop_ids", and "layers", those of the model that the decoder has, in this order (empty: all).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cdjax.errors import UserError
from cdjax.model.cache import Prefix
from cdjax.model.decoder import Decoder

NAME = "prefix.safetensors"
FORMAT = "cdjax prefix 1"


class File(NamedTuple):
    """The contents of a prefix file."""

    k: Float[np.ndarray, "L T K H"]
    v: Float[np.ndarray, "L T K H"]
    model: str
    stop_ids: tuple[int, ...]
    layers: tuple[int, ...]  # of the model, in this order; empty: all

    def prefix(self, decoder: Decoder) -> Prefix:
        """The prefix in the decoder's dtype, on the mesh that the caller has entered.

        Raises UserError if its shape does not fit the decoder.
        """
        spec = decoder.spec
        shape = (spec.layers, len(self.k[0]), spec.kv_heads, spec.head_dim)
        if self.k.shape != shape or self.v.shape != shape:
            raise UserError(
                f"the prefix has keys {list(self.k.shape)} and values {list(self.v.shape)}, and {self.model} reads "
                f"after {list(shape)} (layers, positions, kv heads, head dim); give the model that it was trained with"
            )
        k, v = (jnp.asarray(np.moveaxis(x, 1, 2)[:, None], decoder.dtype) for x in (self.k, self.v))
        return jax.jit(Prefix.whole)(Prefix(k, v, jnp.array([len(self.k[0])], jnp.int32)))


def write(
    directory: Path,
    k: Float[Array, "L 1 K T H"],
    v: Float[Array, "L 1 K T H"],
    *,
    model: str,
    stop_ids: Sequence[int],
    layers: Sequence[int] = (),
) -> None:
    """Writes the prefix of a single context into the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(jax.device_get(x), np.float32)[:, 0] for name, x in (("k", k), ("v", v))}
    arrays = {name: np.ascontiguousarray(np.moveaxis(x, 1, 2)) for name, x in arrays.items()}
    metadata = {"format": FORMAT, "model": model}
    metadata |= {name: ",".join(map(str, ids)) for name, ids in (("stop_ids", stop_ids), ("layers", layers))}
    save_file(arrays, directory / NAME, metadata=metadata)


def find(source: str) -> Path | None:
    """The prefix file at the source, a file or a directory; None if there is none."""
    path = Path(source).expanduser()
    path = path / NAME if path.is_dir() else path
    return path if path.name == NAME and path.is_file() else None


def read(path: Path) -> File:
    """The contents of a prefix file. Raises UserError if it cannot be read, or is no prefix."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); export the student again") from error
    if metadata.get("format") != FORMAT or set(arrays) != {"k", "v"} or arrays["k"].ndim != 4:
        raise UserError(f"{path} is no prefix: wanted k and v of four axes, and the format {FORMAT!r} in its metadata")
    stop_ids, layers = (
        tuple(int(part) for part in metadata.get(name, "").split(",") if part) for name in ("stop_ids", "layers")
    )
    return File(arrays["k"], arrays["v"], metadata["model"], stop_ids, layers)
