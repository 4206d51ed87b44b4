"""The shape of a decoder, and the package's one legend of dimension letters.

Of a decoder: D embed, N heads, K kv heads, g query heads of a kv head (N / K), H head dim, F mlp, V vocab, L layers,
R adapter rank.

Of what it reads: B rows of a batch, T tokens (columns) of a row that are read together, S columns of a cache or keys
that queries see, G contexts (shared prefixes, or the members of an ensemble), P tokens of a context, C tokens of a
completion.

Of sampling: A rows of the batch that are refilled or collected together, d drafted tokens, u random numbers of a row.

Of training: X parts of a batch (one for each device and micro-batch), M rows of one context in a part.

Of a loss: n positions, k ids listed at a position, o outcomes that two distributions are compared over, v outcomes of
a block of the vocabulary, l layers chosen among L, E the teacher's D.

`*b` stands for any leading axes, `_` for a length that nothing else shares. What only one function knows has a word.
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
    """The shape of a Llama 2/3.x, SmolLM2, Mistral, Qwen2/2.5 (`qkv_bias`) or Qwen3 (`qk_norm`) decoder."""

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
