"""A small random decoder that reads a digit as one token, written as a Hugging Face directory.

In: a size and a seed. Out: a directory for `Experiment.model`.
"""

import random
from pathlib import Path

import jax
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cdjax import parallel
from cdjax.model import decoder
from cdjax.model.files import huggingface
from cdjax.model.spec import DecoderSpec
from cdjax.tasks import addition
from experiments.paper.scratchpad.config import REQUEST

PIECES = 320  # 256 bytes, digits with and without a space before them, and the words of a scratch-pad
SPREAD = 4.0  # times 0.02: near one over the square root of the width, so that a context matters from the start


def write(directory: Path, seed: int, *, embed: int = 64, layers: int = 4) -> str:
    """The directory, with the model of this size and seed in it."""
    if directory.is_dir():
        return str(directory)
    words = tokenizer()
    heads = embed // 16
    spec = DecoderSpec(PIECES, embed, layers, heads, heads, 16, 4 * embed, qk_norm=True)
    model = decoder.create(spec, parallel.make_mesh(), seed=seed)
    model = jax.tree.map(lambda leaf: leaf if leaf.ndim < 3 else leaf * SPREAD, model)
    part = directory.with_suffix(".part")
    huggingface.write(model, words, part)
    return str(part.replace(directory))  # a killed run leaves no half model under this name


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pieces of a digit or a word with the space before it, learned from scratch-pads."""
    pieces = Tokenizer(models.BPE())
    apart = pre_tokenizers.Split(Regex(r" ?\d| ?[^\s\d]+|\s"), behavior="isolated")
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [apart, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    pieces.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    pads = [addition.steps(rng.randrange(100, 1000), rng.randrange(100, 1000)) for _ in range(500)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(
        [f"{pad}\n{REQUEST}" for pad in pads],
        trainers.BpeTrainer(
            vocab_size=PIECES, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<end>", clean_up_tokenization_spaces=False)
