import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config
from cdjax.distill import opening
from cdjax.lessons import pairs
from cdjax.model import decoder
from cdjax.model.reader import Reader
from cdjax.score import distance, summary
from cdjax.score.exam import Exam, Subject
from tests.test_rounds import experiment


def test_the_interval_covers_as_often_as_it_says():
    """Of 2,000 draws of 128 examples at several accuracies, about 95 % have the true one inside."""
    rng = np.random.default_rng(0)
    for accuracy in (0.05, 0.5, 0.9):
        means = rng.binomial(128, accuracy, 2000) / 128
        inside = [low <= accuracy <= high for low, high in (summary.wilson(mean, 128) for mean in means)]
        assert 0.93 < np.mean(inside) < 0.98


def test_the_interval_stays_in_range_and_holds_the_mean():
    for n in (1, 8, 100):
        for mean in (0.0, 0.3, 1.0):
            low, high = summary.wilson(mean, n)
            assert 0 <= low <= mean <= high <= 1 and high > low


def test_seeds_do_not_narrow_the_interval():
    one = summary.summary("accuracy", [[1.0, 0.0, 1.0, 1.0]])
    three = summary.summary("accuracy", [[1.0, 0.0, 1.0, 1.0]] * 3)
    assert three["ci95"] == one["ci95"] and three["n"] == 4 and three["per_seed"] == [0.75] * 3
    assert three["mean"] == pytest.approx(0.75)


def test_the_divergence_is_that_of_both_views_at_every_token_of_the_answers(tmp_path):
    """Contexts of two operations; None without text, 0 between equal models that read the same."""
    run, rng = opening.open(experiment(), tmp_path), np.random.default_rng(0)
    one = run.student.model.decoder
    two = decoder.create(one.spec, run.mesh, seed=1)

    def ids(count):
        return rng.integers(1, one.spec.vocab, count).astype(np.int32)

    parts = [
        (ids(length), [pairs.hard(ids(2 + i), ids(5 - i), ids(3 + i)) for i in range(count)])
        for length, count in ((7, 3), (4, 2))
    ]

    @jax.jit
    def read(model, text):
        real = jnp.ones(text.shape, bool)
        return jax.nn.log_softmax(model.logits(model(text, decoder.row_positions(real, None), real)[0]))

    def logprobs(model, *text):
        return np.asarray(read(model, jnp.asarray(np.concatenate(text))[None]))[0, -len(text[-1]) - 1 : -1]

    with jax.set_mesh(run.mesh):
        tokens = [
            np.exp(p) * (p - logprobs(two, pair.student_prompt, pair.rollout))
            for context, found in parts
            for pair in found
            for p in [logprobs(one, context, pair.teacher_prompt, pair.rollout)]
        ]
        wanted = np.concatenate([token.sum(-1) for token in tokens]).mean()
        found = distance.divergence(Reader(one), Reader(two), parts, run.mesh, 4)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        assert distance.divergence(Reader(one), Reader(two), [], run.mesh, 4) is None
        same = [pairs.hard(prompt, prompt, ids(4)) for prompt in (ids(3), ids(6))]
        assert distance.divergence(Reader(one), Reader(one), [(np.zeros(0, np.int32), same)], run.mesh, 4) == 0


def with_tasks(run, *tasks):
    """The run's exam, of other tasks."""
    pairs = zip(run.assignments, tasks, strict=True)
    return dataclasses.replace(run.exam, assignments=tuple(dataclasses.replace(one, task=task) for one, task in pairs))


def says_nothing(exam, model, prompts, stops, *, title):
    """In the place of `Exam.greedy`."""
    return [types.SimpleNamespace(input=text, ids=np.ones(2, np.int32)) for text in prompts.inputs]


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_an_answer_is_graded_against_the_whole_example(tmp_path, monkeypatch, side):
    run, seen = opening.open(experiment(), tmp_path), []
    task = run.assignments[0].task
    task = dataclasses.replace(task, grade=lambda example, answer: seen.append(example) or 1.0)
    example = dataclasses.replace(task.test[0], references=("another",))
    monkeypatch.setattr(Exam, "greedy", says_nothing)
    with_tasks(run, task).grade(run.student.model, side, [[example]], title=side)
    assert seen == [example]


def test_wrong_association_asks_under_another_view_and_grades_by_the_own_task(tmp_path, monkeypatch):
    operations = tuple(
        config.Operation(name, config.Inputs(pool=True), student_context=config.Context(instruction=name))
        for name in ("past_tense", "plural")
    )
    score = config.Score(examples=4, measures=(config.WrongAssociation(),))
    run = opening.open(experiment(operations=operations, score=score), tmp_path)
    tasks = [
        dataclasses.replace(assignment.task, grade=lambda *_, number=number: float(number))
        for number, assignment in enumerate(run.assignments)
    ]
    monkeypatch.setattr(Exam, "greedy", says_nothing)
    exam, model = with_tasks(run, *tasks), run.student.model
    graded = config.WrongAssociation()(Subject(exam, (0, 1), exam.tests(), model, model, model, tmp_path, 4))
    assert graded["mean"] == 0.5
    assert graded["views"] == [0] * 4 + [1] * 4 and graded["operations"] == graded["grades"] == [1] * 4 + [0] * 4
    assert graded["inputs"] == [one.input for number in (1, 0) for one in tasks[number].test[:4]]
