"""The laws of a whole run, on a random model of 100,000 weights."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from cdjax import config, tasks
from cdjax.distill import opening, rounds, stages, updates
from cdjax.learn import optim, update
from cdjax.learn.checkpoint import Checkpoints
from cdjax.report import page, results
from cdjax.score.exam import Exam
from cdjax.students import adapter
from cdjax.workdir import metrics
from cdjax.workdir.journal import Journal


def experiment(**changes) -> config.Experiment:
    """A run of seconds: 12 inputs, 6 steps. A change of an operation, a training or devices goes where it belongs."""
    base = config.Experiment(
        name="small",
        model="tiny:0",
        operations=(
            config.Operation(
                task="past_tense",
                inputs=config.Inputs(pool=True, limit=12),
                context=config.Context(shots=3),
                keep=config.Keep(filters=(config.NonEmpty(),)),
            ),
        ),
        template=config.Template(question="{input} ->", answer=" {output}\n"),
        training=config.Training(
            sampling=config.Sampling(temperature=1.0, batch=8),
            targets=config.TopK(8),
            optim=config.Optim(lr=3e-3),
            update=config.Update(epochs=2, batch=4, checkpoint_every=2),
        ),
        limits=config.Limits(teacher_prompt=128, student_prompt=64, completion=4),
        score=config.Score(examples=4, validation=4, measures=(config.HeldOutKL(4), config.Forgetting(2))),
    )
    for kind, place in (
        (config.Operation, "operations.0."),
        (config.Training, "training."),
        (config.Devices, "devices."),
    ):
        for field in dataclasses.fields(kind):
            if field.name in changes and field.name != "name":
                base = config.override(base, {place + field.name: changes.pop(field.name)})
    return dataclasses.replace(base, **changes)


def outcome(workdir):
    """The results and metrics of a run, without times and the machine."""
    results = json.loads((workdir / "results.json").read_text())
    for name in ("seconds", "commit", "versions"):
        del results[name]
    return results, metrics.read(workdir / "metrics.jsonl")


def kl(results, stage):
    """Held-out KL of the student before or after."""
    return results["measures"]["held_out_kl"][stage]["mean"]


def weights(workdir, seed=0):
    run = opening.reopen(workdir)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(rounds.last_student(run, seed))]


def assert_same_end(left, right):
    """Asserts that two runs have the same results and, bit for bit, the same weights."""
    assert outcome(left) == outcome(right)
    for ours, theirs in zip(weights(left), weights(right), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    rounds.run(experiment(), workdir)
    return workdir


class Killed(Exception):
    pass


def die(*_, **__):
    raise Killed


@pytest.mark.parametrize(
    "where",
    [
        (stages, "write_inputs"),
        (stages, "keep_answers"),
        (update, "train"),
        (rounds, "score_student"),
        (results, "write"),
    ],
    ids=lambda where: where[1],
)
def test_killed_and_resumed_equals_never_killed(where, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(*where, die)
        with pytest.raises(Killed):
            rounds.run(experiment(), tmp_path)
    rounds.run(experiment(), tmp_path)
    assert_same_end(tmp_path, whole)


def test_what_filters_dropped_stays_dropped_in_a_run_that_goes_on(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(update, "train", die)
        with pytest.raises(Killed):
            rounds.run(experiment(), tmp_path)
    monkeypatch.setattr(config.NonEmpty, "refuse", lambda self, answers, evidence: ["late"] * len(answers))
    rounds.run(experiment(), tmp_path)
    assert_same_end(tmp_path, whole)


def test_killed_between_two_checkpoints_resumes_from_the_last(whole, tmp_path, monkeypatch):
    seen = []

    def report(step, *rest):
        seen.append(step)
        if seen == [1, 2, 3]:
            raise Killed
        return original(step, *rest)

    original = update._report
    monkeypatch.setattr(update, "_report", report)
    with pytest.raises(Killed):
        rounds.run(experiment(), tmp_path)
    rounds.run(experiment(), tmp_path)
    assert seen == [1, 2, 3, 3, 4, 5, 6]
    assert_same_end(tmp_path, whole)


def test_killed_when_the_last_checkpoint_is_written_resumes_from_its_weights_alone(whole, tmp_path, monkeypatch):
    save, seen = Journal._save, []

    def dying(journal):
        if journal.done("seed 0/round 0/update"):
            raise Killed
        save(journal)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_save", dying)
        with pytest.raises(Killed):
            rounds.run(experiment(), tmp_path)
    run, stored = opening.reopen(tmp_path), Checkpoints(tmp_path / "checkpoints/seed_0/round_0")
    with pytest.raises(config.UserError, match="of another model or optimizer"):
        stored.load(6, update.abstract(run.student.base, optim.make(run.cfg.training.optim, 6), run.mesh))
    monkeypatch.setattr(update, "_report", lambda step, *_: seen.append(step))
    rounds.run(experiment(), tmp_path)
    assert seen == []
    assert_same_end(tmp_path, whole)


def test_the_student_comes_closer_to_the_teacher(whole):
    results, _ = outcome(whole)
    assert kl(results, "after") < kl(results, "before")


def test_samples_are_all_accounted_for(whole):
    rollouts = outcome(whole)[0]["rollouts"]
    assert rollouts["sampled"] == 12 == rollouts["kept"] + sum(rollouts["dropped"].values())
    inputs = outcome(whole)[0]["inputs"]
    lost = sum(inputs[reason] for reason in ("unreadable", "reserved", "duplicate", "over_limit"))
    assert sum(inputs[source] for source in ("pool", "tasks", "file", "rule", "written")) == inputs["kept"] + lost
    assert rollouts["sampled"] == inputs["kept"] - inputs["over_budget"]


def test_a_directory_keeps_to_its_experiment(whole):
    before = {path: path.read_bytes() for path in whole.glob("*.json")}
    with pytest.raises(config.UserError, match="holds a run of another experiment: training.optim.lr differ"):
        rounds.run(experiment(optim=config.Optim(lr=1e-3)), whole)
    assert before == {path: path.read_bytes() for path in whole.glob("*.json")}


def test_seeds_can_be_added_to_a_run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "more")
    results = rounds.run(experiment(seeds=(0, 1)), tmp_path / "more")
    assert results["seeds"] == [0, 1] and results["rollouts"]["sampled"] == 24
    for ours, theirs in zip(weights(tmp_path / "more"), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any((a != b).any() for a, b in zip(weights(tmp_path / "more", 1), weights(whole), strict=True))


@pytest.mark.parametrize("targets", [config.TopK(8), config.Full()], ids=str)
def test_one_device_equals_a_mesh(targets, tmp_path):
    """The same run on 1 device and on 4 x 2 simulated ones: the same samples and the same losses."""
    runs = []
    for name, mesh in (("one", config.Mesh()), ("mesh", config.Mesh(data=2, fsdp=2, tensor=2))):
        cfg = experiment(mesh=mesh, targets=targets)
        rounds.run(cfg, tmp_path / name)
        samples = (tmp_path / name / "rollouts/seed_0/round_0/operation_0/samples.jsonl").read_text()
        losses = [line["loss"] for line in metrics.read(tmp_path / name / "metrics.jsonl")]
        runs.append(([json.loads(line)["text"] for line in samples.splitlines()], losses))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=2e-3)


OPERATIONS = (
    config.Operation("past_tense", config.Inputs(pool=True, limit=8), config.Context(shots=3), name="past"),
    config.Operation("plural", config.Inputs(pool=True, limit=8), config.Context(shots=3)),
)
OPERATIONS = tuple(
    dataclasses.replace(operation, keep=config.Keep(filters=(config.NonEmpty(),))) for operation in OPERATIONS
)


@pytest.mark.parametrize("order", ["simultaneous", "sequential", "recursive"])
def test_operations_combine_as_the_paper_says(order, tmp_path, monkeypatch):
    """Simultaneous: one round of both. Sequential: the original teaches both. Recursive: the first student does."""
    teachers = []
    original = stages.ask

    def recorded_ask(round, place, teacher, *rest):
        teachers.append((round.number, *place, *round.run.teaching(teacher)))
        return original(round, place, teacher, *rest)

    monkeypatch.setattr(stages, "ask", recorded_ask)
    rounds.run(experiment(operations=OPERATIONS, plan=config.Plan(order)), tmp_path)
    first, second = teachers
    assert (first[:2], second[:2]) == ((0, 0), (0 if order == "simultaneous" else 1, 1))
    same = all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), first[2], second[2])))
    assert same == (order != "recursive")


@pytest.mark.parametrize("ema", [0.0, 0.75])
def test_killed_in_a_later_round_resumes_with_the_right_teacher(ema, tmp_path, monkeypatch):
    """The student of the round before, or its mean with all teachers before it."""
    cfg = experiment(plan=config.Plan("recursive", repeat=3, ema=ema), update=config.Update(epochs=1, batch=4))
    teachers, students, learn = [], [], updates.learn

    def recorded_learn(round, student, teacher, *rest):
        teachers.append(jax.tree.leaves(round.run.teaching(teacher)[0].decoder))
        state = learn(round, student, teacher, *rest)
        students.append(jax.tree.leaves(state.params))
        return state

    with monkeypatch.context() as patch:
        patch.setattr(updates, "learn", recorded_learn)
        rounds.run(cfg, tmp_path / "whole")
    for before, after, student in zip(teachers, teachers[1:], students, strict=False):
        mean = jax.tree.map(lambda old, new: ema * old + (1 - ema) * new, before, student)
        jax.tree.map(np.testing.assert_array_equal, mean, after)
    with monkeypatch.context() as patch:
        patch.setattr(updates, "learn", lambda round, *rest: learn(round, *rest) if round.number < 2 else die())
        with pytest.raises(Killed):
            rounds.run(cfg, tmp_path / "again")
    rounds.run(cfg, tmp_path / "again")
    assert_same_end(tmp_path / "again", tmp_path / "whole")


def indexed(index: int, operation: config.Operation) -> config.Operation:
    """The operation with a number that the student is shown, on inputs of both tasks."""
    mixed = config.Inputs(pool=True, tasks=tuple({"past_tense", "plural"} - {operation.task}), limit=6)
    shown = config.Context(instruction=f"Task {index}")
    return dataclasses.replace(operation, name=f"{operation.title} {index}", student_context=shown, inputs=mixed)


FIRST, SECOND = ("past 1", "plural 2"), ("past 2", "plural 1")
GROUPS = config.Plan("sequential", rounds=(FIRST, SECOND, FIRST))
INDEXED = tuple(
    indexed(index, operation)
    for shift in (0, 1)
    for operation, index in zip(OPERATIONS, (1 + shift, 2 - shift), strict=True)
)


def test_rounds_of_groups_are_scored_on_their_own_operations_and_resume(tmp_path, monkeypatch):
    """The original teaches every round; killed in the third and resumed equals never killed."""
    score = config.Score(examples=4, measures=(config.HeldOutKL(4), config.WrongAssociation()))
    cfg, teachers, sample = experiment(operations=INDEXED, plan=GROUPS, score=score), [], stages.ask
    with monkeypatch.context() as patch:
        patch.setattr(stages, "ask", lambda *args: teachers.append(args[:3]) or sample(*args))
        rounds.run(cfg, tmp_path / "whole")
    assert [(round.number, *place) for round, place, _ in teachers] == [
        (0, 0),
        (0, 1),
        (1, 2),
        (1, 3),
        (2, 0),
        (2, 1),
    ]
    assert all(jax.tree.leaves(jax.tree.map(lambda *all: all[0] is all[-1], *(params for *_, params in teachers))))
    journal = json.loads((tmp_path / "whole" / "journal.json").read_text())
    scored = [journal[f"seed 0/round {number}/score"]["result"] for number in range(3)]
    assert [sorted(set(result["operations"])) for result in scored] == [[0, 1], [2, 3], [0, 1]]
    assert [sorted(set(result["measures"]["wrong_association"]["views"])) for result in scored] == [
        [0, 1],
        [2, 3],
        [0, 1],
    ]
    assert scored[1]["inputs"] == scored[0]["inputs"]
    assert sorted(scored[0]["inputs"]) == sorted(scored[0]["measures"]["wrong_association"]["inputs"])
    assert set(outcome(tmp_path / "whole")[0]["measures"]["wrong_association"]) == {
        "title",
        "before",
        "round 0",
        "round 1",
        "round 2",
        "after",
    }
    learn = updates.learn
    with monkeypatch.context() as patch:
        patch.setattr(updates, "learn", lambda *args: learn(*args) if args[0].number < 2 else die())
        with pytest.raises(Killed):
            rounds.run(cfg, tmp_path / "again")
    rounds.run(cfg, tmp_path / "again")
    assert_same_end(tmp_path / "again", tmp_path / "whole")


def test_a_student_that_drafts_changes_no_greedy_answer_and_its_acceptance_is_told(tmp_path):
    runs = []
    for draft in (0, 2):
        cfg = experiment(sampling=config.Sampling(temperature=0.0, batch=8, draft=draft, weights="int8"))
        runs.append(rounds.run(cfg, tmp_path / str(draft)))
    texts = [(tmp_path / draft / "rollouts/seed_0/round_0/operation_0/samples.jsonl").read_text() for draft in "02"]
    answers = [[json.loads(line)["text"] for line in text.splitlines()] for text in texts]
    assert answers[0] == answers[1]
    assert "acceptance" not in runs[0] and 0 < runs[1]["acceptance"]["round 0"] < 1
    assert all(0 < run["rollouts"]["int8_kl"][0] < 0.1 for run in runs)


def test_a_baseline_that_diverges_costs_a_grid_point_and_no_run(tmp_path):
    results = rounds.run(experiment(baselines=(config.gradient_descent((1e-3, 1e30), 4, 2, 3),)), tmp_path)
    descent = Journal(tmp_path / "journal.json").results()["seed 0/baseline gradient_descent/update"]
    assert descent["diverged"] == [1e30] and descent["chosen"]["lr"] == 1e-3
    assert results["scores"]["gradient_descent"]["n"] == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "addition"}, "inputs.pool asked of task .addition., which has none"),
        ({"context": config.Context(), "baselines": (config.gradient_descent((1e-3,)),)}, "its context shows none"),
        ({"mesh": config.Mesh(data=8)}, "update.batch=4"),
        ({"targets": config.TopK(10_000)}, "targets.k=10000 is over the vocabulary"),
        ({"limits": config.Limits(teacher_prompt=4)}, "over its budget"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_before_anything_is_written(wrong, message, tmp_path):
    with pytest.raises(config.UserError, match=message):
        rounds.run(experiment(**wrong), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_directory_whose_files_are_torn_is_refused(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "torn")
    for name in ("config.json", "journal.json"):
        text = (tmp_path / "torn" / name).read_text()
        (tmp_path / "torn" / name).write_text(text[: len(text) // 2])
        with pytest.raises(config.UserError):
            rounds.run(experiment(), tmp_path / "torn")
        (tmp_path / "torn" / name).write_text(text)


def test_low_rank_weights_learn_and_the_base_stays(tmp_path):
    rounds.run(experiment(student=config.LowRank(rank=2)), tmp_path)
    run = opening.reopen(tmp_path)
    student, base = run.student.reader(rounds.last_student(run, 0)).decoder, run.student.model.decoder
    assert student.blocks.up.a is not None
    frozen = jax.tree.map(lambda a, b: bool((a == b).all()), *map(adapter.take_out, (student, base)))
    assert all(jax.tree.leaves(frozen))
    assert kl(outcome(tmp_path)[0], "after") < kl(outcome(tmp_path)[0], "before")


def test_student_and_baseline_are_tuned_alike_on_validation_alone(tmp_path, monkeypatch):
    """Only the third of four points answers right on validation: the test scores are of its weights."""
    graded, weights_of = [], {}
    original = Exam.grade

    def spy(exam, model, side, examples, *, title):
        graded.append((title, {example.input for of_operation in examples for example in of_operation}))
        weights_of[title] = np.asarray(model.decoder.embedding[...])
        right = float(title.endswith("lr 0.01, epoch 2"))
        result = original(exam, model, side, examples, title=title)
        return result | ({"grades": [right] * len(result["grades"])} if "epoch" in title else {})

    monkeypatch.setattr(Exam, "grade", spy)
    descent = config.gradient_descent((1e-3, 1e-2), 4, 2, 3)
    cfg = experiment(baselines=(descent,), tune=config.Tune((1e-3, 1e-2), 2), update=config.Update(epochs=4, batch=4))
    results = rounds.run(cfg, tmp_path)
    stage_results = Journal(tmp_path / "journal.json").results()
    for stage in ("seed 0/round 0/update", "seed 0/baseline gradient_descent/update"):
        points = [(point["lr"], point["epochs"]) for point in stage_results[stage]["grid"]]
        assert points == [(1e-3, 2), (1e-3, 4), (1e-2, 2), (1e-2, 4)]
        assert stage_results[stage]["chosen"] == max(
            stage_results[stage]["grid"], key=lambda point: point["validation"]
        )
        assert results["chosen"][stage.removesuffix("/update")] == stage_results[stage]["chosen"]
    assert results["scores"]["gradient_descent"]["n"] == 4
    task, seen = tasks.load("past_tense"), dict(graded)
    for title in ("teacher", "before", "after", "gradient_descent"):
        assert seen.pop(title) == {example.input for example in task.test[:4]}
    assert len(seen) == 8 and all(
        inputs == {example.input for example in task.validation[:4]} for inputs in seen.values()
    )
    for last, tuned in (("after", "student, seed 0"), ("gradient_descent", "seed 0, baseline gradient_descent")):
        np.testing.assert_array_equal(weights_of[last], weights_of[f"{tuned}, lr 0.01, epoch 2"])
        assert (weights_of[last] != weights_of[f"{tuned}, lr 0.01, epoch 4"]).any()
    lines = [line["stage"] for line in metrics.read(tmp_path / "metrics.jsonl") if "round" in line]
    assert lines == ["update, lr 0.001"] * 12 + ["update, lr 0.01"] * 12
    assert "Chosen on validation examples" in (tmp_path / page.PAGE).read_text()


@pytest.mark.parametrize("name", ["operations.0.context.file", "operations.0.inputs.file"])
def test_a_file_that_was_edited_since_is_told(name, tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("".join(f"word {number}\n" for number in range(9)))
    cfg = config.override(experiment(), {name: str(path)})
    opening.open(cfg, tmp_path / "run")
    opening.open(cfg, tmp_path / "run")
    path.write_text("other words\n" * 4 + path.read_text())
    with pytest.raises(config.UserError, match=f"read {path} before it was changed"):
        opening.open(cfg, tmp_path / "run")
    path.unlink()
    assert opening.reopen(tmp_path / "run").cfg == cfg


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_is_no_run_directory(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(config.UserError, match="file is a file; give a directory"):
        opening.open(experiment(), tmp_path / name)


def test_exported_students_answer_the_same(whole, tmp_path):
    import cdjax

    rounds.export(whole, tmp_path / "student", 0)
    exported = cdjax.load_model(str(tmp_path / "student"))
    assert exported.logits(np.arange(8)[None]).shape == (1, 8, exported.spec.vocab)
    for ours, theirs in zip(jax.tree.leaves(exported.decoder), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_scores_without_training_are_the_first_stages_of_a_run(tmp_path):
    """A later `run` continues from the stages that `evaluate` has done."""
    cfg = experiment(score=config.Score(examples=4, measures=()))
    results = rounds.evaluate(cfg, tmp_path)
    assert set(results["scores"]) == {"teacher", "before"} and results["measures"] == {}
    assert set(rounds.run(cfg, tmp_path)["scores"]) == {"teacher", "before", "after"}
    assert list(json.loads((tmp_path / "journal.json").read_text()))[:2] == ["teacher", "before"]


def test_answers_that_never_survive_f_are_told(tmp_path):
    with pytest.raises(config.UserError, match="none of .* answers was kept"):
        rounds.run(experiment(keep=config.Keep("after", "no such marker")), tmp_path)
