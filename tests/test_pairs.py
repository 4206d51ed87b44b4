import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config
from cdjax.lessons.filters import Kept
from cdjax.lessons.pairs import pair
from cdjax.losses import divergence
from cdjax.sampling.store import Rollout
from cdjax.views.prompts import Prompts

IDS = np.array([11, 12, 13, 14], np.int32)
TOP = np.arange(8, dtype=np.int32).reshape(4, 2)
TARGETS = {"ids": TOP, "logprobs": (-TOP / 7).astype(np.float32)}
ROLLOUT = Rollout("two", 0, IDS, (-IDS / 10).astype(np.float32), True, TARGETS, IDS * 0)
KEPT = Kept(ROLLOUT, np.array([1, 3], np.int32), "x")


def prompts(context, **own):
    rows = tuple(np.array(ids, np.int32) for ids in own.values())
    return Prompts(tuple(own), np.array(context, np.int32), rows)


TEACHER = prompts([1, 2, 3], one=[4], two=[5, 6])
STUDENT = prompts([9], two=[7], three=[8])


def test_soft_targets_follow_the_kept_tokens_and_prompts_the_input():
    (made,) = pair([KEPT], TEACHER, STUDENT, completion_budget=2)
    assert made.teacher_prompt.tolist() == [5, 6], "the shared context stands before it"
    assert made.student_prompt.tolist() == [9, 7], "the student has no shared context"
    assert made.rollout[made.kept].tolist() == [12, 14]
    assert made.targets.keys() == TARGETS.keys()
    for name, recorded in TARGETS.items():
        np.testing.assert_array_equal(made.targets[name], recorded[[1, 3]])


def test_nothing_is_left_out_in_silence():
    with pytest.raises(ValueError, match="'two': 2 kept tokens, over limits.completion=1"):
        pair([KEPT], TEACHER, STUDENT, completion_budget=1)
    with pytest.raises(ValueError, match="'two' has an answer but no student prompt"):
        pair([KEPT], TEACHER, prompts([], one=[7]), completion_budget=2)


def test_a_written_answer_beside_recorded_ones_is_cross_entropy():
    """In value and gradient, as the one outcome that is certain."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32))
    answer = np.array([0, 3, 2, 15], np.int32)
    targets = config.TopK(3)
    recorded = targets.certain(answer, 16)
    assert all(len(set(row)) == 3 and 0 <= min(row) and max(row) < 16 for row in recorded["ids"].tolist())
    recorded = jax.tree.map(jnp.asarray, recorded)

    def soft(logits):
        student = jnp.take_along_axis(jax.nn.log_softmax(logits), targets.listed(recorded), 1)
        return divergence.kl(*targets.outcomes(recorded, student)).sum()

    def hard(logits):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), answer[:, None], 1).sum()

    np.testing.assert_allclose(soft(logits), hard(logits), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(soft)(logits), jax.grad(hard)(logits), atol=1e-5)
