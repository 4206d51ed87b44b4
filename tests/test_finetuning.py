"""The laws of fine-tuning on solved examples, on a random model of 100,000 weights."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from cdjax import config, tasks
from cdjax.config import Labelled, Optim, Supervised, Update, check
from cdjax.distill import finetuning, opening, rounds, stages
from cdjax.learn import update
from cdjax.lessons import batches
from cdjax.workdir import metrics
from tests.test_rounds import Killed, assert_same_end, die, experiment, outcome

OPTIM = Optim(lr=3e-3)
STEPS = Labelled("past_tense", 6, config.Context(request="In steps: "))
DIRECT = Labelled("past_tense", 6)
TUNED = experiment(
    teacher=Supervised(examples=(STEPS,), optim=OPTIM, update=Update(epochs=4, batch=3, checkpoint_every=2)),
    context=config.Context(request="In steps: "),
    score=config.Score(
        examples=4,
        measures=(),
        supervised=(
            Supervised("then", (DIRECT,), "teacher", OPTIM, Update(epochs=2, batch=3)),
            Supervised("both", (STEPS, DIRECT), "model", OPTIM, Update(epochs=2, batch=6)),
        ),
    ),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted, and the weights that every training began with, in order."""
    workdir, begun, start = tmp_path_factory.mktemp("whole"), [], update.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "start", lambda params, *rest: begun.append(params) or start(params, *rest))
        rounds.run(TUNED, workdir)
    return workdir, begun


def tuned(workdir):
    """The teacher's weights in a run that has ended."""
    return finetuning.with_teacher(opening.open(TUNED, workdir)).models.original


def same(some, others):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), some, others)))


def test_each_training_begins_where_the_config_says(whole):
    """The teacher with the model; the student and "then" with the teacher; "both" with the model."""
    workdir, begun = whole
    model, teacher = opening.reopen(workdir).models.base, tuned(workdir)
    assert not same(model, teacher) and len(begun) == 4
    assert [same(one, model) for one in begun] == [True, False, False, True]
    assert [same(one, teacher) for one in begun] == [False, True, True, False]


def test_the_loss_on_the_solved_examples_falls_and_every_baseline_is_scored(whole):
    lines = [line for line in metrics.read(whole[0] / "metrics.jsonl") if line["stage"] == "teacher/tune"]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    scores = outcome(whole[0])[0]["scores"]
    assert list(scores) == ["teacher", "before", "after", "then", "both"]
    assert {score["n"] for score in scores.values()} == {4}


@pytest.mark.parametrize("stop", [3, 22])
def test_killed_in_any_fine_tuning_and_resumed_equals_never_killed(stop, whole, tmp_path, monkeypatch):
    """8 steps of the teacher's, 6 of the student, 4 of each baseline."""
    seen = []

    def report(*given):
        seen.append(given[0])
        return original(*given) if len(seen) != stop else die()

    original = update._report
    monkeypatch.setattr(update, "_report", report)
    with pytest.raises(Killed):
        rounds.run(TUNED, tmp_path)
    rounds.run(TUNED, tmp_path)
    assert seen[stop - 1 : stop + 1] == {3: [3, 3], 22: [4, 1]}[stop]
    assert_same_end(tmp_path, whole[0])


def test_the_tuned_teacher_teaches_every_round_also_a_student_that_begins_as_the_model(tmp_path, monkeypatch):
    given = []
    learn = stages.learn
    monkeypatch.setattr(stages, "learn", lambda *these: given.append(these[1:3]) or learn(*these))
    cfg = config.override(TUNED, {"start": "model", "plan.order": "sequential", "plan.repeat": 2})
    cfg = config.override(cfg, {"score.supervised": ()})
    rounds.run(cfg, tmp_path)
    teacher = finetuning.with_teacher(opening.open(cfg, tmp_path)).models.original
    (first, taught_first), (_, taught_second) = given
    assert same(taught_first, teacher) and same(taught_second, teacher)
    assert same(first, opening.reopen(tmp_path).models.base) and not same(first, teacher)


def test_what_is_learned_is_the_written_answer_under_the_view(whole):
    run = opening.open(TUNED, whole[0])
    found = [run.format.tokenizer.decode(np.concatenate(one)) for one in run.labelled(STEPS)]
    assert len(found) == 6 and all(" ->In steps:  " in text and text.endswith("\n") for text in found)


