"""The laws of fine-tuning on solved examples, on a random model of 100,000 weights."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from cdjax import config, tasks
from cdjax.config import FromTeacher, Labelled, Optim, Update, Written, check, supervised
from cdjax.distill import opening, plan, rounds, updates
from cdjax.learn import update
from cdjax.lessons import batches
from cdjax.workdir import metrics
from tests.test_rounds import Killed, assert_same_end, die, experiment, outcome

OPTIM = Optim(lr=3e-3)
STEPS = Labelled("past_tense", 6, config.Context(request="In steps: "))
DIRECT = Labelled("past_tense", 6)
TUNED = experiment(
    teachers=(
        config.Teacher(
            training=supervised(Written((STEPS,)), optim=OPTIM, update=Update(epochs=4, batch=3, checkpoint_every=2))
        ),
    ),
    start="teacher",
    context=config.Context(request="In steps: "),
    baselines=(
        config.Baseline(
            "then", supervised(Written((DIRECT,)), optim=OPTIM, update=Update(epochs=2, batch=3), start="teacher")
        ),
        config.Baseline("both", supervised(Written((STEPS, DIRECT)), optim=OPTIM, update=Update(epochs=2, batch=6))),
    ),
    score=config.Score(examples=4, measures=()),
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
    return rounds.with_teachers(opening.open(TUNED, workdir)).teachers[0].params


def same(some, others):
    leaves = zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    return all(bool((a == b).all()) for a, b in leaves)


def test_each_training_begins_where_the_config_says(whole):
    """The teacher with the model; the student and "then" with the teacher; "both" with the model."""
    workdir, begun = whole
    model, teacher = opening.reopen(workdir).student.base, tuned(workdir)
    assert not same(model, teacher) and len(begun) == 4
    assert [same(one, model) for one in begun] == [True, False, False, True]
    assert [same(one, teacher) for one in begun] == [False, True, True, False]


def test_the_loss_on_the_solved_examples_falls_and_every_baseline_is_scored(whole):
    lines = [line for line in metrics.read(whole[0] / "metrics.jsonl") if "teacher" in line]
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
    learn = updates.learn

    def told(segment, begin, teacher, *rest):
        if segment.student:
            given.append((begin, segment.run.teaching(teacher)[0].decoder))
        return learn(segment, begin, teacher, *rest)

    monkeypatch.setattr(updates, "learn", told)
    cfg = config.override(TUNED, {"training.start": "model", "plan.order": "sequential", "plan.repeat": 2})
    cfg = config.override(cfg, {"baselines": ()})
    rounds.run(cfg, tmp_path)
    teacher = rounds.with_teachers(opening.open(cfg, tmp_path)).teachers[0].params
    (first, taught_first), (_, taught_second) = given
    assert same(taught_first, teacher) and same(taught_second, teacher)
    assert same(first, opening.reopen(tmp_path).student.base) and not same(first, teacher)


def test_what_is_learned_is_the_written_answer_under_the_view(whole):
    run = opening.open(TUNED, whole[0])
    found = [run.format.tokenizer.decode(np.concatenate(one)) for one in run.known().labelled(STEPS)]
    assert len(found) == 6 and all(" ->In steps:  " in text and text.endswith("\n") for text in found)


def test_the_checkpoint_of_another_model_is_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "journal.json").unlink()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(config.UserError, match="had another teacher"):
        patch.setattr(updates.answers, "identity", lambda model: "another")
        rounds.run(TUNED, tmp_path / "run")


TAUGHT = "teachers.0.training.sources.0"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({TAUGHT: Written((dataclasses.replace(STEPS, count=10_000),))}, "10000 labelled examples asked of task"),
        ({TAUGHT: Written((dataclasses.replace(STEPS, count=0),))}, "a count of at least 1"),
        (
            {TAUGHT: Written((dataclasses.replace(STEPS, view=config.Context(shots=-1)),))},
            "view.shots must be at least",
        ),
        ({TAUGHT: "teacher"}, "must have written answers, nobody teaches a teacher; got teacher"),
        ({"teachers.0.training.start": "teacher"}, "no meaning"),
        ({"teachers.0.training.optim.lr": 0.0}, "teachers.0.training.optim.lr must be more than 0"),
        ({"teachers.0.training.tune.lrs": "1e-3"}, "give the teacher one learning rate"),
        ({"baselines.0.name": "after"}, "none of teacher, before, after"),
        ({"baselines.0.name": "both"}, "different names"),
        ({"baselines.0.training.sources.0.examples": ()}, "sources.0.examples is empty"),
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
    for name, replayed in (("without", ()), ("with", (Written((plurals,)),))):
        changed = config.override(cfg, {"training.sources": (FromTeacher(), *replayed)})
        found = rounds.run(changed, tmp_path / name)
        run = opening.open(config.override(cfg, {"training": supervised(Written((plurals,)))}), tmp_path / "apart")
        steps = batches.Batches(updates.solved(plan.rounds(run, 0)[0]), Update(batch=6), 0, run.mesh)
        student = run.student.reader(rounds.last_student(opening.open(changed, tmp_path / name), 0))
        with jax.set_mesh(run.mesh):
            learned = functools.partial(update.batch_loss, targets=config.Labels(), losses=(config.CrossEntropy(),))
            loss, _ = jax.jit(learned)(student, None, steps[0])
        nats[name] = float(loss)
        told = json.loads((tmp_path / name / "journal.json").read_text())["seed 0/round 0/update"]["result"]
        assert told["pairs"] == found["rollouts"]["kept"] + told["solved"] and told["solved"] == len(replayed) * 6
    assert nats["with"] < 0.8 * nats["without"]


@pytest.mark.parametrize(
    "changes",
    [{"training.losses": "reverse_kl"}, {"training.losses": "jsd"}, {"training.targets": "full"}],
)
def test_a_written_answer_has_no_distribution_to_be_compared_with(changes):
    with pytest.raises(config.UserError, match="source written has written answers"):
        check.validate(config.override(experiment(sources=(FromTeacher(), Written((DIRECT,)))), changes))


def test_one_input_may_have_two_written_answers_and_a_views_file_is_watched(tmp_path):
    (tmp_path / "told.md").write_text("Say the plural.")
    shown = tuple(config.Demonstration("ox", answer) for answer in ("oxen", "oxes"))
    view = config.Context(file=str(tmp_path / "told.md"))
    told = Labelled("plural", view=view, demonstrations=shown)
    cfg = experiment(sources=(FromTeacher(), Written((told,))))
    run = opening.open(cfg, tmp_path / "run")
    (prompt, oxen), (same_prompt, oxes) = run.known().labelled(told)
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
        opening.open(config.override(cfg, {"training.tune": config.Tune((1e-3,))}), tmp_path / "run")


def test_a_baseline_may_ask_the_teacher_as_the_student_does_and_is_counted_apart(tmp_path):
    """The same answers as hard labels: the student's counts are those of a run without it."""
    hard = config.Training(targets=config.Labels(), losses=(config.CrossEntropy(),), update=Update(epochs=2, batch=4))
    cfg = experiment(score=config.Score(examples=4, measures=()))
    alone = rounds.run(cfg, tmp_path / "alone")
    beside = rounds.run(dataclasses.replace(cfg, baselines=(config.Baseline("hard", hard),)), tmp_path / "beside")
    assert beside["rollouts"] == alone["rollouts"] and beside["inputs"] == alone["inputs"]
    assert beside["scores"]["after"] == alone["scores"]["after"] and beside["scores"]["hard"]["n"] == 4
    folders = "rollouts/seed_0/round_0/operation_0", "rollouts/seed_0/baseline_hard/operation_0"
    student, baseline = ((tmp_path / "beside" / folder / "samples.jsonl").read_text() for folder in folders)
    assert student == baseline
