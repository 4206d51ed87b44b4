"""The parts that both EasyDeL peers use: a random model of a request, and the device's peak memory."""

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
    """The device's peak memory; 0, which asks for the process's, if the device does not report it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
