"""What holds for every student that begins as the model: it reads alike, and what trains has its place on a mesh."""

import jax
import numpy as np
import pytest
from flax import nnx

from cdjax import config, parallel
from cdjax.model import decoder
from tests.conftest import TINY
from tests.test_adapter import buffers, hidden

BOTH = pytest.mark.parametrize("student", [config.Whole(), config.LowRank(rank=3)], ids=lambda one: one.kind)


def variables(tree):
    return jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


@BOTH
def test_a_fresh_student_reads_as_its_model(student, tiny, mesh):
    reader = student.reader(*student.init(tiny, seed=0, context=None))
    np.testing.assert_array_equal(hidden(reader.decoder, mesh), hidden(tiny, mesh))
    assert reader.prefix is None


@BOTH
def test_its_model_is_there_without_a_copy(student, tiny):
    trainable, frozen = student.init(tiny, seed=0, context=None)
    base = student.base(trainable, frozen)
    assert nnx.graphdef(base) == nnx.graphdef(tiny) and buffers(base) == buffers(tiny)
    assert len(jax.tree.leaves((trainable, frozen))) == len(jax.tree.leaves(student.reader(trainable, frozen)))


@BOTH
def test_what_trains_and_what_does_not_know_their_axes(student, mesh8):
    for leaf in variables(student.init(decoder.create(TINY, mesh8), seed=0, context=None)):
        assert isinstance(leaf, nnx.Variable) and len(leaf.axes) == leaf.ndim
        assert leaf[...].sharding.is_equivalent_to(parallel.shardings(leaf, mesh8).get_value(), leaf.ndim)


def test_the_scale_of_low_rank_weights_is_alpha_over_rank(tiny):
    student = config.LowRank(rank=3, alpha=12.0)
    assert student.reader(*student.init(tiny, seed=0, context=None)).decoder.blocks.up.scale == 4.0


def test_low_rank_weights_on_low_rank_weights_keep_what_was_learned(tiny, mesh):
    student = config.LowRank(rank=3)
    trained, frozen = student.init(tiny, seed=0, context=None)
    first = student.reader(jax.tree.map(lambda x: x + 0.05, trained), frozen).decoder
    second = student.reader(*student.init(first, seed=1, context=None)).decoder
    np.testing.assert_allclose(hidden(second, mesh), hidden(first, mesh), atol=2e-5)
    assert np.abs(hidden(second, mesh) - hidden(tiny, mesh)).max() > 0.01
