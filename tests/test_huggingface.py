"""Every family computes what transformers computes; what we write, transformers and we read back."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from cdjax import config
from cdjax.model import decoder
from cdjax.model.files import huggingface, source, tokenizer, weights
from cdjax.model.spec import DecoderSpec
from cdjax.students import adapter

FIXTURES = Path(__file__).parent / "fixtures"
FAMILIES = ("smollm2", "llama2", "llama3", "mistral", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def words():
    return tokenizer.load(source.DATA / "tiny")


def logits(model, mesh, tokens):
    """The logits [T, V] of T tokens, in one pass."""
    with jax.set_mesh(mesh):
        return np.asarray(_forward(model, jnp.asarray(tokens)[None]))[0]


@jax.jit
def _forward(model, tokens):
    real = jnp.ones(tokens.shape, bool)
    hidden, _ = model(tokens, decoder.row_positions(real, None), real)
    return model.logits(hidden)


def assert_same_weights(left, right):
    for (name, a), (other, b) in zip(weights.named(left), weights.named(right), strict=True):
        assert name == other
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, mesh):
    with np.load(FIXTURES / family / "reference.npz") as reference:
        tokens, expected = reference["tokens"], reference["logits"]
    got = logits(huggingface.read(FIXTURES / family, mesh), mesh, tokens)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama2", "qwen3"])
def test_eight_devices_hold_the_parts_of_the_same_model(family, mesh, mesh8):
    whole, parts = huggingface.read(FIXTURES / family, mesh), huggingface.read(FIXTURES / family, mesh8)
    assert_same_weights(whole, parts)
    up = parts.blocks.up.w.get_value()
    assert up.addressable_shards[0].data.size * 4 == up.size  # embed over fsdp, mlp over tensor
    tokens = np.arange(24, dtype=np.int32)
    np.testing.assert_allclose(logits(whole, mesh, tokens), logits(parts, mesh8, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_written_and_read_back_is_bitwise_the_same(family, mesh, words, tmp_path):
    model = huggingface.read(FIXTURES / family, mesh)
    huggingface.write(model, words, tmp_path)
    again = huggingface.read(tmp_path, mesh)
    assert again.spec == model.spec
    assert_same_weights(model, again)


def test_the_tokenizer_goes_with_the_weights_under_a_name_that_all_transformers_know(mesh, words, tmp_path):
    huggingface.write(huggingface.read(FIXTURES / "smollm2", mesh), words, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    for again in (tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert again.encode("walk 12<|im_end|>") == words.encode("walk 12<|im_end|>")
        assert (again.chat_template, again.eos_token) == (words.chat_template, words.eos_token)


def test_a_large_model_is_written_in_shards(mesh, words, tmp_path, monkeypatch):
    model = huggingface.read(FIXTURES / "qwen2", mesh)
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 20_000)
    huggingface.write(model, words, tmp_path)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2 and set(
        json.loads((tmp_path / huggingface.INDEX).read_text())["weight_map"].values()
    ) == set(shards)
    assert_same_weights(model, huggingface.read(tmp_path, mesh))
    monkeypatch.undo()
    huggingface.write(model, words, tmp_path)  # the old shards and their index are gone
    assert [path.name for path in tmp_path.glob("model*")] == [huggingface.WHOLE]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_and_we_read_each_other(family, mesh, words, tmp_path):
    torch = pytest.importorskip("torch")
    from fixtures import make_checkpoints
    from transformers import AutoModelForCausalLM

    def theirs(model):
        with torch.no_grad():
            return model(torch.from_numpy(tokens)[None].long()).logits[0].numpy()

    tokens = np.random.default_rng(2).integers(0, 64, 24).astype(np.int32)
    reference = make_checkpoints.checkpoint(make_checkpoints.FAMILIES[family], seed=7)
    reference.save_pretrained(tmp_path / "theirs")
    model = huggingface.read(tmp_path / "theirs", mesh)
    np.testing.assert_allclose(logits(model, mesh, tokens), theirs(reference), rtol=1e-4, atol=1e-4)
    huggingface.write(model, words, tmp_path / "ours")
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    np.testing.assert_allclose(theirs(loaded), theirs(reference), rtol=1e-5, atol=1e-5)


def test_low_rank_weights_are_not_written_apart(mesh, words, tmp_path):
    plain = huggingface.read(FIXTURES / "qwen2", mesh)
    with pytest.raises(ValueError, match="merge"):
        huggingface.write(adapter.put(plain, adapter.fresh(plain, 2, seed=0), 1.0), words, tmp_path)


def test_computing_in_bfloat16_keeps_float32_weights(mesh):
    model = huggingface.read(FIXTURES / "llama2", mesh, dtype="bfloat16")
    assert model.dtype == jnp.bfloat16 and model.embedding.get_value().dtype == jnp.float32


def broken(tmp_path, family="llama2", **changes):
    """A copy of a fixture with other settings in its config.json."""
    folder = shutil.copytree(FIXTURES / family, tmp_path / "broken")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_all_wrong_tensors_are_named_at_once(mesh, tmp_path):
    folder = broken(tmp_path)
    tensors = load_file(folder / huggingface.WHOLE)
    missing, wrong = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
    del tensors[missing]
    tensors |= {wrong: tensors[wrong][:-1], "model.layers.0.self_attn.o_proj.bias": tensors[wrong]}
    save_file(tensors, folder / huggingface.WHOLE)
    with pytest.raises(
        config.UserError, match=r"up_proj.weight is missing.*norm.*\[31\].*\[32\].*o_proj.bias is unknown"
    ):
        huggingface.read(folder, mesh)


def test_integer_weights_are_refused(mesh, tmp_path):
    folder = broken(tmp_path)
    tensors = load_file(folder / huggingface.WHOLE)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.int8)
    save_file(tensors, folder / huggingface.WHOLE)
    with pytest.raises(config.UserError, match="lm_head.weight.*I8"):
        huggingface.read(folder, mesh)


@pytest.mark.parametrize("kept", [0, 5, 400, 20_000])
def test_a_truncated_file_is_named(kept, mesh, tmp_path):
    path = broken(tmp_path) / huggingface.WHOLE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(config.UserError, match=r"model\.safetensors is truncated"):
        huggingface.read(path.parent, mesh)


def test_a_missing_shard_is_named(mesh, tmp_path):
    folder = broken(tmp_path, "mistral")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(config.UserError, match="model-00002-of-00002"):
        huggingface.read(folder, mesh)


def test_pickle_is_refused(mesh, tmp_path):
    folder = broken(tmp_path)
    (folder / huggingface.WHOLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(config.UserError, match="pickled"):
        huggingface.read(folder, mesh)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, "yarn"),
        ({"mlp_bias": True, "hidden_act": "gelu"}, "mlp_bias, hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"num_key_value_heads": 3}, "kv_heads=3"),
        ({"num_hidden_layers": 9}, "layers.2.self_attn.k_proj.weight is missing.*and 53 more"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(changes, said, mesh, tmp_path):
    with pytest.raises(config.UserError, match=said):
        huggingface.read(broken(tmp_path, **changes), mesh)


def test_a_config_without_its_sizes_or_that_is_not_json(mesh, tmp_path):
    with pytest.raises(config.UserError, match="hidden_size, intermediate_size"):
        huggingface.spec_from_config({"model_type": "llama", "vocab_size": 8})
    folder = broken(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(config.UserError, match="not JSON"):
        huggingface.read(folder, mesh)
    (folder / "config.json").unlink()
    with pytest.raises(config.UserError, match="config.json is missing"):
        huggingface.read(folder, mesh)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("flags", [{}, {"qkv_bias": True}, {"qk_norm": True}])
def test_config_and_spec_are_inverse(flags, window):
    spec = DecoderSpec(64, 32, 2, 4, 2, 16, 48, norm_eps=1e-6, rope_theta=5e5, tied=False, window=window, **flags)
    assert huggingface.spec_from_config(json.loads(json.dumps(huggingface.config_from_spec(spec)))) == spec


def test_transformers_4_and_5_spell_rotary_settings_differently():
    new = json.loads((FIXTURES / "llama3" / "config.json").read_text())
    rope = new.pop("rope_parameters")
    old = new | {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {"type": rope.pop("rope_type"), **rope}}
    spec = huggingface.spec_from_config(old)
    assert spec == huggingface.spec_from_config(json.loads((FIXTURES / "llama3" / "config.json").read_text()))
    assert spec.rope_scaling is not None and spec.rope_scaling.factor == 8.0
    assert huggingface.spec_from_config(huggingface.config_from_spec(spec)) == spec


def test_a_window_in_some_layers_only_is_refused():
    values = huggingface.config_from_spec(DecoderSpec(64, 32, 2, 4, 2, 8, 48, qkv_bias=True, window=4))
    with pytest.raises(config.UserError, match="some layers only"):
        huggingface.spec_from_config(values | {"max_window_layers": 1})
    assert huggingface.spec_from_config(values | {"max_window_layers": 2}).window is None


def test_end_ids_come_from_the_generation_config_first(mesh, words, tmp_path):
    assert huggingface.stop_ids(FIXTURES / "llama2") == [2]
    huggingface.write(huggingface.read(FIXTURES / "llama2", mesh), words, tmp_path, stop_ids=[9, 5])
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert huggingface.stop_ids(tmp_path) == [5, 9]
    (tmp_path / "generation_config.json").write_text("{}")
    assert huggingface.stop_ids(tmp_path) == [7]
