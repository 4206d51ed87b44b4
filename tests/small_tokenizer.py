"""A byte-level BPE tokenizer of a few hundred pieces, for tests of views and of f."""

import functools

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<s>", "<|im_start|>", "<|im_end|>"]
TEXTS = ["walk -> walked\nplay -> played\nFinal answer: 12. Final answer: 345.\n\n", "print(x)\n", "day -> days"]


@functools.cache
def make(
    *, adds_bos: bool = False, across_words: bool = False, template: str | None = CHATML
) -> PreTrainedTokenizerFast:
    """Variants: a rule that puts BOS before a text; pieces as ").\\n" that reach across words; a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [line for text in TEXTS for line in text.splitlines(keepends=True)] * 3 + ["\n\t\t"] * 9,
        trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    if adds_bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="<|im_end|>", chat_template=template
    )
