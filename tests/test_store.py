import json

import numpy as np
import pytest

from cdjax import config
from cdjax.sampling.store import RAGGED, Rollout, Store


def rollout(text="walk", length=3, k=4, sample=0):
    rng = np.random.default_rng(length)
    return Rollout(
        input=text,
        sample=sample,
        ids=rng.integers(0, 99, length).astype(np.int32),
        logprobs=rng.normal(size=length).astype(np.float32),
        stopped=length < 5,
        targets={
            "ids": rng.integers(0, 99, (length, k)).astype(np.int32),
            "nested": rng.normal(size=(length, k, 2)).astype(np.float32),
        }
        if k
        else {},
        verdicts=rng.integers(-1, 2, length).astype(np.int32),
    )


@pytest.mark.parametrize("k", [4, 0])
def test_a_shard_comes_back_bit_for_bit(tmp_path, k):
    store = Store(tmp_path / "new" / "place")
    store.open({})
    written = [rollout("walk", 3, k), rollout('two\nlines "é走"\0', 5, k, sample=1), rollout("", 1, k)]
    store.write(7, written)
    assert [store.has(shard) for shard in (6, 7)] == [False, True]
    for one, two in zip(written, store.read(7), strict=True):
        assert (one.input, one.sample, one.stopped) == (two.input, two.sample, two.stopped)
        assert one.targets.keys() == two.targets.keys()
        pairs = [(getattr(one, name), getattr(two, name)) for name in RAGGED]
        for a, b in pairs + [(one.targets[name], two.targets[name]) for name in one.targets]:
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_a_killed_write_leaves_no_shard(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.open({})

    def killed(file, **arrays):
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write(0, [rollout()])
    assert not store.has(0) and [path.name for path in tmp_path.iterdir()] == ["asked.json"]


def test_a_store_says_what_was_asked_otherwise(tmp_path):
    Store(tmp_path).open({"seed": 1, "sampling": {"top_k": 3}, "lrs": (1, 2)})
    Store(tmp_path).open({"lrs": (1, 2), "sampling": {"top_k": 3}, "seed": 1})
    with pytest.raises(config.UserError, match=r"sampling was \{'top_k': 3\}, is now \{'top_k': 4\}\); ask"):
        Store(tmp_path).open({"seed": 1, "sampling": {"top_k": 4}, "lrs": (1, 2)})


def test_shards_of_an_unknown_request_are_not_continued(tmp_path):
    store = Store(tmp_path)
    store.open({"seed": 1})
    store.write(0, [rollout()])
    (tmp_path / "asked.json").unlink()
    with pytest.raises(config.UserError, match="seed was None, is now 1"):
        store.open({"seed": 1})


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99])
def test_a_damaged_shard_is_named(tmp_path, damage):
    store = Store(tmp_path)
    store.open({})
    store.write(0, [rollout()])
    path = tmp_path / "00000.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(config.UserError, match=r"00000.npz cannot be read .* delete it"):
        store.read(0)


def test_samples_can_be_read_by_people(tmp_path):
    store = Store(tmp_path)
    store.open({})
    one = rollout("gehen é")
    path = store.write_text([one], lambda ids: f"{len(ids)} tokens é")
    assert "é" in path.read_text(encoding="utf-8")
    line = json.loads(path.read_text(encoding="utf-8"))
    assert line == {
        "input": "gehen é",
        "sample": 0,
        "text": "3 tokens é",
        "stopped": True,
        "logprob": round(float(one.logprobs.sum()), 3),
    }
