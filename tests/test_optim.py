import jax
import numpy as np
import optax
import pytest
from flax import nnx

from cdjax import config
from cdjax.learn import optim
from cdjax.model import decoder
from cdjax.model.spec import DecoderSpec
from cdjax.students import adapter
from tests.conftest import TINY


def rates(steps=20, **flags):
    cfg = config.Optim(lr=2.0, **flags)
    every, schedule = optim.rates(cfg, steps), optim.schedule(cfg, steps)
    np.testing.assert_allclose(every, [schedule(step) for step in range(steps)], rtol=1e-6)
    return np.array(every)


def test_warmup_reaches_the_rate_and_no_step_is_wasted():
    for schedule in ("constant", "linear", "cosine"):
        warm = rates(schedule=schedule, warmup=4)
        np.testing.assert_allclose(warm[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
        assert rates(schedule=schedule)[0] == 2.0 and warm[-1] > 0
    np.testing.assert_allclose(rates(warmup=1), 2.0)


def test_after_warmup_the_schedule_runs_to_zero_at_the_end():
    left = np.arange(16, 0, -1) / 16
    np.testing.assert_allclose(rates(warmup=4)[4:], 2.0)
    np.testing.assert_allclose(rates(warmup=4, schedule="linear")[4:], 2 * left, rtol=1e-6)
    np.testing.assert_allclose(rates(warmup=4, schedule="cosine")[4:], 1 - np.cos(np.pi * left), rtol=1e-5)


def test_decay_is_for_matrices_only(mesh):
    spec = DecoderSpec(**{**vars(TINY), "qkv_bias": True, "qk_norm": True, "tied": False})
    model = decoder.create(spec, mesh)
    mask = optim.decay_mask(nnx.state(adapter.put(model, adapter.fresh(model, 2, seed=0), 1.0)))
    names = {jax.tree_util.keystr(path[:-1], simple=True): yes for path, yes in jax.tree.leaves_with_path(mask)}
    plain = {name for name, yes in names.items() if not yes}
    assert plain == {name for name in names if "norm" in name or "bias" in name or name == "embedding"}
    assert len(plain) == 9 and len(names) == 9 + 8 + 14


def test_the_positions_of_a_prefix_do_not_decay():
    mask = optim.decay_mask({"k": nnx.Param(np.ones((2, 2, 5, 8)), axes=("layers", "kv_heads", "length", "head_dim"))})
    assert mask["k"].get_value() is False


def test_decay_shrinks_matrices_and_nothing_else(tiny):
    params = nnx.state(tiny)
    still = jax.tree.map(np.zeros_like, params)
    tx = optim.make(config.Optim(lr=0.1, weight_decay=0.5), 10)
    changes, _ = tx.update(still, tx.init(params), params)
    np.testing.assert_allclose(changes.blocks.up.w[...], -0.05 * params.blocks.up.w[...], rtol=1e-6)
    assert not np.any(changes.embedding[...]) and not np.any(changes.final_norm.scale[...])


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_clip_bounds_the_gradient_by_its_global_norm(clip):
    """Seen in Adam's first moment; 0 does not clip."""
    params = {"w": nnx.Param(np.ones((3, 4), np.float32), axes=("embed", "mlp"))}
    grads = jax.tree.map(lambda x: 10 * x, params)
    tx = optim.make(config.Optim(clip=clip), 10)
    _, state = tx.update(grads, tx.init(params), params)
    moment = optax.tree.get(state, "mu")
    np.testing.assert_allclose(optax.tree.norm(moment), 0.1 * (clip or 10 * 12**0.5), rtol=1e-6)


def test_updates_at_several_learning_rates_are_one_program_and_differ_by_that_factor(tiny):
    params = nnx.state(tiny)
    grads = jax.tree.map(np.ones_like, params)
    programs, norms = set(), []
    for lr in (1e-3, 4e-3):
        tx = optim.make(config.Optim(lr=lr, schedule="linear"), 10)
        programs.add(jax.jit(tx.update).lower(grads, tx.init(params), params).as_text())
        norms.append(float(optax.tree.norm(tx.update(grads, tx.init(params), params)[0])))
    assert len(programs) == 1 and norms[1] == pytest.approx(4 * norms[0], rel=1e-5)


@pytest.mark.parametrize("field, value", [("lr", float("nan")), ("lr", -1e-4), ("warmup", -1), ("weight_decay", -0.1)])
def test_a_rate_that_makes_no_sense_is_refused(field, value):
    with pytest.raises(config.UserError, match=f"optim.{field}={value}"):
        optim.make(config.Optim(**{field: value}), 10)
