import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax.errors import UserError
from cdjax.model import attention, cache, decoder
from cdjax.model.reader import Reader
from cdjax.model.spec import DecoderSpec
from tests.conftest import TINY

TOKENS = np.random.default_rng(0).integers(1, 64, (8, 9)).astype(np.int32)
REAL = np.arange(9)[None] >= np.array([0, 1, 2, 3, 0, 0, 4, 1])[:, None]  # left-padded rows
CONTEXT = np.arange(1, 8, dtype=np.int32)


def forward(model, tokens, real, prefix=None):
    tokens, real = jnp.asarray(tokens), jnp.asarray(real)
    return model(tokens, decoder.row_positions(real, prefix), real, prefix=prefix)[0]


def test_shared_prefix_equals_plain_concatenation(tiny, mesh):
    @jax.jit
    def split(model):
        return forward(model, TOKENS, jnp.ones(TOKENS.shape, bool), Reader(model).after(CONTEXT).prefix)

    @jax.jit
    def whole(model):
        tokens = jnp.concatenate([jnp.broadcast_to(CONTEXT, (8, 7)), TOKENS], 1)
        return forward(model, tokens, jnp.ones(tokens.shape, bool))[:, 7:]

    with jax.set_mesh(mesh):
        np.testing.assert_allclose(split(tiny), whole(tiny), atol=2e-5)


def test_contexts_of_like_length_share_what_is_compiled(tiny, mesh):
    with jax.set_mesh(mesh):
        shapes = {Reader(tiny).after(np.arange(1, length, dtype=np.int32)).prefix.k.shape for length in (2, 40, 60)}
    assert len(shapes) == 1


