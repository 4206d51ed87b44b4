"""P(output) against P(rejected) under a view, as a dense float computation has it."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from cdjax import config
from cdjax.distill import opening
from cdjax.model import decoder
from cdjax.score import preference, summary
from cdjax.score.exam import Exam
from cdjax.tasks import Example
from tests.test_exam import says_nothing
from tests.test_rounds import experiment

EXAMPLES = [  # prompts and answers of several lengths, and one that rejects nothing
    Example("talk", "talked", rejected="taked"),
    Example("overthrow", "overthrew", rejected="overthrown by many"),
    Example("be", "was", rejected="was"),
    Example("sing", "sang"),
    Example("go", "went", rejected="go"),
]


def opened(workdir, examples=EXAMPLES, **changes):
    """A run whose task is tested on the examples: after demonstrations for the teacher, bare for the student."""
    return with_task(opening.open(experiment(**changes), workdir), test=tuple(examples))


def with_task(run, **changes):
    """The run with another task."""
    (assignment,) = run.assignments
    task = dataclasses.replace(assignment.task, **changes)
    return dataclasses.replace(run, assignments=(dataclasses.replace(assignment, task=task),))


def compared(run, side, stops=None):
    views, batch = run.assignments[0].views, run.cfg.training.sampling.batch
    prompts = getattr(views.prompts([one.input for one in EXAMPLES]), side)
    view = getattr(views, side)
    if stops is not None:
        view = dataclasses.replace(view, format=dataclasses.replace(view.format, stops=stops))
    return preference.compare(run.student.model, view, prompts, EXAMPLES, run.mesh, batch)


def logs(found):
    return np.array([(one.output, one.rejected) for one in found if one is not None])


@jax.jit
def dense(model, ids, real):
    """Log-probabilities of every token that may follow each one."""
    return jax.nn.log_softmax(model.logits(model(ids, decoder.row_positions(real, None), real)[0]))


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_it_is_the_probability_of_the_answers_own_tokens_after_the_whole_prompt(tmp_path, side):
    run = opened(tmp_path)
    prompts = getattr(run.assignments[0].views.prompts([one.input for one in EXAMPLES]), side)
    assert len(prompts.context) > 20 if side == "teacher" else len(prompts.whole[0]) < 12
    texts = [(row, text) for row, one in enumerate(EXAMPLES) if one.rejected for text in (one.output, one.rejected)]
    answers = [run.format.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] for _, text in texts]
    whole = [[*prompts.whole[row], *answer] for (row, _), answer in zip(texts, answers, strict=True)]
    ids = np.array([row + [0] * (max(map(len, whole)) - len(row)) for row in whole])
    with jax.set_mesh(run.mesh):
        table = np.asarray(
            dense(run.student.model.decoder, ids, np.arange(ids.shape[1]) < [[len(row)] for row in whole])
        )
    wanted = [
        sum(table[at, len(row) - len(answer) - 1 + i, one] for i, one in enumerate(answer))
        for at, (row, answer) in enumerate(zip(whole, answers, strict=True))
    ]
    found = compared(run, side)
    assert found[3] is None
    np.testing.assert_allclose(logs(found).ravel(), wanted, atol=2e-4)


def test_equal_answers_are_equally_likely_and_neither_is_preferred(tmp_path):
    found = compared(opened(tmp_path), "teacher")[2]
    assert found.magnitude == 0 and found.grade == 0


def test_the_score_compares_what_a_float_would_lose():
    """exp(-800) is 0 in a float; the more likely answer is still the more likely one."""
    assert preference.Preference(-800.0, -801.0).grade == 1 and preference.Preference(-801.0, -800.0).grade == 0
    assert preference.Preference(math.log(0.7), math.log(0.2)).magnitude == pytest.approx(50)


def test_neither_batch_nor_mesh_changes_it(tmp_path):
    one = {side: logs(compared(opened(tmp_path / "one"), side)) for side in ("teacher", "student")}
    for name, changes in {
        "batch": {"sampling": config.Sampling(batch=3)},
        "mesh": {"mesh": config.Mesh(data=2, fsdp=2, tensor=2)},
    }.items():
        run = opened(tmp_path / name, **changes)
        for side, wanted in one.items():
            np.testing.assert_allclose(logs(compared(run, side)), wanted, atol=1e-4)


def test_an_answer_that_is_one_token_with_its_stop_is_refused(tmp_path):
    run = opened(tmp_path)
    first = run.format.tokenizer(" talked", add_special_tokens=False)["input_ids"][0]
    with pytest.raises(config.UserError, match="the answer 'talked' to 'talk' is one token with the stop"):
        compared(run, "student", np.array([first], np.int32))


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_grade_is_the_preference_where_an_example_rejects_an_answer(tmp_path, monkeypatch, side):
    """0 or 1, and the magnitude beside; an example that rejects nothing keeps the task's own grade."""
    pairs = ((-1.0, -2.0), (-2.0, -1.0), (-3.0, -3.0), None, (-1.0, -2.0))
    likes = [pair and preference.Preference(*pair) for pair in pairs]
    run = with_task(opened(tmp_path), grade=lambda example, answer: 0.25)
    view, model = getattr(run.assignments[0].views, side), run.student.model
    monkeypatch.setattr(preference, "compare", lambda model, seen, *rest: likes if seen is view else None)
    monkeypatch.setattr(Exam, "greedy", says_nothing)
    graded = run.exam.grade(model, side, [EXAMPLES], title=side)
    assert graded["grades"] == [1, 0, 0, 0.25, 1]
    sure = 100 * (math.exp(-1) - math.exp(-2))
    assert graded["magnitudes"] == [pytest.approx(sure), pytest.approx(-sure), 0, None, pytest.approx(sure)]
    monkeypatch.setattr(preference, "compare", lambda *given: [None] * 5)
    assert "magnitudes" not in run.exam.grade(model, side, [EXAMPLES], title=side)


def test_without_rejected_answers_there_is_no_magnitude():
    assert "magnitude" not in summary.summary("accuracy", [[1.0]], [[]])
    assert summary.summary("preference", [[1.0, 0.0]], [[30.0, None]])["magnitude"] == 30
