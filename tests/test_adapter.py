import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdjax.model import decoder
from cdjax.students import adapter
from tests.conftest import TINY

TOKENS = np.random.default_rng(0).integers(0, TINY.vocab, (2, 6)).astype(np.int32)


def hidden(model, mesh):
    @jax.jit
    def forward(model, tokens):
        return model(tokens, jnp.broadcast_to(jnp.arange(6), (2, 6)), jnp.ones((2, 6), bool))[0]

    with jax.set_mesh(mesh):
        return np.asarray(forward(model, TOKENS))


def adapted(model, seed=0, rank=3):
    return adapter.put(model, adapter.fresh(model, rank, seed), scale=4.0)


def stirred(model):
    """The same model with low-rank weights that do something."""
    graph, low, base = nnx.split(model, nnx.LoRAParam, ...)
    return nnx.merge(graph, jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), low), base)


def buffers(model, *kinds):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(model, *kinds))]


def test_fresh_low_rank_weights_change_nothing(tiny, mesh):
    np.testing.assert_array_equal(hidden(adapted(tiny), mesh), hidden(tiny, mesh))
    assert np.abs(hidden(stirred(adapted(tiny)), mesh) - hidden(tiny, mesh)).max() > 0.1


def test_merged_equals_separate(tiny, mesh):
    model = stirred(adapted(tiny))
    merged = adapter.merge(model)
    np.testing.assert_allclose(hidden(merged, mesh), hidden(model, mesh), atol=2e-5)
    assert nnx.graphdef(merged) == nnx.graphdef(tiny) and model.blocks.up.a is not None
    assert adapter.merge(tiny) is tiny


def test_the_base_model_is_there_without_a_copy(tiny, mesh):
    base = adapter.take_out(stirred(adapted(tiny)))
    assert buffers(base) == buffers(tiny) == buffers(adapted(tiny), nnx.Not(nnx.LoRAParam))
    assert nnx.graphdef(base) == nnx.graphdef(tiny) and tiny.blocks.up.a is None
    np.testing.assert_array_equal(hidden(base, mesh), hidden(tiny, mesh))


def test_low_rank_weights_differ_by_seed_only(tiny):
    one, same, other = (jax.tree.leaves(adapter.fresh(tiny, 3, seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True) if np.any(a))


@pytest.mark.parametrize("bias", [False, True])
def test_a_seed_draws_what_it_has_always_drawn(bias, mesh):
    """One stream, in the order in which a decoder is made: embedding, norm, q, its bias, its a and b, then k."""
    model = decoder.create(dataclasses.replace(TINY, qkv_bias=bias), mesh)
    low = adapter.fresh(model, 3, seed=7).blocks.attention
    for found, count in ((low.q.a, 3 + bias), (low.k.a, 6 + 2 * bias)):
        key = jax.random.fold_in(jax.random.key(7), count)
        np.testing.assert_allclose(found[...], jax.random.normal(key, found.shape) / 32**0.5, rtol=1e-6)


def test_low_rank_weights_are_born_on_the_mesh_of_their_model(mesh8):
    model = adapted(decoder.create(TINY, mesh8))
    a = model.blocks.gate.a[...]
    assert a.sharding.shard_shape(a.shape) == (TINY.layers, TINY.embed // 2, 3)
    assert adapter.merge(model).blocks.gate.w[...].sharding == model.blocks.gate.w[...].sharding
