import dataclasses

import numpy as np
import pytest

from cdjax import config
from cdjax.lessons import batches
from cdjax.lessons.pairs import Pair, hard

VOCAB, TOP = 64, 4


def make_pairs(count, seed=0):
    """Pairs of differing lengths; the student must produce all but the first token of what the teacher wrote."""
    rng = np.random.default_rng(seed)

    def ids(*shape):
        return rng.integers(1, VOCAB, shape).astype(np.int32)

    def one(i):
        length = 2 + i % 4
        mass = np.log(np.sort(rng.dirichlet(np.ones(TOP + 1), length - 1)[:, :TOP])[:, ::-1]).astype(np.float32)
        top = np.argsort(rng.random((length - 1, VOCAB)), -1)[:, :TOP].astype(np.int32)
        kept = np.arange(1, length, dtype=np.int32)
        return Pair(
            ids(3 + i % 3),
            ids(1 + i % 5),
            ids(length),
            kept,
            {"ids": top, "logprobs": mass},
            np.ones(len(kept), np.float32),
        )

    return [one(i) for i in range(count)]


def make(mesh, count=10, seed=0, **flags):
    return batches.Batches(make_pairs(count), config.Update(**({"batch": 4, "epochs": 2} | flags)), seed, mesh)


def contents(batch):
    """What each pair of a batch says and where it is read, from the packed rows alone."""
    found = []
    for part in range(len(batch.weight)):
        rows = batch.student
        tokens, texts, predictors = (np.asarray(x[part]) for x in (rows.tokens, rows.texts, rows.predictors))
        ids, real = np.asarray(batch.ids[part]), np.asarray(batch.weight[part]) != 0
        for text in sorted(set(texts.flat) - {0}):
            mine = real & (texts.flat[predictors] == text)
            found.append((tuple(tokens[texts == text]), tuple(ids[mine])))
    return found


def test_every_epoch_holds_every_pair_once_in_another_order(mesh):
    data = make(mesh)
    assert len(data) == 6
    first, second = (sum((contents(data[step]) for step in steps), []) for steps in (range(3), range(3, 6)))
    assert len(first) == 10 and sorted(first) == sorted(second) and first != second
    assert sorted(first) == sorted(
        (tuple(pair.student_prompt) + tuple(pair.rollout[1:-1]), tuple(pair.rollout[1:])) for pair in make_pairs(10)
    )


def test_a_batch_depends_on_seed_and_step_alone(mesh):
    data, again, other = make(mesh), make(mesh), make(mesh, seed=1)
    assert contents(again[4]) == contents(data[4]) == contents(data[4])
    assert [contents(data[step]) for step in range(6)] != [contents(other[step]) for step in range(6)]
    with pytest.raises(IndexError, match="step 6 of 6"):
        data[6]


def test_kept_tokens_are_read_at_the_token_before_them_on_both_sides(mesh):
    pairs = make_pairs(5)
    (batch,) = batches.Batches(pairs, config.Update(batch=8), 0, mesh, teacher=True)
    flat = {side: np.asarray(getattr(batch, side).tokens).reshape(-1) for side in ("student", "teacher")}
    before = {side: flat[side][np.asarray(getattr(batch, side).predictors[0])] for side in flat}
    real, ids = np.asarray(batch.weight[0]) != 0, np.asarray(batch.ids[0])
    found = set()
    for i in np.flatnonzero(real):
        (pair, j), *more = [
            (pair, j) for pair in pairs for j, kept in enumerate(pair.kept)
            if np.array_equal(pair.targets["ids"][j], batch.targets["ids"][0, i]) and pair.rollout[kept] == ids[i]
        ]  # fmt: skip
        assert not more
        found.add((id(pair), j))
        assert before["teacher"][i] == pair.rollout[pair.kept[j] - 1]
        assert before["student"][i] == (pair.rollout[pair.kept[j - 1]] if j else pair.student_prompt[-1])
        np.testing.assert_array_equal(batch.targets["logprobs"][0, i], pair.targets["logprobs"][j])
    assert len(found) == real.sum() == sum(len(pair.kept) for pair in pairs)


def test_weights_and_temperatures_stay_with_their_tokens(mesh):
    def marked(pair):
        marks = pair.rollout[pair.kept].astype(np.float32)
        return dataclasses.replace(pair, weight=marks, temperature=marks / 2)

    (batch,) = batches.Batches([marked(pair) for pair in make_pairs(5)], config.Update(batch=8), 0, mesh)
    np.testing.assert_array_equal(batch.weight, batch.ids)
    np.testing.assert_array_equal(batch.temperature, batch.ids / 2)
    mixed = [marked(make_pairs(1)[0]), make_pairs(2)[1]]
    with pytest.raises(ValueError):
        _ = batches.Batches(mixed, config.Update(batch=2), 0, mesh)[0]


def test_the_teacher_reads_no_further_than_the_last_kept_token():
    pair = hard(*(np.array(ids, np.int32) for ids in ([7, 8], [9], [1, 2, 3, 4])))
    pair = dataclasses.replace(pair, kept=np.array([0, 2], np.int32), weight=pair.weight[:2])
    tokens, at = pair.read("teacher")
    assert tokens.tolist() == [7, 8, 1, 2] and tokens[at].tolist() == [8, 2]


def test_positions_count_from_0_in_every_text(mesh):
    rows = make(mesh)[0].student
    texts, positions = np.asarray(rows.texts), np.asarray(rows.positions)
    for text in set(texts.flat) - {0}:
        mine = positions[texts == text]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))


def test_batches_are_split_over_data_and_fsdp(mesh8, mesh):
    batch, whole = make(mesh8)[0], make(mesh)[0]
    assert {shard.data.shape[0] for shard in batch.ids.addressable_shards} == {1}
    assert sorted(contents(batch)) == sorted(contents(whole))


@pytest.mark.parametrize("flags", [{"batch": 3}, {"micro_batches": 2}, {"epochs": 0}, {"count": 0}])
def test_what_cannot_be_cut_is_refused_before_anything_runs(flags, mesh8):
    with pytest.raises(config.UserError):
        make(mesh8, **flags)


def test_a_batch_says_its_shape(mesh):
    (batch,) = batches.Batches(make_pairs(3), config.Update(batch=3), 0, mesh, teacher=True)
    assert str(batch) == "1 rows of 16 tokens and 1 rows of the teacher's of 24 tokens"
