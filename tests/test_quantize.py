"""int8 weights: how far they may be, and that everything reads them as any others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdjax import config, parallel
from cdjax.distill import opening, plan, stages
from cdjax.model import decoder, quantize
from cdjax.model.layers import Projection
from cdjax.model.reader import Reader
from cdjax.report import results
from cdjax.sampling import answers, read
from cdjax.students import adapter
from tests.conftest import TINY
from tests.test_rounds import experiment
from tests.test_sampling import PROMPTS, ask, assert_same

SPECS = {
    "tied": TINY,
    "untied": dataclasses.replace(TINY, tied=False, qkv_bias=True),
}
TOKENS = np.random.default_rng(0).integers(1, 64, (8, 9)).astype(np.int32)


def rounded(model, mesh):
    with jax.set_mesh(mesh):
        return quantize.int8(model)


def logits(model, mesh):
    def run(model):
        real = jnp.ones(TOKENS.shape, bool)
        hidden, _ = model(jnp.asarray(TOKENS), decoder.row_positions(real, None), real)
        return model.logits(hidden)

    with jax.set_mesh(mesh):
        return np.asarray(jax.jit(run)(model))


def matrices(model):
    """Name -> matrix as [.., inputs, outputs], scales as [.., outputs] or None."""
    found = {"embedding": (model.embedding[...].T, model.embedding_scales)}
    if model.head is not None:
        found["head"] = (model.head[...], model.head_scales)
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Projection):
            w = module.w[...]
            ends = w.shape[: w.ndim - module.outputs][1:], w.shape[w.ndim - module.outputs :]
            found[".".join(map(str, path))] = w.reshape(len(w), *map(np.prod, ends)), module.scales
    return {name: (np.asarray(w), scales) for name, (w, scales) in found.items()}


def put_back(model):
    """The decoder whose float32 weights are what an int8 model's stand for."""

    def whole(variable, scales, summed):
        value = variable[...].astype(jnp.float32) * jnp.expand_dims(scales[...], summed)
        return variable.replace(value)

    model = jax.tree.map(lambda x: x, model)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Projection):
            first = module.w.ndim - module.outputs - module.contract
            module.w = whole(module.w, module.scales, tuple(range(first, first + module.contract)))
            module.scales = None
    model.embedding, model.embedding_scales = whole(model.embedding, model.embedding_scales, (1,)), None
    if model.head is not None:
        model.head, model.head_scales = whole(model.head, model.head_scales, (0,)), None
    return model


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_no_weight_moves_by_more_than_half_a_step(spec, mesh):
    full = decoder.create(spec, mesh, seed=0)
    before, after = matrices(full), matrices(rounded(full, mesh))
    assert len(after) == 8 + (not spec.tied)
    for name, (whole, scales) in after.items():
        assert whole.dtype == np.int8
        real = before[name][0]
        sizes = np.asarray(scales[...]).reshape(*real.shape[:-2], 1, real.shape[-1])
        np.testing.assert_allclose(sizes[..., 0, :], np.abs(real).max(-2) / 127, rtol=1e-6)
        assert (np.abs(whole * sizes - real) <= sizes * 0.5001).all(), name


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_it_computes_what_its_weights_stand_for(spec, mesh):
    int8 = rounded(decoder.create(spec, mesh, seed=0), mesh)
    np.testing.assert_allclose(logits(int8, mesh), logits(put_back(int8), mesh), atol=2e-5)


def test_an_output_without_weights_stays_zero(tiny, mesh):
    model = jax.tree.map(lambda x: x, tiny)
    model.embedding[...] = model.embedding[...].at[5].set(0.0)
    assert not np.isnan(logits(rounded(model, mesh), mesh)).any()
    assert (logits(rounded(model, mesh), mesh)[..., 5] == 0).all()


def test_scoring_reproduces_what_the_int8_sampler_recorded(tiny, mesh):
    """With the context read by the int8 model too."""
    int8, suffixes = rounded(tiny, mesh), dict(zip(PROMPTS.inputs, PROMPTS.suffixes, strict=True))
    rollouts = ask(tiny, mesh, sampling=config.Sampling(batch=3, weights="int8"))
    with jax.set_mesh(mesh):
        reader = Reader(int8).after(PROMPTS.context)
        for rollout in rollouts:
            prompt, completion = (jnp.asarray(x)[None] for x in (suffixes[rollout.input], rollout.ids))
            real = [jnp.ones(x.shape, bool) for x in (prompt, completion)]
            scored = read.logprobs(reader, prompt, real[0], completion, real[1])
            np.testing.assert_allclose(scored[0], rollout.logprobs, atol=2e-5)


def test_one_device_equals_eight(tiny, mesh, mesh8):
    tiny8 = jax.device_put(tiny, parallel.shardings(tiny, mesh8))
    np.testing.assert_allclose(logits(rounded(tiny, mesh), mesh), logits(rounded(tiny8, mesh8), mesh8), atol=2e-5)
    sampling = config.Sampling(weights="int8")
    assert_same(ask(tiny, mesh, sampling=sampling), ask(tiny8, mesh8, sampling=sampling), atol=2e-5)


def test_an_int8_model_has_an_identity_of_its_own(tiny, mesh):
    assert answers.identity(Reader(rounded(tiny, mesh))) != answers.identity(Reader(tiny))


def test_an_adapter_stays_as_it_is(tiny, mesh):
    """The teacher of a recursive round: its base weights are rounded, what it has learned is not."""
    model = adapter.put(tiny, adapter.fresh(tiny, 2, seed=0), 8.0)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Projection):
            module.b[...] = 0.1 * jax.random.normal(jax.random.key(1), module.b.shape)
    int8 = rounded(model, mesh)
    kept = [nnx.state(one, nnx.LoRAParam) for one in (model, int8)]
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), *kept)))
    assert (
        np.abs(logits(int8, mesh) - logits(model, mesh)).max()
        < 0.2 * np.abs(logits(model, mesh) - logits(tiny, mesh)).max()
    )


def test_a_run_tells_how_far_its_int8_teacher_is(tmp_path):
    run = opening.open(experiment(sampling=config.Sampling(batch=8, weights="int8")), tmp_path)
    with jax.set_mesh(run.mesh):
        round = plan.rounds(run, 0)[0]
        stages.teach(round, 0, stages.show(round, 0), None, run.student.base)
    told = results.rollouts(run.journal.results())
    assert told["sampled"] == 12 and len(told["int8_kl"]) == 1 and 0 < told["int8_kl"][0] < 0.01
