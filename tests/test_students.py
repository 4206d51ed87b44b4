import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdjax import config
from cdjax.model import decoder
from cdjax.students import trainable
from tests.conftest import TINY

ADAPTER = config.Adapter(rank=3, alpha=12.0)
TOKENS = np.random.default_rng(0).integers(0, TINY.vocab, (2, 6)).astype(np.int32)


def hidden(model, mesh):
    @jax.jit
    def forward(model, tokens):
        return model(tokens, jnp.broadcast_to(jnp.arange(6), (2, 6)), jnp.ones((2, 6), bool))[0]

    with jax.set_mesh(mesh):
        return np.asarray(forward(model, TOKENS))


def stirred(model):
    """The same model with an adapter that does something."""
    graph, low, base = nnx.split(model, nnx.LoRAParam, ...)
    return nnx.merge(graph, jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), low), base)


def buffers(model, *kinds):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(model, *kinds))]


def test_a_fresh_adapter_changes_nothing(tiny, mesh):
    adapted = trainable.add_adapter(tiny, ADAPTER, seed=0)
    np.testing.assert_array_equal(hidden(adapted, mesh), hidden(tiny, mesh))
    assert np.abs(hidden(stirred(adapted), mesh) - hidden(tiny, mesh)).max() > 0.1


def test_merged_equals_separate(tiny, mesh):
    adapted = stirred(trainable.add_adapter(tiny, ADAPTER, seed=0))
    merged = trainable.merge_adapter(adapted)
    np.testing.assert_allclose(hidden(merged, mesh), hidden(adapted, mesh), atol=2e-5)
    assert nnx.graphdef(merged) == nnx.graphdef(tiny) and trainable.has_adapter(adapted)


def test_an_adapter_on_an_adapter_keeps_what_was_learned(tiny, mesh):
    first = stirred(trainable.add_adapter(tiny, ADAPTER, seed=0))
    second = trainable.add_adapter(first, config.Adapter(rank=2), seed=1)
    np.testing.assert_allclose(hidden(second, mesh), hidden(first, mesh), atol=2e-5)
    assert trainable.add_adapter(tiny, config.Adapter(rank=0), seed=1) is tiny


def test_the_base_model_is_there_without_a_copy(tiny, mesh):
    adapted = stirred(trainable.add_adapter(tiny, ADAPTER, seed=0))
    base = trainable.without_adapter(adapted)
    assert buffers(base) == buffers(tiny) and trainable.without_adapter(tiny) is tiny
    np.testing.assert_array_equal(hidden(base, mesh), hidden(tiny, mesh))


def test_adapters_differ_by_seed_only(tiny):
    one, same, other = (
        jax.tree.leaves(nnx.state(trainable.add_adapter(tiny, ADAPTER, seed), nnx.LoRAParam)) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True) if np.any(a))


@pytest.mark.parametrize("rank", [0, 3])
def test_split_is_undone_by_merge(rank, tiny, mesh):
    adapter = config.Adapter(rank=rank)
    model = trainable.add_adapter(tiny, adapter, seed=0)
    graph, trained, frozen = trainable.split(model, adapter)
    kinds = {type(leaf) for leaf in jax.tree.leaves(trained, is_leaf=lambda x: isinstance(x, nnx.Variable))}
    assert kinds == {nnx.LoRAParam if rank else nnx.Param}
    assert len(jax.tree.leaves(frozen)) == (len(jax.tree.leaves(tiny)) if rank else 0)
    assert buffers(nnx.merge(graph, trained, frozen)) == buffers(model)


def test_training_an_adapter_that_is_not_there_is_refused(tiny):
    with pytest.raises(ValueError, match="rank=3.*no adapter"):
        trainable.split(tiny, ADAPTER)


def test_an_adapter_is_born_on_the_mesh_of_its_model(mesh8, mesh):
    adapted = trainable.add_adapter(decoder.create(TINY, mesh8), ADAPTER, seed=0)
    a = adapted.blocks.gate.a[...]
    assert a.sharding.shard_shape(a.shape) == (TINY.layers, TINY.embed // 2, ADAPTER.rank)
    merged = trainable.merge_adapter(adapted)
    assert merged.blocks.gate.w[...].sharding == adapted.blocks.gate.w[...].sharding
