"""The shape of a decoder, and the package's one legend of dimension letters.

B batch, T query length, S cache slots, P prefix (shared context), C completion, D embed, N heads, K kv heads,
H head dim, F mlp, V vocab, R adapter rank, L layers, l layers chosen among them, n positions, M positions of
a device, k ids listed at a position, o outcomes, v outcomes of a block.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.x rotary scaling: long wavelengths are stretched by `factor`, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """One spec for Llama 2/3.x, SmolLM2, Mistral, Qwen2/2.5 (`qkv_bias`) and Qwen3 (`qk_norm`)."""

    vocab: int
    embed: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    max_positions: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = True  # the output head is the embedding
    logit_soft_cap: float | None = None  # logits are cap * tanh(logits / cap)
    window: int | None = None  # sliding-window attention: a token sees this many tokens, itself included

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for rotary positions")
