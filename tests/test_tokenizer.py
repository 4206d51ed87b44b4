"""A tokenizer through a .gguf file cuts text as the original does, and every text comes back whole."""

import json

import gguf as library
import pytest
from fixtures import gguf_file
from tokenizers import Tokenizer, models
from transformers import AddedToken, GPT2Tokenizer, Qwen2Tokenizer

from cdjax import config
from cdjax.model.files import gguf, source, tokenizer

TEXTS = (
    "The capital of France is Paris.",
    "  two  spaces\n\n\nand\tlines \r\n ",
    "it's 12:30, we've 1234567 of 3.14",
    "don't SHOUT: I'LL",
    "é ü ñ 日本語 🙂 e\u0301",
    "def f(x):\n    return x**2  # done",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
)


@pytest.fixture(scope="module")
def words():
    return tokenizer.load(source.DATA / "tiny")


def through_gguf(path, words, pre, **metadata):
    writer = library.GGUFWriter(path / "words.gguf", "llama")
    gguf_file.add_tokenizer(writer, words.backend_tokenizer, pre=pre)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)
    writer.add_chat_template(words.chat_template)
    for key, value in metadata.items():
        getattr(writer, key)(value)
    gguf_file.finish(writer)
    return gguf.File(path / "words.gguf")


def pieces(words, text):
    """How a text is cut before merging."""
    return [piece for piece, _ in words.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def test_smollm_pieces_template_and_special_tokens_survive(words, tmp_path):
    again = tokenizer.from_gguf(through_gguf(tmp_path, words, "smollm"))
    for text in TEXTS:
        assert pieces(again, text) == pieces(words, text)
        assert again.encode(text) == words.encode(text)
        assert again.decode(again.encode(text)) == text
    turn = [{"role": "user", "content": "Hi"}]
    chat = again.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert again.encode(chat)[0] == 1 and again.decode(again.encode(chat), skip_special_tokens=True).startswith("user")
    roles = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [getattr(again, role) for role in roles] == [getattr(words, role) for role in roles]


@pytest.mark.parametrize(
    ("pre", "theirs"), [("gpt-2", GPT2Tokenizer), ("default", GPT2Tokenizer), ("qwen2", Qwen2Tokenizer)]
)
def test_text_is_cut_as_transformers_own_class_cuts_it(pre, theirs, words, tmp_path):
    again = tokenizer.from_gguf(through_gguf(tmp_path, words, pre))
    model = json.loads(words.backend_tokenizer.to_str())["model"]
    original = theirs(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    original.add_tokens([AddedToken(piece, special=True) for piece in model["vocab"] if piece.startswith("<|")])
    for text in TEXTS:
        assert pieces(again, text) == pieces(original, text)
        assert again.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False), text


def test_llama_3_groups_digits_by_three_and_begins_once(words, tmp_path):
    again = tokenizer.from_gguf(through_gguf(tmp_path, words, "llama-bpe"))
    assert pieces(again, "it's 12345\n\nok") == ["it", "'s", "Ġ", "123", "45", "ĊĊ", "ok"]
    assert again.encode("the").count(0) == 1 and again.encode("the")[0] == 0
    assert 0 not in again.encode("the", add_special_tokens=False)
    assert again.encode("the") == [0, *words.encode("the")]


@pytest.mark.parametrize(("pre", "ids"), [("llama-bpe", [3]), ("gpt-2", [4, 2])])
def test_llama_3_takes_a_whole_piece_that_no_merge_reaches(pre, ids, tmp_path):
    writer = library.GGUFWriter(tmp_path / "words.gguf", "llama")
    vocabulary = {"t": 0, "h": 1, "e": 2, "the": 3, "th": 4}
    gguf_file.add_tokenizer(writer, Tokenizer(models.BPE(vocabulary, [("t", "h")])), pre=pre)
    gguf_file.finish(writer)
    assert tokenizer.from_gguf(gguf.File(tmp_path / "words.gguf")).encode("the") == ids


def test_the_file_decides_whether_text_begins_with_bos(words, tmp_path):
    for wanted in (True, False):
        file = through_gguf(tmp_path, words, "llama-bpe", add_add_bos_token=wanted)
        assert (0 in tokenizer.from_gguf(file).encode("the")) is wanted


def test_ends_are_the_ids_that_the_file_declares(words, tmp_path):
    assert tokenizer.end_ids(through_gguf(tmp_path, words, "smollm")) == [2]
    assert tokenizer.end_ids(through_gguf(tmp_path, words, "smollm", add_eot_token_id=1)) == [1, 2]


def test_what_cannot_be_read_is_named(words, tmp_path):
    with pytest.raises(config.UserError, match="'falcon'.*smollm"):
        tokenizer.from_gguf(through_gguf(tmp_path, words, "falcon"))
    writer = library.GGUFWriter(tmp_path / "pieces.gguf", "llama")
    writer.add_tokenizer_model("llama")
    gguf_file.finish(writer)
    with pytest.raises(config.UserError, match="'llama' tokenizer"):
        tokenizer.from_gguf(gguf.File(tmp_path / "pieces.gguf"))
    with pytest.raises(config.UserError, match="no tokenizer"):
        tokenizer.load(tmp_path)


def test_saved_and_loaded_it_is_the_same(words, tmp_path):
    made = tokenizer.from_gguf(through_gguf(tmp_path, words, "llama-bpe"))
    made.save_pretrained(tmp_path / "saved")
    again = tokenizer.load(tmp_path / "saved")
    assert again.chat_template == made.chat_template and again.eos_token_id == made.eos_token_id
    assert [again.encode(text) for text in TEXTS] == [made.encode(text) for text in TEXTS]


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "PreTrainedTokenizerFast", "Qwen2Tokenizer"])
def test_a_saved_tokenizer_is_taken_as_it_is_whatever_class_is_named(named, words, tmp_path):
    words.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": named}))
    again = tokenizer.load(tmp_path)
    for text in (*TEXTS, "sum:  12  34"):
        assert again.encode(text) == words.backend_tokenizer.encode(text).ids
    assert again.chat_template == words.chat_template
