"""The parts that all torch peers use: a random model of a request, a tokenizer for it, and steps of trainers."""

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import serve
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def model(request: dict[str, Any]) -> Qwen3ForCausalLM:
    """A Qwen3 of the request's shape with random weights, never ending an answer by itself."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    shape = request["shapes"]
    config = Qwen3Config(
        vocab_size=shape["vocab"],
        hidden_size=shape["embed"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["mlp"],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    dtype = getattr(torch, request["options"].get("dtype", "float32"))
    return Qwen3ForCausalLM._from_config(config, dtype=dtype, attn_implementation="sdpa").to(DEVICE)


def ids(vocab: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Random ids as a torch tensor."""
    return torch.from_numpy(serve.tokens(vocab, *shape, seed=seed)).long().to(DEVICE)


def tokenizer(vocab: int, folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of words `w0 w1 ...` separated by spaces: a text has as many tokens as words."""
    import tokenizers

    words = {f"w{i}": i for i in range(vocab)}
    base = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w1"))
    base.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=base, unk_token="w1", pad_token="w0", eos_token="w2")
    fast.save_pretrained(folder)
    return fast


def peak_bytes() -> int:
    """The GPU's peak memory; 0, which asks for the process's, without a GPU."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class Steps(TrainerCallback):
    """Has a trainer take a step for each request; its work outside of steps is not timed."""

    def __init__(self, stage: serve.Stage) -> None:
        self.stage = stage

    def on_step_begin(self, args, state, control, **rest):
        self.stage.go()

    def on_step_end(self, args, state, control, **rest):
        wait()
        self.stage.done(peak_bytes=peak_bytes())
