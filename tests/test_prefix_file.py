"""A prefix survives its file, and a model reads after it."""

import jax
import numpy as np
import pytest

import cdjax
from cdjax import config
from cdjax.model.files import prefix

CONTEXT = np.random.default_rng(0).integers(3, 60, 12).astype(np.int32)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A directory with the keys and values of CONTEXT, and the model that read it."""
    model, directory = cdjax.load_model("tiny:0"), tmp_path_factory.mktemp("prefix")
    with jax.set_mesh(model.mesh):
        read = model.reader.after(CONTEXT).prefix
    k, v = (x[:, :, :, : len(CONTEXT)] for x in (read.k, read.v))
    prefix.write(directory, k, v, model="tiny:0", stop_ids=(1, 2))
    return directory, model


def test_a_model_with_a_prefix_reads_as_after_the_context(written):
    directory, model = written
    for source in (directory, directory / prefix.NAME):
        loaded = cdjax.load_model(str(source))
        assert loaded.stop_ids == (1, 2) and int(loaded.reader.prefix.lengths[0]) == len(CONTEXT)
        text = np.arange(3, 9, dtype=np.int32)
        after = np.asarray(loaded.logits(text[None]))[0]
        whole = np.asarray(model.logits(np.concatenate([CONTEXT, text])[None]))[0, len(CONTEXT) :]
        np.testing.assert_allclose(after, whole, atol=2e-5)


def test_the_prefix_of_another_model_is_refused(written, tmp_path):
    directory, model = written
    file = prefix.read(directory / prefix.NAME)
    with pytest.raises(config.UserError, match="give the model that it was trained with"):
        file._replace(k=file.k[:1], v=file.v[:1]).prefix(model.reader.decoder)


@pytest.mark.parametrize("content", [b"", b"no tensors at all"])
def test_a_damaged_file_is_told(content, tmp_path):
    (tmp_path / prefix.NAME).write_bytes(content)
    with pytest.raises(config.UserError, match="cannot be read"):
        cdjax.load_model(str(tmp_path))


def test_what_is_no_prefix_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"k": np.zeros((2, 2), np.float32)}, tmp_path / prefix.NAME, metadata={"format": "other"})
    with pytest.raises(config.UserError, match="is no prefix"):
        cdjax.load_model(str(tmp_path))
