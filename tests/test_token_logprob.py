"""On-policy distillation by policy gradient, with what the teacher gives each token as the advantage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config
from cdjax.config import check
from cdjax.losses import divergence
from cdjax.workdir import metrics
from tests.command import run_tiny
from tests.test_rounds import experiment

RNG = np.random.default_rng(0)
TEACHER, STUDENT = (jnp.asarray(RNG.normal(size=11), jnp.float32) for _ in "pq")
TARGETS, POLICY = config.TokenLogprob(), config.PolicyGradient()


def test_it_records_the_written_tokens_log_probability():
    recorded = TARGETS.observe(jnp.tile(TEACHER, (11, 1)), jnp.arange(11), jnp.zeros((11, 0)))
    np.testing.assert_allclose(recorded["logprob"], jax.nn.log_softmax(TEACHER), rtol=1e-6)
    assert {name: (x.shape[1:], str(x.dtype)) for name, x in recorded.items()} == TARGETS.buffers()


def test_over_the_students_own_tokens_its_gradient_is_that_of_the_reverse_kl():
    """The expectation over tokens of the student is taken exactly: every token, as often as the student writes it."""
    recorded = {"logprob": jax.nn.log_softmax(TEACHER)}
    often = jax.nn.softmax(STUDENT)

    def policy(logits):
        return (often * POLICY.of_tokens(jax.nn.log_softmax(logits), TARGETS, recorded)).sum()

    def reverse(logits):
        q = jax.nn.log_softmax(logits)
        return divergence.total(config.ReverseKL().pointwise, jax.nn.log_softmax(TEACHER)[None], q[None])[0]

    np.testing.assert_allclose(jax.grad(policy)(STUDENT), jax.grad(reverse)(STUDENT), atol=1e-6)


def test_where_both_sides_agree_there_is_no_gradient():
    recorded = {"logprob": jax.nn.log_softmax(STUDENT)}
    gradient = jax.grad(lambda logits: POLICY.of_tokens(jax.nn.log_softmax(logits), TARGETS, recorded).sum())(STUDENT)
    np.testing.assert_array_equal(gradient, 0)


def test_it_is_chosen_on_the_command_line(tmp_path):
    chosen = {"training__targets": "token_logprob", "training__losses": "policy_gradient"}
    segments = {"training__update__every": "2", "training__update__batch": "2"}
    run_tiny(tmp_path, training__sources="student", operations__0__keep__filters="", **chosen, **segments)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert len(lines) == 4 and all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.parametrize("sources", ["teacher", "student,labels", "mixture"])
def test_what_the_student_did_not_write_is_refused(sources):
    changes = {"training.targets": "token_logprob", "training.losses": "policy_gradient", "training.sources": sources}
    with pytest.raises(
        config.UserError, match="policy_gradient is for tokens that the student wrote, .* use sources=student"
    ):
        check.validate(config.override(experiment(), changes))
