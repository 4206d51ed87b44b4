"""Tokenizers from a Hugging Face directory or from a .gguf file's metadata, without torch.

Out: a transformers fast tokenizer with its chat template, which `huggingface.write` can save again.
"""

import os
from pathlib import Path

os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would say that torch is missing

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cdjax.errors import UserError
from cdjax.model.files import gguf

CONTROL, USER_DEFINED = 3, 4  # token types in GGUF
WORDS = (  # how Llama 3 and Qwen2 cut text before merging; they differ in how many digits stay together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def load(directory: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in a directory; nothing is downloaded and no remote code runs.

    tokenizer.json is read without AutoTokenizer: transformers 5 rebuilds it for some classes and loses steps, as
    SmolLM2's, read as a GPT2Tokenizer, which no longer splits digits.
    """
    reader = PreTrainedTokenizerFast if (Path(directory) / "tokenizer.json").is_file() else AutoTokenizer
    try:
        tokenizer = reader.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory} has no tokenizer that can be read: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{directory} has no tokenizer.json; save its tokenizer as a fast one first")
    return tokenizer


def from_gguf(file: gguf.File) -> PreTrainedTokenizerFast:
    """The tokenizer that a .gguf file describes."""
    kind = file["tokenizer.ggml.model"]
    if kind != "gpt2":
        raise UserError(f"{file.path} has a {kind!r} tokenizer; from GGUF only 'gpt2' (byte-level BPE) is read")
    pieces = file["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in file["tokenizer.ggml.merges"]]
    before = file.get("tokenizer.ggml.pre", "default")
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, ignore_merges=before == "llama-bpe")
    )
    tokenizer.normalizer = normalizers.NFC() if before == "qwen2" else None
    tokenizer.pre_tokenizer = _pre_tokenizer(file.path, before)
    tokenizer.decoder = decoders.ByteLevel()
    for piece, token_type in zip(pieces, file["tokenizer.ggml.token_type"], strict=True):
        if token_type in (CONTROL, USER_DEFINED):
            tokenizer.add_tokens([AddedToken(piece, normalized=False, special=token_type == CONTROL)])
    roles = {role: pieces[token_id] for role, token_id in _roles(file).items()}
    if file.get("tokenizer.ggml.add_bos_token", before == "llama-bpe") and "bos_token" in roles:
        bos = roles["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0",
            pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.token_to_id(bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=file.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **roles,
    )


def end_ids(file: gguf.File) -> list[int]:
    """The ids that end an answer, as the file declares them."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    declared = (file.get(f"tokenizer.ggml.{key}") for key in keys)
    return sorted({token_id for token_id in declared if token_id is not None})


def _roles(file: gguf.File) -> dict[str, int]:
    """The ids of special tokens by transformers' names for them."""
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {role: file.get(f"tokenizer.ggml.{key}_token_id") for role, key in keys.items()}
    return {role: token_id for role, token_id in ids.items() if token_id is not None}


def _pre_tokenizer(path: Path, name: str) -> pre_tokenizers.PreTokenizer:
    def by_words(digits: str) -> list[pre_tokenizers.PreTokenizer]:
        split = pre_tokenizers.Split(Regex(WORDS.replace("DIGITS", digits)), behavior="isolated")
        return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known: dict[str, list[pre_tokenizers.PreTokenizer]] = {
        "gpt-2": [gpt2],
        "default": [gpt2],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), gpt2],
        "llama-bpe": by_words("{1,3}"),
        "qwen2": by_words(""),
    }
    if name not in known:
        raise UserError(f"{path} splits text by {name!r}; those that can be read are {', '.join(known)}")
    return pre_tokenizers.Sequence(known[name])
