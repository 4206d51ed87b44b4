"""What runs on a TPU only, in the interpreter: it computes what runs elsewhere."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax.model import attention, cache, decoder, kernels
from cdjax.model.layers import product
from cdjax.model.reader import Reader
from cdjax.sampling import read
from tests.conftest import TINY

RNG = np.random.default_rng(0)


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.fixture
def on_tpu(monkeypatch):
    """Code that asks for the platform gets the TPU's branch, kernels are interpreted."""

    def tpu_only(*args, tpu, default):
        return tpu(*args)

    jax.clear_caches()
    monkeypatch.setattr(jax.lax, "platform_dependent", tpu_only)
    monkeypatch.setattr(kernels, "by_row", functools.partial(kernels.by_row, interpret=True))
    yield
    jax.clear_caches()


@pytest.mark.parametrize("queries, keys, length", [(512, 2048, 36), (8, 16, 1), (8, 16, 33), (8, 16, 37)])
def test_kernel_equals_the_written_formula(queries, keys, length, mesh, monkeypatch):
    monkeypatch.setattr(kernels, "QUERIES", queries)
    monkeypatch.setattr(kernels, "KEYS", keys)
    kernels.over_context.clear_cache()
    grouped, k, v = floats(3, 5, 2, 2, 8), floats(2, 37, 8), floats(2, 37, 8)
    with jax.set_mesh(mesh):
        actual = kernels.by_row(grouped, k, v, jnp.int32(length), interpret=True)
    expected = jax.jit(attention._contexts)(grouped, k[None], v[None], (jnp.arange(37) < length)[None])
    for part, expected_part in zip(actual, expected, strict=True):
        np.testing.assert_allclose(part, expected_part, rtol=2e-5, atol=2e-5)


def test_kernel_on_eight_devices_equals_one(mesh, mesh8):
    grouped, k, v = floats(4, 3, 2, 2, 8), floats(2, 9, 8), floats(2, 9, 8)

    def run(mesh):
        with jax.set_mesh(mesh):
            return jax.jit(functools.partial(kernels.by_row, interpret=True))(grouped, k, v, jnp.int32(7))

    for one, eight in zip(run(mesh), run(mesh8), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-6, atol=2e-6)


def test_gradient_of_attention_over_a_context(mesh, on_tpu):
    grouped, k, v, mask = floats(2, 3, 2, 2, 8), floats(1, 2, 6, 8), floats(1, 2, 6, 8), jnp.arange(6)[None] < 5

    def loss(part, inputs):
        top, total, summed = part(*inputs, mask)
        return jnp.sum(jnp.sin(summed / total[..., None])) + jnp.sum(top + jnp.log(total))

    with jax.set_mesh(mesh):
        actual, expected = (
            jax.jit(jax.grad(functools.partial(loss, part)))((grouped, k, v))
            for part in (attention._one_context, attention._contexts)
        )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), actual, expected)


def test_cache_written_by_selection_equals_slices(mesh, on_tpu):
    rows, new, columns = floats(4, 2, 6, 8), floats(4, 2, 1, 8), jnp.array([0, 5, 2, 2])
    with jax.set_mesh(mesh):
        actual = cache.write(rows, new, columns)
    expected = np.array(rows)
    expected[np.arange(4), :, columns] = new[:, :, 0]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("rows, window", [(4, None), (1, 4)])
def test_model_on_a_tpu_equals_the_model_elsewhere(rows, window, mesh, request):
    model = decoder.create(dataclasses.replace(TINY, window=window), mesh, seed=0)
    prompt, completion = (jnp.asarray(RNG.integers(1, 64, (rows, n)), jnp.int32) for n in (1, rows))
    real = jnp.ones_like

    def run():
        with jax.set_mesh(mesh):
            reader = Reader(model).after(np.arange(1, 20))
            texts = prompt, real(prompt, bool), completion, real(completion, bool)
            return np.asarray(read.logprobs(reader, *texts))

    expected = run()
    request.getfixturevalue("on_tpu")
    np.testing.assert_allclose(run(), expected, atol=2e-5)


def test_products_summed_in_their_own_type_have_its_type_and_gradient(on_tpu):
    x, w = (floats(*shape).astype(jnp.bfloat16) for shape in ((2, 3, 4), (4, 5)))
    y, back = jax.vjp(product, x, w)
    dx, dw = back(jnp.ones_like(y))
    assert {y.dtype, dx.dtype, dw.dtype} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(y, np.float32(x) @ np.float32(w), atol=0.05)
    np.testing.assert_allclose(dw, np.broadcast_to(np.float32(x).sum((0, 1))[:, None], (4, 5)), rtol=0.02, atol=0.05)
