"""What a model computes in: products summed in float32, and a choice that a run keeps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cdjax
from cdjax.distill import opening
from cdjax.model import precision
from cdjax.model.layers import product
from cdjax.workdir import directory
from tests.conftest import TINY
from tests.test_rounds import experiment

RNG = np.random.default_rng(0)


def arrays(dtype):
    """x and w of a product that contracts two axes."""
    return (jnp.asarray(RNG.normal(size=shape), dtype) for shape in ((2, 3, 4, 5), (4, 5, 6)))


def test_a_product_and_its_gradients_are_those_of_tensordot():
    x, w = arrays(jnp.float32)
    seed = jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32)
    ours, theirs = (
        jax.vjp(multiply, x, w) for multiply in (lambda x, w: product(x, w, 2), lambda x, w: jnp.tensordot(x, w, 2))
    )
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    for own, other in zip(ours[1](seed), theirs[1](seed), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_bfloat16_products_are_summed_in_float32_forward_and_backward():
    both = jax.value_and_grad(lambda x, w: product(x, w, 2).astype(jnp.float32).sum(), argnums=(0, 1))
    lowered = jax.jit(both).lower(*arrays(jnp.bfloat16)).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line]
    found = [re.findall(r"x(bf16|f32)>", line) for line in products]
    assert found == [["bf16", "bf16", "f32"]] * 3


@pytest.mark.parametrize("share, wanted", [(0.5, "bfloat16"), (0.95, "float32"), (2.0, "float32")])
def test_bfloat16_must_win_by_a_tenth(share, wanted, monkeypatch):
    monkeypatch.setattr(precision, "_programs", lambda spec, dtype: [(2.0, dtype), (1.0, dtype)])
    monkeypatch.setattr(precision, "_time", lambda dtype: share if dtype == jnp.bfloat16 else 1.0)
    found = precision.choose.__wrapped__(TINY)
    assert found["dtype"] == wanted and found["seconds"] == {"float32": 3.0, "bfloat16": 3 * share}


def test_the_choice_is_measured_on_the_models_own_products():
    found = precision.choose(TINY)
    assert found["dtype"] in precision.KINDS and all(0 < spent < 1 for spent in found["seconds"].values())
    assert str(cdjax.load_model("tiny:0", dtype="auto").decoder.dtype) in precision.KINDS


def test_a_run_keeps_what_it_chose(tmp_path, monkeypatch, capfd):
    def choose(kind):
        found = {"dtype": kind, "device": "test", "seconds": dict.fromkeys(precision.KINDS, 0.25)}
        monkeypatch.setattr(precision, "choose", lambda spec: found)

    cfg = experiment(dtype="auto")
    choose("bfloat16")
    opening.open(cfg, tmp_path)
    assert "computing in bfloat16: the products of 256 tokens take 250 ms in float32" in capfd.readouterr().err
    choose("float32")
    for again in (opening.open(cfg, tmp_path), opening.reopen(tmp_path)):
        assert again.student.model.decoder.dtype == jnp.bfloat16
    assert capfd.readouterr().err == ""
    assert directory.dtype(cfg, again.journal) == "bfloat16"
