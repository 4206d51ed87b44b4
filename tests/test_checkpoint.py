import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cdjax import config, parallel
from cdjax.learn import optim, update
from cdjax.learn.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent
AXES = {"w": ("embed", "mlp"), "bias": ("mlp",)}


def make_state(mesh, scale=1.0, embed=4):
    """A train state of one small layer."""
    arrays = {"w": scale * jnp.arange(embed * 8.0).reshape(embed, 8), "bias": jnp.full((8,), scale)}
    params = nnx.State({name: nnx.Param(array, axes=AXES[name]) for name, array in arrays.items()})
    return update.start(params, optim.make(config.Optim(), 10), mesh)


def save(store, step, tree, progress):
    with store.writing() as write:
        write(step, tree, progress)


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_loaded_is_what_was_saved(mesh, tmp_path):
    tree = {"train": make_state(mesh, 0.1), "key": jax.random.key(7)}
    store = Checkpoints(tmp_path / "new")
    assert store.latest() is None
    save(store, 3, tree, {"round": 1, "stage": "update", "none": None})
    assert store.latest() == 3 and store.progress(3) == {"round": 1, "stage": "update", "none": None}
    loaded = store.load(3, {"train": make_state(mesh, 5.0), "key": jax.random.key(0)})
    assert_same(loaded["train"], tree["train"])
    assert jax.random.bits(loaded["key"]) == jax.random.bits(tree["key"])


def test_a_state_moves_to_another_mesh(mesh, mesh8, tmp_path):
    store, state = Checkpoints(tmp_path), make_state(mesh)
    save(store, 0, state, {})
    shapes = jax.eval_shape(lambda: state)
    where = parallel.shardings(shapes, mesh8)
    like = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, where)
    loaded = store.load(0, like)
    assert_same(loaded, state)
    assert loaded.params["w"][...].addressable_shards[0].data.shape == (2, 4)
    assert optax.tree.get(loaded.opt_state, "mu")["w"][...].sharding == loaded.params["w"][...].sharding


def test_the_last_ones_stay_and_a_number_can_be_written_again(mesh, tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 5, 9, 9):
        save(store, step, {"x": jnp.float32(step)}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "9"]
    save(store, 9, {"x": jnp.float32(-1.0)}, {"again": True})
    assert store.progress(9) == {"again": True} and store.load(9, {"x": jnp.float32(0)})["x"] == -1.0


def test_a_state_may_be_donated_as_soon_as_save_returns(mesh, tmp_path):
    """While its bytes are still being written: what is on disk is the state as it was."""
    store, move = Checkpoints(tmp_path), jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with store.writing() as write:
        for step in range(1, 4):
            tree = {"x": jnp.full(2_000_000, step)}
            write(step, tree, {})
            jax.block_until_ready(move(tree["x"]))
    assert store.latest() == 3
    for step in (2, 3):
        assert (store.load(step, {"x": jnp.zeros(2_000_000, jnp.int32)})["x"] == step).all()


def test_leaving_in_the_middle_finishes_what_is_being_written(mesh, tmp_path):
    store = Checkpoints(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.writing() as write:
        write(2, {"x": jnp.arange(1_000_000.0)}, {"step": 2})
        raise KeyboardInterrupt
    assert store.latest() == 2 and store.progress(2) == {"step": 2}
    assert (store.load(2, {"x": jnp.zeros(1_000_000)})["x"] == jnp.arange(1_000_000.0)).all()


def test_a_process_killed_while_it_writes_leaves_a_whole_checkpoint_or_none(mesh, tmp_path):
    program = f"""
import os, jax.numpy as jnp
from cdjax.learn.checkpoint import Checkpoints
with Checkpoints({str(tmp_path)!r}).writing() as write:
    write(1, {{"x": jnp.full(3_000_000, 1.0)}}, {{"step": 1}})
    write(2, {{"x": jnp.full(3_000_000, 2.0)}}, {{"step": 2}})
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 9
    store = Checkpoints(tmp_path)
    latest = store.latest()
    assert latest in (1, 2) and store.progress(latest) == {"step": latest}
    assert (store.load(latest, {"x": jnp.zeros(3_000_000)})["x"] == latest).all()


def test_what_a_killed_save_leaves_does_not_count(mesh, tmp_path):
    store = Checkpoints(tmp_path)
    save(store, 1, {"x": jnp.float32(1)}, {})
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    assert store.latest() == 1


@pytest.mark.parametrize("files", ["_METADATA", "d/*"])
def test_a_damaged_checkpoint_is_named(files, mesh, tmp_path):
    """One array: of several, Orbax leaves the reads of the others running when one fails."""
    store, tree = Checkpoints(tmp_path), {"x": jnp.arange(1000.0)}
    save(store, 4, tree, {})
    for path in (tmp_path / "4" / "state").glob(files):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(config.UserError, match=f"{tmp_path}/4 cannot be read.*delete that folder"):
        store.load(4, tree)


def test_the_checkpoint_of_another_model_is_refused(mesh, tmp_path):
    store = Checkpoints(tmp_path)
    save(store, 0, make_state(mesh), {})
    with pytest.raises(config.UserError, match=r"another model.*opt_state.*wanted.*\(6, 8\).*found.*\(4, 8\)"):
        store.load(0, make_state(mesh, embed=6))
    with pytest.raises(config.UserError, match="first extra: .*found None"):
        store.load(0, {"extra": jnp.float32(0)})