@pytest.mark.parametrize("window", [None, 4])
def test_rows_grouped_by_context_equal_plain_concatenation(mesh, mesh8, window, capfd):
    """Contexts of several lengths, none among them, in one batch."""
    contexts = [CONTEXT, CONTEXT[2:6], CONTEXT[:0], CONTEXT[::-1]]
    spec = dataclasses.replace(TINY, window=window)
    whole, real = np.zeros((8, 16), np.int32), np.zeros((8, 16), bool)
    for row, own in enumerate(REAL):
        ids = np.concatenate([contexts[row // 2], TOKENS[row][own]])
        whole[row, 16 - len(ids) :], real[row, 16 - len(ids) :] = ids, True
    for where in (mesh, mesh8):
        model = decoder.create(spec, where, seed=0)
        with jax.set_mesh(where):
            grouped = jax.jit(forward)(model, TOKENS, REAL, Reader(model).after(*contexts).prefix)
            wanted = jax.jit(forward)(model, whole, real)[:, 7:]
        np.testing.assert_allclose(np.asarray(grouped)[REAL], np.asarray(wanted)[REAL], atol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("block", [attention.BLOCK, 4])
def test_cached_decode_equals_whole_forward(tiny, mesh, block, monkeypatch):
    with jax.set_mesh(mesh):
        whole = jax.jit(forward)(tiny, TOKENS, REAL)
        monkeypatch.setattr(attention, "BLOCK", block)
        positions = decoder.row_positions(jnp.asarray(REAL), None)
        past = cache.new_cache(TINY, 8, 15, tiny.dtype)
        step = jax.jit(lambda model, past, *row: model(*(jnp.asarray(x) for x in row), past=past))
        apart = decoder.unstack(tiny)
        hidden = []
        for t in range(9):
            out, past = step(apart, past, TOKENS[:, t : t + 1], positions[:, t : t + 1], REAL[:, t : t + 1])
            hidden.append(np.asarray(out))
    np.testing.assert_allclose(np.concatenate(hidden, 1)[REAL], np.asarray(whole)[REAL], atol=2e-5)


def test_attention_in_blocks_equals_attention_at_once(tiny, mesh, monkeypatch):
    with jax.set_mesh(mesh):
        prefix = Reader(tiny).after(CONTEXT).prefix
        whole = jax.jit(forward)(tiny, TOKENS, REAL, prefix)
        monkeypatch.setattr(attention, "QUERIES", 4)
        monkeypatch.setattr(attention, "BLOCK", 4)
        blocks = jax.jit(lambda *a: forward(*a))(tiny, TOKENS, REAL, prefix)
    np.testing.assert_allclose(np.asarray(blocks)[REAL], np.asarray(whole)[REAL], atol=2e-5)


def test_padding_changes_nothing(tiny, mesh):
    with jax.set_mesh(mesh):
        padded = jax.jit(forward)(tiny, TOKENS, REAL)[3]
        short = jax.jit(forward)(tiny, TOKENS[3:4, 3:], REAL[3:4, 3:])[0]
    np.testing.assert_allclose(padded[3:], short, atol=2e-5)


def test_causality(tiny, mesh):
    """The hidden state at a position depends on the tokens at or before it, and on no others."""
    real = jnp.ones((1, 6), bool)

    def hidden(tokens, t):
        return forward(tiny, tokens, real)[0, t]

    with jax.set_mesh(mesh):
        base = np.asarray(jax.jit(hidden, static_argnums=1)(jnp.asarray(TOKENS[:1, :6]), 2))
        for changed, moves in ((4, False), (1, True)):
            tokens = TOKENS[:1, :6].copy()
            tokens[0, changed] = (tokens[0, changed] + 7) % 64
            other = np.asarray(jax.jit(hidden, static_argnums=1)(jnp.asarray(tokens), 2))
            assert bool(np.any(other != base)) == moves


def test_one_device_equals_eight(mesh, mesh8, capfd):
    outputs = []
    for where in (mesh, mesh8):
        model = decoder.create(TINY, where, seed=3)
        with jax.set_mesh(where):
            outputs.append(np.asarray(jax.jit(forward)(model, TOKENS, REAL))[REAL])
    np.testing.assert_allclose(outputs[0], outputs[1], atol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_no_gradient(remat, mesh):
    def loss(model):
        return jnp.mean(jnp.square(forward(model, TOKENS, REAL)))

    with jax.set_mesh(mesh):
        plain = jax.jit(jax.grad(loss))(decoder.create(TINY, mesh, seed=0, remat="none"))
        again = jax.jit(jax.grad(loss))(decoder.create(TINY, mesh, seed=0, remat=remat))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_remat_of_all_but_products_computes_few_of_them_again(mesh):
    def flops(remat):
        loss = jax.grad(lambda model: forward(model, TOKENS, REAL).sum())
        return jax.jit(loss).lower(decoder.create(TINY, mesh, remat=remat)).compile().cost_analysis()["flops"]

    with jax.set_mesh(mesh):
        none, dots, full = (flops(remat) for remat in ("none", "dots", "full"))
    assert none < dots < none + (full - none) / 2


def test_sliding_window_limits_what_is_seen(mesh):
    spec = DecoderSpec(**{**vars(TINY), "window": 3, "layers": 1})
    model = decoder.create(spec, mesh, seed=0)
    tokens, real = TOKENS[:1], np.ones((1, 9), bool)
    changed = tokens.copy()
    changed[0, 4] = (changed[0, 4] + 7) % 64
    with jax.set_mesh(mesh):
        a, b = jax.jit(forward)(model, tokens, real), jax.jit(forward)(model, changed, real)
    moved = np.any(np.asarray(a != b), -1)[0]
    assert moved.tolist() == [False] * 4 + [True] * 3 + [False] * 2


DEEP = dataclasses.replace(TINY, layers=3)
ALL = (0, 1, 2, 3)


def states(model, layers):
    return model.states(jnp.asarray(TOKENS), decoder.row_positions(jnp.asarray(REAL), None), jnp.asarray(REAL), layers)


def test_the_last_stream_through_the_final_norm_is_the_hidden_state(mesh):
    model = decoder.create(DEEP, mesh)
    with jax.set_mesh(mesh):
        hidden, streams = jax.jit(lambda model: states(model, (-1, 3, 2)))(model)
        np.testing.assert_allclose(model.final_norm(streams[-1]), hidden, atol=1e-6)
    np.testing.assert_array_equal(streams[-1], streams[3])
    assert sorted(streams) == [-1, 2, 3] and np.abs(streams[3] - streams[2]).max() > 1e-3


def test_a_layers_stream_is_the_last_of_a_decoder_that_ends_there(mesh):
    model = decoder.create(DEEP, mesh)
    last = jax.jit(lambda model: states(model, (-1,))[1][-1])
    with jax.set_mesh(mesh):
        _, streams = jax.jit(lambda model: states(model, ALL))(model)
        for layer in (1, 2, 3):
            np.testing.assert_allclose(streams[layer], last(decoder.with_layers(model, range(layer))), atol=1e-6)
    np.testing.assert_array_equal(streams[0], model.embedding[...][TOKENS])


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_asking_for_streams_changes_neither_hidden_states_nor_their_gradient(remat, mesh):
    """Bit for bit."""

    @functools.partial(jax.jit, static_argnums=1)
    def both(model, layers):
        def loss(model):
            hidden, streams = states(model, layers)
            return jnp.sum(jnp.sin(hidden)), streams

        return jax.value_and_grad(loss, has_aux=True)(model)

    model = decoder.create(DEEP, mesh, remat=remat)
    with jax.set_mesh(mesh):
        ((asked, _), gradient), ((plain, _), wanted) = both(model, (1, -1)), both(model, ())
    for a, b in zip(jax.tree.leaves((asked, gradient)), jax.tree.leaves((plain, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("layers", [(2,), ALL, (1, -3)], ids=str)
def test_streams_of_a_scan_are_those_of_layers_apart_in_value_and_gradient(layers, remat, mesh):
    @functools.partial(jax.jit, static_argnums=1)
    def both(model, apart):
        def loss(model):
            _, streams = states(decoder.unstack(model) if apart else model, layers)
            return sum((i + 1) * jnp.sum(jnp.sin(streams[number])) for i, number in enumerate(layers))

        return jax.value_and_grad(loss)(model)

    model = decoder.create(DEEP, mesh, remat=remat)
    with jax.set_mesh(mesh):
        scanned, apart = both(model, False), both(model, True)
    for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_streams_that_nobody_asked_for_are_not_held(mesh):
    """One of many layers costs its own array and one more; a gradient needs no others either."""
    spec = dataclasses.replace(TINY, layers=24)
    model = decoder.create(spec, mesh, remat="full")
    size = TOKENS.size * spec.embed * 4

    def memory(function):
        with jax.set_mesh(mesh):
            return jax.jit(function).lower(model).compile().memory_analysis().temp_size_in_bytes

    def loss(layers):
        def summed(model):
            hidden, streams = states(model, layers)
            return hidden.sum() + sum(stream.sum() for stream in streams.values())

        return summed

    assert memory(loss((5,))) - memory(loss(())) <= 3 * size
    assert memory(jax.grad(loss((5,)))) - memory(jax.grad(loss(()))) <= 4 * size


def test_streams_on_one_device_equal_those_on_eight(mesh, mesh8, capfd):
    outputs = []
    for where in (mesh, mesh8):
        with jax.set_mesh(where):
            outputs.append(jax.jit(lambda model: states(model, ALL)[1])(decoder.create(DEEP, where, seed=3)))
    for layer in ALL:
        one, eight = (np.asarray(streams[layer])[REAL] for streams in outputs)
        np.testing.assert_allclose(one, eight, atol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("layer", [3, -4])
def test_a_stream_that_is_not_there_is_refused(layer, tiny, mesh):
    with jax.set_mesh(mesh), pytest.raises(UserError, match=f"layer {layer} of 2: .* -3 to 2"):
        states(tiny, (0, layer))