def test_the_checkpoint_of_another_model_is_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "journal.json").unlink()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(config.UserError, match="had another teacher"):
        patch.setattr(finetuning.answers, "identity", lambda model: "another")
        rounds.run(TUNED, tmp_path / "run")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher.examples": (dataclasses.replace(STEPS, count=10_000),)}, "10000 labelled examples asked of task"),
        ({"teacher.examples": (dataclasses.replace(STEPS, count=0),)}, "a count of at least 1"),
        ({"teacher.examples": (dataclasses.replace(STEPS, view=config.Context(shots=-1)),)}, "view.shots=-1"),
        ({"teacher.start": "teacher"}, "no meaning"),
        ({"teacher.optim.lr": 0.0}, "teacher must have an optim.lr"),
        ({"score.supervised.0.name": "after"}, "different names"),
        ({"score.supervised.0.name": "both"}, "different names"),
        ({"score.supervised.0.examples": ()}, "supervised.0.examples is empty"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(wrong, message, tmp_path):
    with pytest.raises(config.UserError, match=message):
        rounds.run(config.override(TUNED, wrong), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_is_replayed_is_learned_beside_the_teachers_answers(tmp_path):
    plurals = Labelled("plural", 6)
    cfg = experiment(
        update=Update(epochs=6, batch=6),
        score=config.Score(examples=2, measures=()),
    )
    nats = {}
    for name, replay in (("without", ()), ("with", (plurals,))):
        found = rounds.run(dataclasses.replace(cfg, replay=replay), tmp_path / name)
        run = opening.open(dataclasses.replace(cfg, replay=replay), tmp_path / name)
        steps = batches.Batches(finetuning.taught(run.labelled(plurals)), Update(batch=6), 0, run.mesh)
        student = run.reader(rounds.last_student(run, 0))
        with jax.set_mesh(run.mesh):
            targets, losses = finetuning.HARD
            loss, _ = jax.jit(functools.partial(update.batch_loss, targets=targets, losses=losses))(
                student, None, steps[0]
            )
        nats[name] = float(loss)
        told = run.journal.results()["seed 0/round 0/update"]
        assert told["pairs"] == found["rollouts"]["kept"] + told["replayed"] and told["replayed"] == len(replay) * 6
    assert nats["with"] < 0.8 * nats["without"]


@pytest.mark.parametrize(
    "changes",
    [{"losses.0.kind": "reverse_kl"}, {"losses.0.kind": "jsd"}, {"targets": "full"}],
)
def test_a_written_answer_has_no_distribution_to_be_compared_with(changes):
    with pytest.raises(config.UserError, match="replay has written answers"):
        check.validate(config.override(experiment(replay=(DIRECT,)), changes))


def test_one_input_may_have_two_written_answers_and_a_views_file_is_watched(tmp_path):
    (tmp_path / "told.md").write_text("Say the plural.")
    shown = tuple(config.Demonstration("ox", answer) for answer in ("oxen", "oxes"))
    view = config.Context(file=str(tmp_path / "told.md"))
    cfg = experiment(replay=(Labelled("plural", view=view, demonstrations=shown),))
    run = opening.open(cfg, tmp_path / "run")
    (prompt, oxen), (same_prompt, oxes) = run.labelled(cfg.replay[0])
    assert prompt.tolist() == same_prompt.tolist() and oxen.tolist() != oxes.tolist()
    (tmp_path / "told.md").write_text("Say nothing.")
    with pytest.raises(config.UserError, match="told.md before it was changed"):
        opening.open(cfg, tmp_path / "run")


def test_examples_that_choose_a_learning_rate_must_fit_before_anything_is_compiled(tmp_path):
    texts = [f"word {number}" * (20 if number == 22 else 1) for number in range(30)]
    (tmp_path / "words.jsonl").write_text("\n".join(json.dumps({"input": text, "output": "w"}) for text in texts))
    assert texts[22] in [one.input for one in tasks.load("words", data_dir=str(tmp_path)).validation]
    said = config.Context(instruction="Say w. ")
    cfg = experiment(task="words", data_dir=str(tmp_path), context=said, update=Update(epochs=2, batch=4))
    opening.open(cfg, tmp_path / "chooses nothing")
    with pytest.raises(config.UserError, match="a prompt is over its budget, input 'word 22word"):
        opening.open(dataclasses.replace(cfg, tune=config.Tune((1e-3,))), tmp_path / "run")
