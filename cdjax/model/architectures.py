"""config.json of a Hugging Face model <-> `DecoderSpec`.

In: the parsed JSON, as transformers 4 or 5 writes it. A setting that the decoder does not compute is refused by name.
"""

from typing import Any

from cdjax.errors import UserError
from cdjax.model.spec import DecoderSpec, RopeScaling

MODEL_TYPES = {  # SmolLM and SmolLM2 are Llama
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
DEFAULT_WINDOW = 4096  # Mistral's, when its config does not say
DEFAULT_HEAD_DIM = 128  # Qwen3's


def spec_from_config(values: dict[str, Any]) -> DecoderSpec:
    """The spec of a config.json. Raises UserError naming each setting that is missing or not computed."""
    kind = _model_type(values)
    if missing := [key for key in NEEDED if key not in values]:
        raise UserError(f"config.json lacks {', '.join(missing)}")
    embed, heads, layers = (values[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    rope = _rope(values)
    window, mixed = _window(kind, values, layers)
    if unsupported := [*_unsupported(kind, values, rope), *mixed]:
        raise UserError(f"config.json asks for what cdjax does not compute: {', '.join(unsupported)}")
    head_dim = values.get("head_dim") or (DEFAULT_HEAD_DIM if kind == "qwen3" else embed // heads)
    return DecoderSpec(
        vocab=values["vocab_size"],
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        mlp=values["intermediate_size"],
        max_positions=values.get("max_position_embeddings", 2048),
        norm_eps=values.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=_scaling(rope, values),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        tied=bool(values.get("tie_word_embeddings", False)),
        window=window,
    )


def config_from_spec(spec: DecoderSpec) -> dict[str, Any]:
    """A config.json that transformers 4 and 5 read. Raises ValueError for a spec that no Hugging Face family has."""
    if spec.qkv_bias and spec.qk_norm:
        raise ValueError("no Hugging Face architecture has query biases and query norms at once")
    kind = "qwen3" if spec.qk_norm else "qwen2" if spec.qkv_bias else "mistral" if spec.window else "llama"
    values: dict[str, Any] = {
        "architectures": [next(name for name, model_type in MODEL_TYPES.items() if model_type == kind)],
        "model_type": kind,
        "dtype": "float32",
        "vocab_size": spec.vocab,
        "hidden_size": spec.embed,
        "intermediate_size": spec.mlp,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.max_positions,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied,
        **_rope_values(spec),
    }
    if kind == "mistral":
        values["sliding_window"] = spec.window
    if kind in ("qwen2", "qwen3") and spec.window:
        values |= {"use_sliding_window": True, "sliding_window": spec.window, "max_window_layers": 0}
    return values


def _model_type(values: dict[str, Any]) -> str:
    named = values.get("architectures") or []
    kind = MODEL_TYPES.get(named[0]) if named else values.get("model_type")
    if kind not in MODEL_TYPES.values():
        architecture = named[0] if named else values.get("model_type")
        raise UserError(f"architecture {architecture!r} is not one of {', '.join(MODEL_TYPES)}")
    return str(kind)


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """Rotary settings under transformers 5's names; version 4 has them in `rope_theta` and `rope_scaling`."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or values.get("rope_theta") or 10_000.0
    return rope | {"rope_type": rope.get("rope_type", rope.get("type", "default")), "rope_theta": theta}


def _rope_values(spec: DecoderSpec) -> dict[str, Any]:
    scaling = None
    if spec.rope_scaling is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": spec.rope_scaling.factor,
            "low_freq_factor": spec.rope_scaling.low_freq_factor,
            "high_freq_factor": spec.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": spec.rope_scaling.original_max_positions,
        }
    parameters = {"rope_theta": spec.rope_theta, **(scaling or {"rope_type": "default"})}
    return {"rope_parameters": parameters, "rope_theta": spec.rope_theta, "rope_scaling": scaling}


def _scaling(rope: dict[str, Any], values: dict[str, Any]) -> RopeScaling | None:
    if rope["rope_type"] == "default":
        return None
    original = rope.get("original_max_position_embeddings") or values["max_position_embeddings"]
    return RopeScaling(float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"]), original)


def _window(kind: str, values: dict[str, Any], layers: int) -> tuple[int | None, list[str]]:
    """The sliding window of all layers, and an unsupported setting if only some layers have a window."""
    if kind == "mistral":
        return values.get("sliding_window", DEFAULT_WINDOW), []
    if not kind.startswith("qwen") or not values.get("use_sliding_window") or not values.get("sliding_window"):
        return None, []
    first = values.get("max_window_layers", 28)
    types = values.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * (layers - first)
    sliding = [name == "sliding_attention" for name in types[:layers]]
    if not any(sliding):
        return None, []
    return values["sliding_window"], [] if all(sliding) else ["a sliding window in some layers only"]


def _unsupported(kind: str, values: dict[str, Any], rope: dict[str, Any]) -> list[str]:
    """The settings that the decoder does not compute."""
    refused = {
        f"rope type {rope['rope_type']!r}": rope["rope_type"] not in ("default", "llama3"),
        "partial rotary positions": rope.get("partial_rotary_factor", 1.0) != 1.0,
        "attention_bias": kind != "qwen2" and values.get("attention_bias"),
        "mlp_bias": values.get("mlp_bias"),
        f"hidden_act {values.get('hidden_act')!r}": values.get("hidden_act", "silu") != "silu",
        "quantized weights (quantization_config)": values.get("quantization_config"),
    }
    return [setting for setting, present in refused.items() if present]
