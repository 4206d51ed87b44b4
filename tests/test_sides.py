"""Teacher and student as two sides: another model, other layers, another template or tokenizer, several teachers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cdjax import config, parallel
from cdjax.config import Teacher, check
from cdjax.distill import opening, rounds
from cdjax.learn import update
from cdjax.lessons.crossing import crossed
from cdjax.model import decoder
from cdjax.model.files import huggingface, tokenizer
from cdjax.model.files.source import DATA, TINY
from cdjax.sampling import answers
from cdjax.sampling.store import Rollout, Store
from cdjax.views import encode
from cdjax.workdir import metrics
from cdjax.workdir.journal import Journal
from tests.test_rounds import Killed, assert_same_end, die, experiment, kl, outcome

TEXT = {"targets": config.Labels(), "losses": (config.CrossEntropy(),), "score": config.Score(4, measures=())}
SOLVED = (config.Demonstration("walk", "walked"), config.Demonstration("go", "  went away"))
WIDE = dataclasses.replace(TINY, embed=96, layers=3, mlp=160)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A directory with a model of another width and depth, and the tokenizer of `tiny:SEED`."""
    directory = tmp_path_factory.mktemp("wide")
    words = tokenizer.load(DATA / "tiny")
    model = decoder.create(WIDE, parallel.make_mesh(), seed=3)
    huggingface.write(model, words, directory, stop_ids=[words.eos_token_id])
    return str(directory)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A run whose teacher is the model itself."""
    workdir = tmp_path_factory.mktemp("usual")
    rounds.run(experiment(), workdir)
    return workdir


def samples(workdir):
    lines = (workdir / "rollouts/seed_0/round_0/operation_0/samples.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_a_teacher_of_another_width_teaches_and_one_device_equals_eight(wide, tmp_path):
    """It writes, and is read again in every update."""
    found = []
    for name, mesh in (("one", config.Mesh()), ("eight", config.Mesh(data=2, fsdp=2, tensor=2))):
        told = rounds.run(experiment(teachers=(Teacher(wide),), mesh=mesh, targets=config.Full()), tmp_path / name)
        losses = [line["loss"] for line in metrics.read(tmp_path / name / "metrics.jsonl")]
        found.append((samples(tmp_path / name), losses, told))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=2e-3)
    assert kl(found[0][2], "after") < kl(found[0][2], "before")


def test_a_student_of_fewer_layers_learns_from_the_whole_model(tmp_path):
    told = rounds.run(experiment(layers=(0,)), tmp_path)
    run = opening.open(experiment(layers=(0,)), tmp_path)
    assert (run.student.model.decoder.spec.layers, run.teachers[0].reader.decoder.spec.layers) == (1, 2)
    assert kl(told, "after") < kl(told, "before")


def test_a_teacher_that_is_the_students_model_shares_its_arrays(tmp_path):
    run = opening.open(experiment(teachers=(Teacher("tiny:0"),)), tmp_path)
    assert run.teachers[0].side is run.student


def test_a_teacher_with_its_own_name_for_the_same_model_is_the_usual_run(usual, tmp_path):
    rounds.run(experiment(teachers=(Teacher("tiny:0", template=experiment().template),)), tmp_path)
    assert_same_end(usual, tmp_path)


def test_each_side_has_its_own_template(tmp_path):
    theirs = config.Template(question="Word: {input}\nPast:", answer=" {output}\n")
    run = opening.open(experiment(teachers=(Teacher(template=theirs),)), tmp_path)
    shown = run.assignments[0].views.prompts(["go"])
    decode = run.format.tokenizer.decode
    assert decode(shown.teacher.whole[0]).endswith("Word: go\nPast:") and decode(shown.student.whole[0]) == "go ->"


def losses(workdir):
    """The loss of every update."""
    return [line["loss"] for line in metrics.read(workdir / "metrics.jsonl")]


def test_targets_of_two_equal_teachers_are_those_of_one(usual, tmp_path):
    """They are read again instead of recorded as they answer: the same numbers but for rounding."""
    rounds.run(experiment(teachers=(Teacher(),) * 2), tmp_path)
    assert samples(usual) == samples(tmp_path)
    np.testing.assert_allclose(losses(usual), losses(tmp_path), rtol=1e-4)


def test_of_two_teachers_the_first_writes_and_both_are_learned(usual, wide, tmp_path):
    rounds.run(experiment(teachers=(Teacher(), Teacher(wide))), tmp_path)
    assert samples(usual) == samples(tmp_path) and abs(losses(usual)[0] - losses(tmp_path)[0]) > 1e-3


def test_low_rank_weights_teach_beside_their_base(tmp_path):
    """The teacher trains an adapter, the student all its weights: both begin with the same arrays."""
    solved = config.Written((config.Labelled("past_tense", 6),))
    training = config.supervised(solved, optim=config.Optim(lr=3e-2), update=config.Update(epochs=2, batch=6))
    cfg = experiment(teachers=(Teacher(trains=config.LowRank(2), training=training),))
    told = rounds.run(cfg, tmp_path)
    run = rounds.with_teachers(opening.open(cfg, tmp_path))
    base, taught = run.student.model.decoder, run.teachers[0].reader.decoder
    np.testing.assert_array_equal(taught.blocks.up.w[...], base.blocks.up.w[...])
    assert (np.asarray(taught.blocks.up.b[...]) != 0).any() and base.blocks.up.b is None
    assert kl(told, "after") < kl(told, "before")


@pytest.fixture(scope="module")
def other_words(tmp_path_factory):
    """A model whose tokenizer has the same pieces under other ids."""
    directory = tmp_path_factory.mktemp("words")
    words = tokenizer.load(DATA / "tiny")
    huggingface.write(
        decoder.create(TINY, parallel.make_mesh(), seed=5), words, directory, stop_ids=[words.eos_token_id]
    )
    path = directory / "tokenizer.json"
    pieces = json.loads(path.read_text())
    vocab, size = pieces["model"]["vocab"], len(pieces["model"]["vocab"])
    special = {token["content"] for token in pieces["added_tokens"]}
    moved = sorted(set(vocab) - special, key=lambda piece: vocab[piece])
    pieces["model"]["vocab"] |= dict(zip(moved, sorted((vocab[piece] for piece in moved), reverse=True), strict=True))
    assert len(pieces["model"]["vocab"]) == size
    path.write_text(json.dumps(pieces))
    return str(directory)


def test_text_crosses_tokenizers(other_words, tmp_path):
    """The student's tokens spell what the teacher wrote."""
    cfg = experiment(teachers=(Teacher(other_words),), **TEXT)
    told = rounds.run(cfg, tmp_path)
    run = opening.open(cfg, tmp_path)
    theirs, mine = run.teachers[0].format, run.format
    assert theirs.tokenizer.encode("walked") != mine.tokenizer.encode("walked")
    assert theirs.tokenizer.decode(theirs.tokenizer.encode("walked")) == "walked"
    store = tmp_path / "rollouts/seed_0/round_0/operation_0"
    written = {rollout.input: theirs.body(rollout.ids) for rollout in Store(store).read(0)}
    read = {
        json.loads(line)["input"]: json.loads(line)["text"]
        for line in (store / "samples.jsonl").read_text().splitlines()
    }
    assert len(read) == told["rollouts"]["sampled"] == 12
    some = [text for text in written if read[text].strip() and written[text].strip()]
    assert some and all(written[text].strip().startswith(read[text].strip()) for text in some)
    losses = [line["cross_entropy"] for line in metrics.read(tmp_path / "metrics.jsonl")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "training.targets.kind='top_k' records the teacher's probabilities of tokens; use targets.kind='labels'"),
        (TEXT | {"sampling": config.Sampling(draft=2)}, "training.sampling.draft=2 lets the student write"),
        (TEXT | {"sampling": config.Sampling(weights="int8")}, "training.sampling.weights='int8' is compared"),
        (TEXT | {"score": config.Score(4)}, "score.measures.0: held_out_kl needs one vocabulary; leave it out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_needs_one_tokenizer_is_refused_before_anything_is_written(changes, message, other_words, tmp_path):
    with pytest.raises(config.UserError, match=message) as error:
        rounds.run(experiment(teachers=(Teacher(other_words),), **changes), tmp_path / "run")
    assert "a teacher has another tokenizer" in str(error.value)
    assert not (tmp_path / "run" / "config.json").exists()


RECURSIVE = {"plan": config.Plan("recursive", repeat=2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            RECURSIVE | {"teachers": (Teacher("tiny:1"),)},
            "and they are unlike: teachers.0 has a model, layers, template",
        ),
        (RECURSIVE | {"layers": (0,)}, "plan.order='recursive' puts the student in the teacher's place"),
        (RECURSIVE | {"teachers": (Teacher(),) * 2}, "plan.order='recursive' has one teacher, and teachers are 2"),
        (
            {"plan": config.Plan("recursive", repeat=2, ema=0.5), "teachers": (Teacher("tiny:1"),)},
            "plan.ema=0.5 puts the student in the teacher's place, and they are unlike",
        ),
        ({"start": "teacher", "teachers": (Teacher("tiny:1"),)}, "start='teacher' needs a teacher like the student"),
        ({"teachers": (Teacher(),) * 2, "targets": config.Full()}, "reads one teacher in every update"),
        ({"teachers": (Teacher(),) * 2, "sampling": config.Sampling(draft=1)}, "draft=1 has one teacher"),
        ({"teachers": (Teacher(trains=config.LowRank()),)}, "trains='low_rank', and there is no training"),
        ({"teachers": (Teacher("./nowhere"),)}, "teachers.0.model is './nowhere', and there is no such"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_needs_sides_that_are_alike_is_refused_before_anything_is_loaded(changes, message):
    with pytest.raises(config.UserError, match=message):
        check.validate(experiment(**changes))


def test_a_side_is_named_on_the_command_line():
    changes = {"teachers.0.model": "tiny:1", "teachers.0.layers": "1", "teachers.0.template.stop": ".", "layers": "0"}
    cfg = config.override(experiment(), changes | {"teachers.0.trains.kind": "low_rank"})
    assert cfg.teachers[0].model == "tiny:1" and cfg.teachers[0].layers == (1,) and cfg.layers == (0,)
    assert cfg.teachers[0].template.stop == "." and cfg.teachers[0].trains == config.LowRank()
    with pytest.raises(config.UserError, match="teachers.0.trains is none, which has no rank"):
        config.override(experiment(), {"teachers.0.trains.rank": "4"})


def test_killed_in_the_run_of_another_teacher_and_resumed_equals_never_killed(wide, tmp_path, monkeypatch):
    cfg = experiment(teachers=(Teacher(wide),))
    rounds.run(cfg, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(update, "train", die)
        with pytest.raises(Killed):
            rounds.run(cfg, tmp_path / "again")
    rounds.run(cfg, tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(tmp_path / "whole")
    assert Journal(tmp_path / "again" / "journal.json").done("seed 0/round 0/score")


def test_states_of_another_width_are_refused_before_anything_is_written(wide, tmp_path):
    changes = {"targets": config.Full(), "losses": (config.HiddenMSE(),)}
    with pytest.raises(config.UserError, match="losses.0.layers of width 64 cannot be compared .* of width 96"):
        rounds.run(experiment(teachers=(Teacher(wide),), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_of_fewer_layers_learns_the_streams_of_the_layers_that_it_is_told(tmp_path):
    losses = (config.HiddenMSE((0, 1), (0, 2)),)
    cfg = experiment(layers=(1,), targets=config.Full(), losses=losses, score=config.Score(4, measures=()))
    rounds.run(cfg, tmp_path)
    lines = [line["hidden_mse"] for line in metrics.read(tmp_path / "metrics.jsonl")]
    assert 0 < lines[-1] < lines[0]


def test_an_answer_crosses_as_the_text_that_the_other_template_has_for_it(tmp_path):
    """Between equal tokenizers and templates nothing changes; another template puts its own text around the output."""
    run = opening.open(experiment(), tmp_path)
    view = run.assignments[0].views.teacher
    ids = encode.answers(view.format.tokenizer, view.format.template, view.context, view.task, SOLVED)
    rollouts = [
        Rollout(solved.input, 0, row, np.zeros(len(row), np.float32), True, {}, np.zeros(len(row), np.int32))
        for solved, row in zip(SOLVED, ids, strict=True)
    ]
    for same, rollout in zip(crossed(rollouts, view, view, steps=64), rollouts, strict=True):
        np.testing.assert_array_equal(same.ids, rollout.ids)
    other = config.Template(question="{input}:", answer="<{output}>\n")
    theirs = dataclasses.replace(view, format=dataclasses.replace(view.format, template=other))
    texts = [view.format.tokenizer.decode(rollout.ids) for rollout in crossed(rollouts, view, theirs, steps=64)]
    assert texts == ["<walked>\n", "<  went away>\n"]
    cut = crossed(rollouts, view, view, steps=2)
    assert [len(rollout.ids) for rollout in cut] == [2, 2] and not any(rollout.stopped for rollout in cut)


def test_every_teacher_that_is_trained_has_its_own_template_context_and_seed(tmp_path):
    theirs = config.Template(question="Q: {input}\nA:", answer=" {output}\n")
    training = config.supervised(config.FromDemonstrations(), update=config.Update(batch=3))
    teachers = (
        Teacher("tiny:1", trains=config.LowRank(2), training=training),
        Teacher("tiny:1", trains=config.LowRank(2), training=training, template=theirs),
        Teacher("tiny:1", trains=config.KVPrefix(8), training=training),
    )
    run = opening.open(experiment(teachers=teachers), tmp_path)
    decode = run.format.tokenizer.decode
    for teacher, prompt in zip(run.teachers, (" ->", "\nA:", " ->"), strict=True):
        assert all(decode(shown).endswith(prompt) for shown, _ in training.sources[0].solved(run.known(teacher)))
    assert "Q: " in decode(run.teachers[1].side.context) and len(set(run.teachers[2].side.context.tolist())) > 8
    alike = opening.open(experiment(teachers=(teachers[0],) * 2), tmp_path / "alike")
    with jax.set_mesh(alike.mesh):
        first, second = (answers.identity(teacher.reader) for teacher in rounds.with_teachers(alike).teachers)
    assert first != second
