"""The parts that both Tunix peers use: a random model of a request, and the device's peak memory."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.qwen3 import model as qwen3


def model(request: dict[str, Any], remat: str = "NONE") -> qwen3.Qwen3:
    """A Qwen3 of the request's shape with random weights."""
    shape = request["shapes"]
    half = jnp.dtype(request["options"].get("dtype", "float32"))
    settings = qwen3.ModelConfig(
        num_layers=shape["layers"],
        vocab_size=shape["vocab"],
        embed_dim=shape["embed"],
        hidden_dim=shape["mlp"],
        num_heads=shape["heads"],
        head_dim=shape["head_dim"],
        num_kv_heads=shape["kv_heads"],
        rope_theta=10_000,
        norm_eps=1e-6,
        use_tied_embedding=True,
        remat_config=qwen3.RematConfig[remat],
        dtype=half,
        param_dtype=half,
    )
    return qwen3.Qwen3(settings, rngs=nnx.Rngs(0))


def peak_bytes() -> int:
    """The device's peak memory; 0, which asks for the process's, if the device does not report it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
