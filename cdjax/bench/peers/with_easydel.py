"""What EasyDeL's two peers have in common: the model of a request, random, and how much memory a device has held."""

from typing import Any

import easydel
import jax
import jax.numpy as jnp
from flax import nnx


def model(request: dict[str, Any]) -> Any:
    """A Qwen3 of the request's shape with random weights."""
    shape = request["shapes"]
    half = jnp.dtype(request["options"].get("dtype", "float32"))
    settings = easydel.Qwen3Config(
        vocab_size=shape["vocab"],
        hidden_size=shape["embed"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["mlp"],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    settings.add_basic_configurations(attn_mechanism="sdpa", sharding_axis_dims=(1, 1, 1, 1, 1))
    return easydel.Qwen3ForCausalLM(settings, dtype=half, param_dtype=half, rngs=nnx.Rngs(0))


def peak_bytes() -> int:
    """The most memory of the device, where it says so; 0 asks for that of the process."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
