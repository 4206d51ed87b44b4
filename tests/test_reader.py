"""What stands before all that a reader reads: contexts one after the other, as if each row had them all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax.model import cache, decoder
from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from tests.conftest import TINY

TOKENS = np.random.default_rng(0).integers(1, 64, (8, 5)).astype(np.int32)
FIRST, SECOND = np.arange(1, 8, dtype=np.int32), np.arange(30, 20, -1, dtype=np.int32)
NONE = FIRST[:0]


@jax.jit
def hidden(reader, tokens):
    real = jnp.ones(tokens.shape, bool)
    return reader.decoder(tokens, decoder.row_positions(real, reader.prefix), real, prefix=reader.prefix)[0]


def concatenated(model, *contexts):
    """The hidden states of each row after its own context, which stands in it."""
    found = []
    for number, row in enumerate(TOKENS):
        ids = np.concatenate([contexts[number * len(contexts) // 8], row])
        found.append(np.asarray(hidden(Reader(model), np.tile(ids, (8, 1))))[0, -5:])
    return np.stack(found)


@pytest.mark.parametrize("where", ["mesh", "mesh8"])
@pytest.mark.parametrize("window", [None, 6])
def test_a_context_read_after_another_equals_their_concatenation(where, window, request):
    mesh = request.getfixturevalue(where)
    model = decoder.create(dataclasses.replace(TINY, window=window), mesh)
    with jax.set_mesh(mesh):
        found = hidden(Reader(model).after(FIRST).after(SECOND), TOKENS)
        wanted = hidden(Reader(model).after(np.concatenate([FIRST, SECOND])), TOKENS)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_several_contexts_are_read_apart_after_one_or_after_as_many(tiny, mesh):
    with jax.set_mesh(mesh):
        one = hidden(Reader(tiny).after(FIRST).after(SECOND, NONE), TOKENS)
        many = hidden(Reader(tiny).after(FIRST, SECOND).after(SECOND, FIRST), TOKENS)
        wanted_one = concatenated(tiny, np.concatenate([FIRST, SECOND]), FIRST)
        wanted_many = concatenated(tiny, np.concatenate([FIRST, SECOND]), np.concatenate([SECOND, FIRST]))
    np.testing.assert_allclose(one, wanted_one, atol=2e-5)
    np.testing.assert_allclose(many, wanted_many, atol=2e-5)


@pytest.mark.parametrize("where", ["mesh", "mesh8"])
def test_prefixes_that_were_read_apart_are_joined_as_texts_that_do_not_see_each_other(where, request):
    """The second is what it would be had it been read at its later positions, with nothing before it to see."""
    mesh = request.getfixturevalue(where)
    model = decoder.create(TINY, mesh)
    positions = len(FIRST) + np.arange(len(SECOND))[None]
    with jax.set_mesh(mesh):
        one, two = Reader(model).after(FIRST), Reader(model).after(SECOND)
        k, v = jax.jit(Decoder.read)(model, SECOND[None], positions, np.ones((1, len(SECOND)), bool))
        wanted = one.prefix.then(cache.Prefix(k, v, jnp.array([len(SECOND)])))
        joined = hidden(one.joined(two.prefix), TOKENS)
        np.testing.assert_allclose(joined, hidden(Reader(model, wanted), TOKENS), atol=2e-5)
        assert np.abs(joined - hidden(one.after(SECOND), TOKENS)).max() > 1e-3
    assert Reader(model).joined(two.prefix).prefix is two.prefix


def test_a_reader_of_nothing_is_itself(tiny):
    reader = Reader(tiny)
    assert reader.after(NONE, NONE) is reader and reader.prefix is None
