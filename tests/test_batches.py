import numpy as np
import pytest

from cdjax import batches, config
from cdjax.distill.pairs import Pair

VOCAB, TOP, DRAWS = 64, 4, 3


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
        return Pair(ids(3 + i % 3), ids(1 + i % 5), ids(length), kept, top, mass, ids(length - 1, DRAWS))

    return [one(i) for i in range(count)]


def make(mesh, count=10, seed=0, **flags):
    return batches.Batches(make_pairs(count), config.Update(**({"batch": 4, "epochs": 2} | flags)), seed, mesh)


def rows(batch):
    """What identifies each row that is not mere filling."""
    real = np.asarray(batch.completion_real).any(-1)
    return [tuple(row) for row in np.asarray(batch.rollout)[real]]


def test_every_epoch_holds_every_pair_once_in_another_order(mesh):
    data = make(mesh)
    assert len(data) == 6
    first, second = (sum((rows(data[step]) for step in steps), []) for steps in (range(3), range(3, 6)))
    assert len(first) == 10 and sorted(first) == sorted(second) and first != second


def test_a_batch_depends_on_seed_and_step_alone(mesh):
    data, again, other = make(mesh), make(mesh), make(mesh, seed=1)
    assert rows(again[4]) == rows(data[4]) == rows(data[4])
    assert [rows(data[step]) for step in range(6)] != [rows(other[step]) for step in range(6)]
    with pytest.raises(IndexError, match="step 6 of 6"):
        data[6]


def test_rows_are_padded_to_one_shape_and_masks_tell_where(mesh):
    pairs = make_pairs(5)
    width = batches.widths(pairs)
    batch = batches.side_by_side(pairs, rows=8, widths=width)
    assert width == {"teacher_prompt": 8, "student_prompt": 8, "rollout": 8, "completion": 4}
    for i, pair in enumerate(pairs):
        length, kept = len(pair.student_prompt), len(pair.kept)
        assert batch["student_prompt_real"][i].tolist() == [False] * (8 - length) + [True] * length
        assert batch["completion_real"][i].tolist() == [True] * kept + [False] * (4 - kept)
        np.testing.assert_array_equal(batch["student_prompt"][i, 8 - length :], pair.student_prompt)
        np.testing.assert_array_equal(batch["completion"][i, :kept], pair.rollout[1:])
        np.testing.assert_array_equal(batch["top_logprobs"][i, :kept], pair.top_logprobs)
    assert not any(batch[name][5:].any() for name in batch)


def test_batches_are_split_over_data_and_fsdp(mesh8, mesh):
    batch, whole = make(mesh8)[0], make(mesh)[0]
    assert {shard.data.shape[0] for shard in batch.completion.addressable_shards} == {1}
    np.testing.assert_array_equal(batch.completion, whole.completion)


@pytest.mark.parametrize("flags", [{"batch": 6}, {"micro_batches": 2}, {"epochs": 0}, {"count": 0}])
def test_what_does_not_divide_is_refused_before_anything_runs(flags, mesh8):
    with pytest.raises(config.UserError):
        make(mesh8, **flags)
