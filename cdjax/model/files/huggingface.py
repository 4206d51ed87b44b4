"""A Hugging Face directory -> `Decoder`, and a `Decoder` -> a directory that transformers loads.

In and out: config.json, generation_config.json, safetensors files, tokenizer files. Pickle is never opened.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from cdjax.errors import UserError
from cdjax.model.architectures import config_from_spec, spec_from_config
from cdjax.model.decoder import Decoder
from cdjax.model.files import weights
from cdjax.model.spec import DecoderSpec

FLOATS = ("F64", "F32", "F16", "BF16")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 * 2**30


def read(directory: str | Path, mesh: jax.sharding.Mesh, *, dtype: str = "float32", remat: str = "dots") -> Decoder:
    """The decoder saved in a directory. Raises UserError naming every tensor that does not fit."""
    directory = Path(directory)
    spec = read_spec(directory)
    with contextlib.ExitStack() as files:
        tensors = {name: tensor for path in _files(directory) for name, tensor in _open(path, files).items()}
        shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items() if not _derived(name, spec)}
        weights.check(spec, shapes, directory)
        packed = [f"{name} ({tensors[name].get_dtype()})" for name in shapes if tensors[name].get_dtype() not in FLOATS]
        if packed:
            raise UserError(f"{directory} has tensors that are not floating point: {', '.join(packed)}")
        return weights.assemble(spec, lambda name: tensors[name][:], weights.Build(mesh, dtype, remat))


def read_spec(directory: Path) -> DecoderSpec:
    """The spec in a directory's config.json. Raises UserError for what the decoder does not compute."""
    try:
        return spec_from_config(_read_json(directory / "config.json"))
    except ValueError as error:
        raise UserError(f"{directory}: {error}") from error


def write(
    decoder: Decoder, tokenizer: PreTrainedTokenizerFast, directory: str | Path, *, stop_ids: Sequence[int] = ()
) -> None:
    """Writes float32 safetensors, config.json, generation_config.json, tokenizer and chat template.

    `stop_ids` end an answer; without them the tokenizer's end token does. Low-rank weights must be merged first.
    """
    if jax.tree.leaves(nnx.state(decoder, nnx.LoRAParam)):
        raise ValueError("the decoder still has low-rank weights: merge them before it is written")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("model*.safetensors*"):
        old.unlink()
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": list(stop_ids) or tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    _write_json(directory / "generation_config.json", special)
    _write_json(directory / "config.json", config_from_spec(decoder.spec) | special)
    tokenizer.save_pretrained(directory)
    settings = _read_json(directory / "tokenizer_config.json")
    if settings.get("tokenizer_class") == "TokenizersBackend":  # a name that only transformers 5 knows
        _write_json(directory / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    _write_shards(directory, decoder)


def stop_ids(directory: str | Path) -> list[int]:
    """The ids that end an answer, from generation_config.json or else config.json; empty if neither has them."""
    for name in ("generation_config.json", "config.json"):
        path = Path(directory) / name
        ids = _read_json(path).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return sorted(ids) if isinstance(ids, list) else [ids]
    return []


def _files(directory: Path) -> list[Path]:
    """The directory's safetensors files."""
    if (directory / INDEX).is_file():
        index = _read_json(directory / INDEX)
        if not isinstance(index.get("weight_map"), dict):
            raise UserError(f"{directory / INDEX} has no weight_map; download it again")
        names = sorted(set(index["weight_map"].values()))
        files = [directory / name for name in names]
        if missing := [path.name for path in files if not path.is_file()]:
            raise UserError(f"{directory} lacks {', '.join(missing)}, which its {INDEX} names")
        return files
    if (directory / WHOLE).is_file():
        return [directory / WHOLE]
    if list(directory.glob("*.bin")) or list(directory.glob("*.pt*")):
        raise UserError(f"{directory} has only pickled weights, which may run code; save it as safetensors")
    raise UserError(f"{directory} has no {WHOLE} and no {INDEX}")


def _open(path: Path, files: contextlib.ExitStack) -> dict[str, Any]:
    """The tensors of a file, not yet read."""
    try:
        file = files.enter_context(safe_open(path, "np"))
    except SafetensorError as error:
        raise UserError(f"{path} is truncated or not safetensors ({error}); download it again") from error
    return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _derived(name: str, spec: DecoderSpec) -> bool:
    """Whether some checkpoints hold this tensor although it follows from the others."""
    return name.endswith("rotary_emb.inv_freq") or (spec.tied and name == "lm_head.weight")


def _write_shards(directory: Path, decoder: Decoder) -> None:
    """Writes a file, or numbered files of about SHARD_BYTES with an index, one in the host's memory at a time."""
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in weights.expected(decoder.spec).items()}
    count = -(-sum(sizes.values()) // SHARD_BYTES)
    shard: dict[str, np.ndarray] = {}
    index: dict[str, str] = {}

    def flush() -> None:
        file = WHOLE if count == 1 else f"model-{len(set(index.values())) + 1:05}.safetensors"
        save_file(shard, directory / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, array in weights.named(decoder):
        if shard and sum(sizes[waiting] for waiting in shard) + sizes[name] > SHARD_BYTES:
            flush()
        shard[name] = array
    flush()
    if count > 1:
        _write_json(directory / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
