"""A .gguf file -> `Decoder`, dequantised to float32 while it is placed on the mesh.

In: a file as llama.cpp writes it. Out: its metadata, the spec and the weights. The tokenizer is in `tokenizer.py`.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from cdjax.errors import UserError
from cdjax.model.decoder import Decoder
from cdjax.model.files import weights
from cdjax.model.layers import frequencies
from cdjax.model.spec import DecoderSpec, RopeScaling

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
PERMUTED = ("llama", "mistral")  # llama.cpp interleaves the halves of each query and key head for these
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"
LLAMA_3: dict[str, Any] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_positions": 8192}


class _Reader(gguf.GGUFReader):
    """Slices a plain view of the mapped file: slices of a memmap take three times as long to make."""

    data = property(lambda self: self._view, lambda self, mapped: setattr(self, "_view", mapped.view(np.ndarray)))


class File:
    """An open .gguf file: metadata by key, tensors by their Hugging Face name."""

    def __init__(self, path: str | Path) -> None:
        """Raises UserError if the file is absent, truncated, or not GGUF."""
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"no such file: {path}")
        try:
            self._reader = _Reader(path)
        except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
            raise UserError(f"{path} is truncated or not a GGUF file ({error}); download it again") from error
        self.tensors = {hugging_face_name(tensor.name): tensor for tensor in self._reader.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value as a Python object."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def __getitem__(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise UserError(f"{self.path} has no metadata {key!r}")
        return value

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, in numpy's order."""
        return {name: tuple(int(size) for size in reversed(t.shape)) for name, t in self.tensors.items()}

    def array(self, name: str) -> np.ndarray:
        """A tensor in float32."""
        tensor = self.tensors[name]
        try:
            return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(f"{self.path}: {name} has type {tensor.tensor_type.name}, which is not read") from error


def read(file: File, build: weights.Build) -> Decoder:
    """The file's decoder. Raises UserError naming every tensor that does not fit."""
    spec = read_spec(file)
    shapes = file.shapes()
    shapes.pop(ROPE_FACTORS, None)
    weights.check(spec, shapes, file.path)
    permuted = file["general.architecture"] in PERMUTED
    return weights.assemble(spec, functools.partial(_fetch, file, spec, permuted), build)


def read_spec(file: File) -> DecoderSpec:
    """The spec in the file's metadata. Raises UserError for an architecture or a setting that is not computed."""
    architecture = file["general.architecture"]
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{file.path} has architecture {architecture!r}; those that can be read are {', '.join(ARCHITECTURES)}"
        )
    setting = functools.partial(_setting, file, architecture)
    shapes = file.shapes()
    embed, heads = setting("embedding_length"), setting("attention.head_count")
    spec = DecoderSpec(
        vocab=shapes.get("model.embed_tokens.weight", (0,))[0],
        embed=embed,
        layers=setting("block_count"),
        heads=heads,
        kv_heads=setting("attention.head_count_kv", heads),
        head_dim=setting("attention.key_length", embed // heads),
        mlp=setting("feed_forward_length"),
        max_positions=setting("context_length"),
        norm_eps=setting("attention.layer_norm_rms_epsilon"),
        rope_theta=setting("rope.freq_base", 10_000.0),
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in shapes,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in shapes,
        tied="lm_head.weight" not in shapes,
        window=setting("attention.sliding_window", 0) or None,
    )
    refused = {
        "scaled rotary positions": setting("rope.scaling.type", "none") != "none",
        "partial rotary positions": setting("rope.dimension_count", spec.head_dim) != spec.head_dim,
        "values of another size than keys": setting("attention.value_length", spec.head_dim) != spec.head_dim,
        "experts": setting("expert_count", 0) > 0,
    }
    if unsupported := [name for name, present in refused.items() if present]:
        raise UserError(f"{file.path} asks for what cdjax does not compute: {', '.join(unsupported)}")
    return _stretched(file, spec)


def _stretched(file: File, spec: DecoderSpec) -> DecoderSpec:
    """The spec with Llama 3.x's rotary scaling, if the file has a divisor for each rotary frequency.

    The divisors follow from a few numbers, which the file leaves out. Raises UserError if they follow from others.
    """
    if ROPE_FACTORS not in file.tensors:
        return spec
    factors = file.array(ROPE_FACTORS)
    scaled = dataclasses.replace(spec, rope_scaling=RopeScaling(float(factors.max()), **LLAMA_3))
    if not np.allclose(frequencies(spec) / factors, frequencies(scaled), rtol=1e-3, atol=0):
        raise UserError(f"{file.path} stretches rotary positions in another way than Llama 3.1 ({ROPE_FACTORS})")
    return scaled


def hugging_face_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; unknown names are unchanged."""
    prefix, layer = "", name
    if name.startswith("blk."):
        _, number, layer = name.split(".", 2)
        prefix = f"model.layers.{number}."
    stem, _, kind = layer.rpartition(".")
    return f"{prefix}{NAMES[stem]}.{kind}" if stem in NAMES else name


def _setting(file: File, architecture: str, key: str, *default: Any) -> Any:
    """A metadata value of the architecture. Raises UserError if it is missing and has no default."""
    value = file.get(f"{architecture}.{key}", *default) if default else file[f"{architecture}.{key}"]
    if isinstance(value, list):
        raise UserError(f"{file.path} has another {key} in every layer; cdjax wants one for all")
    return float(str(np.float32(value))) if isinstance(value, float) else value  # 1e-05, not 9.999999747e-06


def _fetch(file: File, spec: DecoderSpec, permuted: bool, name: str) -> np.ndarray:
    """A tensor in Hugging Face's order of rows."""
    array = file.array(name)
    if not permuted or ".self_attn.q_proj." not in name and ".self_attn.k_proj." not in name:
        return array
    heads = spec.heads if ".q_proj." in name else spec.kv_heads
    pairs = array.reshape(heads, spec.head_dim // 2, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)
