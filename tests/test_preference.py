"""P(output) against P(rejected) under a view, as a dense float computation has it."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config, evaluate, preference, report, setting
from cdjax.distill import rounds
from cdjax.model import decoder
from cdjax.tasks import Example
from tests.test_rounds import experiment

EXAMPLES = [  # prompts and answers of several lengths, and one that rejects nothing
    Example("talk", "talked", rejected="taked"),
    Example("overthrow", "overthrew", rejected="overthrown by many"),
    Example("be", "was", rejected="was"),
    Example("sing", "sang"),
    Example("go", "went", rejected="go"),
]


def opened(workdir, examples=EXAMPLES, **changes):
    """A setting whose task is tested on the examples: after demonstrations for the teacher, bare for the student."""
    here = setting.open(experiment(**changes), workdir)
    return dataclasses.replace(here, tasks=(dataclasses.replace(here.tasks[0], test=tuple(examples)),))


def compared(here, side, model=None):
    model = here.model(here.original) if model is None else model
    prompts = getattr(here.views(0, [one.input for one in here.tasks[0].test]), side)
    return preference.compare(here, model, side, 0, prompts, here.tasks[0].test)


def logs(found):
    return np.array([(one.output, one.rejected) for one in found if one is not None])


def dense(model, prompt, answer):
    """The answer's log-probability from the logits of the whole text, in float64."""
    ids = np.concatenate([prompt, answer])
    real = jnp.ones((1, len(ids)), bool)
    logits = model.logits(model(jnp.asarray(ids)[None], decoder.row_positions(real, None), real)[0])
    table = np.asarray(logits[0], np.float64)
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    return sum(table[len(prompt) - 1 + at, one] for at, one in enumerate(answer))


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_it_is_the_probability_of_the_answers_own_tokens_after_the_whole_prompt(tmp_path, side):
    here = opened(tmp_path)
    prompts = getattr(here.views(0, [one.input for one in EXAMPLES]), side)
    assert len(prompts.context) > 20 if side == "teacher" else len(prompts.whole[0]) < 12
    found = compared(here, side)
    assert found[3] is None
    model = here.model(here.original)
    with jax.set_mesh(here.mesh):
        for one, prompt, like in zip(EXAMPLES, prompts.whole, found, strict=True):
            for text, log in ((one.output, like.output), (one.rejected, like.rejected)) if like else ():
                answer = np.array(here.tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
                assert log == pytest.approx(dense(model, prompt, answer), abs=2e-4)


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
        here = opened(tmp_path / name, **changes)
        for side, wanted in one.items():
            np.testing.assert_allclose(logs(compared(here, side)), wanted, atol=1e-4)


def test_an_answer_that_is_one_token_with_its_stop_is_refused(tmp_path):
    here = opened(tmp_path)
    first = here.tokenizer(" talked", add_special_tokens=False)["input_ids"][0]
    with pytest.raises(config.UserError, match="the answer 'talked' to 'talk' is one token with the stop"):
        compared(dataclasses.replace(here, stops=np.array([first], np.int32)), "student")


def test_every_student_and_the_baseline_is_graded_by_preference_where_examples_reject(tmp_path, monkeypatch):
    """Grades are 0 or 1, the magnitudes beside; an example that rejects nothing keeps the task's own grade."""
    score = config.Score(
        examples=5, validation=2, held_out=2, forgetting=0, baseline=config.GradientDescent((1e-3,), 1, 1, 3)
    )
    load = setting.load
    changed = {"test": tuple(EXAMPLES), "metric": "preference", "grade": lambda example, answer: 0.25}
    monkeypatch.setattr(setting, "load", lambda *args, **named: dataclasses.replace(load(*args, **named), **changed))
    told = rounds.run(experiment(score=score), tmp_path)
    found = json.loads((tmp_path / "journal.json").read_text())
    stages = {"teacher": "teacher", "before": "before", "after": "seed 0/round 0/score"}
    stages |= {"gradient_descent": "seed 0/gradient_descent"}
    for name, stage in stages.items():
        graded = found[stage]["result"]
        assert graded["magnitudes"][2] == 0 and graded["magnitudes"][3] is None and graded["grades"][2:4] == [0, 0.25]
        for grade, magnitude in zip(graded["grades"], graded["magnitudes"], strict=True):
            assert magnitude is None or grade == (magnitude > 0)
        known = [one for one in graded["magnitudes"] if one is not None]
        entry = told["scores"][name]
        assert entry["magnitude"] == pytest.approx(np.mean(known)) and entry["mean"] == np.mean(graded["grades"])
        assert f"{entry['mean']:.2f}</strong><small>preference, magnitude {entry['magnitude']:+.1f}" in (
            report.write(tmp_path).read_text()
        )
        assert f"magnitude {entry['magnitude']:+.1f}" in report.table([tmp_path])


def test_without_rejected_answers_there_is_no_magnitude():
    assert "magnitude" not in evaluate.summary("accuracy", [[1.0]], [[]])
    assert evaluate.summary("preference", [[1.0, 0.0]], [[30.0, None]])["magnitude"] == 30
