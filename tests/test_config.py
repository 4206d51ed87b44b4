"""Config files, overrides and checks: what is right survives, what is wrong is named."""

import dataclasses
import json

import pytest

from cdjax import config
from cdjax.config import Experiment, UserError, check, files, read

CFG = Experiment(
    name="one",
    model="tiny:0",
    operations=(config.Operation(task="plural", inputs=config.Inputs(pool=True)),),
)
GROUPED = {"operations": [{"name": "a"}, {"name": "b"}], "plan.order": "sequential", "plan.rounds": [["a", "b"]]}
TWO = dataclasses.replace(CFG, operations=(config.Operation(name="a"), config.Operation(name="b")))

GOOD = [
    ("name", "3", "3"),
    ("training.optim.lr", "3e-5", 3e-5),
    ("training.optim.lr", 1, 1.0),
    ("training.update.batch", "8", 8),
    ("template.chat", "true", True),
    ("template.chat", False, False),
    ("devices.remat", "dots", "dots"),
    ("devices.dtype", "auto", "auto"),
    ("seeds", "0,1,2", (0, 1, 2)),
    ("seeds", "[4]", (4,)),
    ("seeds", [7, 8], (7, 8)),
    ("training.tune.lrs", "1e-4, 3e-4", (1e-4, 3e-4)),
    ("training.tune.lrs", "", ()),
    ("training.tune.lrs", "()", ()),
    ("seeds", "(0, 1)", (0, 1)),
    ("operations.0.keep.filters", "finished,correct", (config.Finished(), config.Correct())),
    ("operations.0.keep.filters", ["duplicate", {"kind": "majority"}], (config.Duplicate(), config.Majority())),
    ("operations.0.context", '{"shots": 4}', config.Context(shots=4)),
    ("operations.0.context", {"shots": 4}, config.Context(shots=4)),
    ("operations.0.context", config.Context(shots=4), config.Context(shots=4)),
    ("operations.0.context.demonstrations", '[{"input": "a", "output": "b"}]', (config.Demonstration("a", "b"),)),
    ("operations.0.context.shots", "2", 2),
    ("operations.1.name", "c", "c"),
]

BAD = [
    (
        "training.optim.lrr",
        "1",
        "training.optim has no field 'lrr' (did you mean 'lr'?); it has clip, lr, schedule, warmup",
    ),
    ("lr", "1", "Experiment has no field 'lr'"),
    ("name.first", "x", "name is text: it has no field 'first'"),
    ("name", 3, "name must be text, got 3"),
    ("training.optim.lr", "fast", "training.optim.lr must be a number, got 'fast'"),
    ("training.optim.lr", "nan", "training.optim.lr must be a number"),
    ("training.optim.lr", True, "training.optim.lr must be a number"),
    ("training.update.batch", "1.5", "training.update.batch must be an integer, got '1.5'"),
    ("training.update.batch", 8.0, "training.update.batch must be an integer"),
    ("training.update.batch", True, "training.update.batch must be an integer"),
    ("template.chat", "1", "template.chat must be true or false, got '1'"),
    ("template.chat", 1, "template.chat must be true or false"),
    ("devices.remat", "some", "devices.remat must be one of 'none', 'dots', 'full', got 'some'"),
    ("seeds", "0,x", "seeds.1 must be an integer, got 'x'"),
    ("seeds", 3, "seeds must be a list, each entry an integer"),
    (
        "operations.0.keep.filters",
        "finished,tidy",
        "operations.0.keep.filters.1.kind must be one of finished, non_empty",
    ),
    ("operations.0.context", "4 shots", "operations.0.context must be a Context, as JSON"),
    ("operations.0.context", "[4]", "operations.0.context must be a Context, got [4]"),
    ("operations.0.context.demonstrations", '[{"input": "a"}]', "operations.0.context.demonstrations.0 lacks output"),
    ("operations.2.name", "x", "operations has 2 entries, there is no '2'"),
    ("operations.-1.name", "x", "there is no '-1'"),
]


def at(record, path):
    """The value at a dotted path."""
    for name in path.split("."):
        record = record[int(name)] if name.isdecimal() else getattr(record, name)
    return record


@pytest.mark.parametrize("path, value, wanted", GOOD)
def test_an_override_sets_one_field_to_what_it_spells(path, value, wanted):
    changed = config.override(TWO, {path: value})
    assert at(changed, path) == wanted and type(at(changed, path)) is type(wanted)
    assert config.override(changed, {path: at(TWO, path)}) == TWO


@pytest.mark.parametrize("path, value, message", BAD)
def test_a_bad_override_says_what_is_wanted(path, value, message):
    with pytest.raises(UserError) as error:
        config.override(TWO, {path: value})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_optional_fields_take_none():
    assert read.convert(int | None, "none", "limit") is None
    assert read.convert(int | None, None, "limit") is None
    assert read.convert(int | None, "3", "limit") == 3
    with pytest.raises(UserError, match="limit must be an integer, got 'x'"):
        read.convert(int | None, "x", "limit")


def test_json_round_trip_is_exact():
    cfg = config.override(
        TWO, {"operations.0.context.demonstrations": [{"input": "é\n", "output": '"'}], "training.optim.lr": 0.1 + 0.2}
    )
    assert config.from_json(config.to_json(cfg)) == cfg
    assert set(json.loads(config.to_json(cfg))) == {field.name for field in dataclasses.fields(Experiment)}


def test_a_part_is_there_by_the_name_of_its_class():
    from cdjax.sampling.targets.top_k import TopK

    assert config.TopK is TopK and "TopK" in dir(config)
    with pytest.raises(AttributeError, match="'cdjax.config' has no attribute 'BottomK'"):
        _ = config.BottomK


def test_json_of_another_shape_is_refused():
    with pytest.raises(UserError, match="Experiment lacks model, operations"):
        config.from_json('{"name": "x"}')
    with pytest.raises(UserError, match="has no field 'colour'"):
        config.from_json('{"name": "x", "model": "y", "colour": 1}')
    with pytest.raises(UserError, match="must be JSON"):
        config.from_json('{"name": ')


def write(path, body):
    """A config file with this text after its imports."""
    path.write_text("from cdjax import config\n" + body)
    return path


# Set behind the back of the type checker that runs under pytest and in no run.
SLIP = """def get_config():
    made = config.Experiment("a", "m", (config.Operation("plural"),), devices=config.Devices())
    object.__setattr__({}, {!r}, {!r})
    return made
"""


def test_a_config_file_gives_its_experiment(tmp_path):
    path = write(tmp_path / "a.py", SLIP.format("made", "seeds", [0, 1]))
    cfg = config.load_config(path)
    assert cfg == Experiment("a", "m", (config.Operation("plural"),), seeds=(0, 1))
    saved = tmp_path / "config.json"
    saved.write_text(config.to_json(cfg))
    assert config.load_config(saved) == cfg


@pytest.mark.parametrize(
    "body, message",
    [
        ("x = 1\n", "no get_config()"),
        ("def get_config(): return 3\n", "must return a cdjax.Experiment, got a int"),
        ("def get_config(): return config.Experiment('a')\n", r"a.py, line 2: TypeError.*model"),
        ("\ndef get_config(): return {}['b']\n", r"a.py, line 3: KeyError: 'b'"),
        ("def get_config(:\n", r"a.py, line 2: SyntaxError: invalid syntax$"),
        ("def get_config(): raise OSError('one\\ntwo')\n", "a.py, line 2: OSError: one two"),
        (
            SLIP.format("made.devices", "dtype", "int8"),
            "devices.dtype must be one of 'float32', 'bfloat16', 'auto', got 'int8'",
        ),
        (SLIP.format("made", "seeds", [0, "1x"]), "seeds.1 must be an integer, got '1x'"),
        ("def get_config(): raise config.UserError('no data here')\n", "^no data here$"),
    ],
)
def test_a_broken_config_file_is_named_with_its_line(tmp_path, body, message):
    with pytest.raises(UserError, match=message):
        config.load_config(write(tmp_path / "a.py", body))


def test_a_missing_config_file_is_named():
    with pytest.raises(UserError, match="no config file nowhere.py"):
        config.load_config("nowhere.py")


DESCENT = config.gradient_descent((1e-4,))
AVERAGED = {"operations.0.context.shots": 3, "operations.0.context.ensemble": 2, "operations.0.context.drawn": 2}
WRONG = [
    ({"student.kind": "low_rank", "student.rank": 0}, "student.rank must be at least 1, got 0"),
    ({"student.kind": "low_rank", "student.alpha": 0}, "student.alpha must be more than 0, got 0"),
    ({"training.optim.lr": 0}, "training.optim.lr must be more than 0"),
    (
        {"training.losses.0.kind": "jsd", "training.losses.0.beta": 1.5},
        "training.losses.0.beta must be between 0 and 1, got 1.5",
    ),
    ({"training.losses": ()}, "training.losses is empty"),
    ({"training.targets.k": 0}, "training.targets.k must be at least 1, got 0"),
    ({"seeds": [1, 1]}, "seeds must be different"),
    ({"seeds": [2**32]}, "from 0 to 2**32 - 1"),
    ({"seeds": []}, "at least one"),
    ({"devices.mesh.data": 0}, "devices.mesh.data must be at least 1, or -1"),
    ({"model": ""}, "name and model must not be empty"),
    ({"model": "./nowhere.gguf"}, "no such file"),
    ({"data_dir": "/nowhere"}, "data_dir is '/nowhere'"),
    (
        {"training.targets": "draws", "training.losses": "forward_kl,reverse_kl"},
        "losses.1: reverse_kl needs probabilities, and targets.kind='draws' gives draws; "
        "use targets.kind=top_k or full or restricted",
    ),
    (
        {"training.targets": "labels"},
        "losses.0: forward_kl needs draws or probabilities, and targets.kind='labels' gives nothing",
    ),
    (
        {"training.losses": "policy_gradient"},
        "needs advantage, and targets.kind='top_k' gives probabilities; use targets.kind=token_logprob",
    ),
    ({"training.sampling.per_input": 4, "training.sampling.temperature": 0}, "greedy samples are all the same"),
    ({"template.question": "Q:"}, "template.question must contain {input}"),
    ({"template.stop": ""}, "no answer would ever end"),
    ({"training.update.batch": 3, "training.update.micro_batches": 4}, "cannot be cut into 4 parts"),
    (
        {
            "training.update.batch": 8,
            "training.update.micro_batches": 4,
            "devices.mesh.data": 2,
            "devices.mesh.fsdp": 2,
        },
        "into 16 parts",
    ),
    ({"baselines": (DESCENT,), "score.validation": 0}, "baselines.0.training.tune needs score.validation"),
    (
        {"baselines": (DESCENT,), "baselines.0.training.tune.lrs": [1e-4, -1.0]},
        "baselines.0.training.tune.lrs.1 must be more than 0, got -1",
    ),
    ({"baselines": (DESCENT,), "baselines.0.training.tune.every": 21}, "every=21 is more than the epochs, 20"),
    ({"baselines": (DESCENT, DESCENT)}, "baselines need different names, got gradient_descent, gradient_descent"),
    ({"baselines": (DESCENT,), "baselines.0.name": "after"}, "none of teacher, before, after; got 'after'"),
    ({"baselines": (DESCENT,), "baselines.0.training.update.every": 1}, "a baseline learns in one segment"),
    ({"operations": ()}, "operations is empty"),
    ({"teachers": ()}, "teachers is empty"),
    ({"training.sources": ()}, "nobody writes what is learned"),
    (
        {"operations.0.context.select.skip": 2},
        "operations.0.context.select=First(skip=2) is for shots, of which there are 0",
    ),
    (
        {"operations.0.student_context.select": "drawn"},
        "operations.0.student_context.select=Drawn(seed=0) is for shots, of which there are 0",
    ),
    (
        AVERAGED | {"operations.0.context.select": "drawn"},
        "draws demonstrations for its prompts itself: select must be 'first'",
    ),
    ({"plan.ema": 0.5}, "is for plan.order='recursive'"),
    ({"plan.order": "recursive", "plan.ema": 1.0}, "less than 1"),
    ({"training.tune.lrs": [1e-4], "score.validation": 0}, "training.tune needs score.validation"),
    (
        {"training.tune.lrs": [1e-4], "training.tune.every": 3, "training.update.epochs": 2},
        "training.tune.every=3 is more than the epochs, 2",
    ),
    ({"training.tune.lrs": [1e-4], "training.update.checkpoint_every": 5}, "starts again if stopped"),
    ({"operations.0.inputs.pool": False}, "choose where the inputs come from"),
    ({"operations.0.inputs.file": "nowhere.jsonl"}, "operations.0.inputs.file is 'nowhere.jsonl'"),
    ({"operations.0.inputs.limit": -1}, "operations.0.inputs.limit must be at least 0"),
    (
        {"operations.0.inputs.written": 9, "operations.0.inputs.written_shots": 0},
        "operations.0.inputs.written_shots must be at least 1",
    ),
    ({"operations.0.task": ""}, "operations.0.inputs.file is needed where there is no task"),
    ({"operations.0.task": "", "operations.0.keep.filters": ["correct"]}, "needs a task that grades"),
    (
        {"operations.0.task": "", "operations.0.context.shots": 2},
        "operations.0.context.shots=2 must be a number of the task's own demonstrations",
    ),
    (
        {"operations.0.student_context.negative_shots": -1},
        "operations.0.student_context.negative_shots must be at least 0",
    ),
    (
        {"operations.0.task": "", "operations.0.context.instruction": "Do {definition}"},
        "operations.0.context.instruction has {definition}, which is a task's",
    ),
    ({"operations.0.context.file": "nowhere.md"}, "operations.0.context.file is 'nowhere.md'"),
    (
        {"operations.0.student_context.instruction": "a", "operations.0.student_context.file": "b"},
        "operations.0.student_context.file stands in the instruction's place",
    ),
    ({"operations.0.keep.span": "regex"}, "needs a keep.pattern"),
    ({"operations.0.keep.pattern": "x"}, "takes no keep.pattern"),
    ({"operations.0.keep.span": "regex", "operations.0.keep.pattern": "("}, "is not a regular expression"),
    ({"operations.0.keep.filters": "majority"}, "raise training.sampling.per_input"),
    ({"operations": [{"task": "plural"}]}, "operations.0.inputs.pool, tasks, file"),
    (
        {"operations.0.inputs.tasks": ["plural"]},
        "operations.0.inputs.tasks=['plural'] must be different names of other tasks",
    ),
    (
        {"operations.0.context.shots": 1, "operations.0.context.select.skip": -1},
        "operations.0.context.select.skip must be at least 0, got -1",
    ),
    (AVERAGED | {"operations.0.context.drawn": 4}, "drawn=4 of 3 demonstrations each: an ensemble draws at least one"),
    (AVERAGED | {"operations.0.context.drawn": 0}, "an ensemble draws at least one"),
    (AVERAGED | {"operations.0.context.ensemble": 0}, "nothing is drawn without one"),
    (
        {"operations.0.student_context": {"shots": 3, "ensemble": 2, "drawn": 1}},
        "operations.0.student_context.ensemble=2: only what a teacher reads",
    ),
    (AVERAGED | {"training.sampling.draft": 2}, "training.sampling.draft=2 reads the teacher under one prompt"),
    (AVERAGED | {"training.targets": "full"}, "training.targets.kind='full' reads the teacher under one prompt"),
    (AVERAGED, "score.measures.0: held_out_kl needs one prompt, and the teacher of plural reads several"),
    (
        GROUPED | {"plan.order": "simultaneous"},
        "plan.rounds follow one another: order must be 'sequential' or 'recursive'",
    ),
    (
        GROUPED | {"plan.rounds": [["a", "b"], ["a", "c"]]},
        "plan.rounds.1=['a', 'c'] must be different names out of a, b",
    ),
    (GROUPED | {"plan.rounds": [["a"], []]}, "plan.rounds.1=[] must be different names"),
    (GROUPED | {"plan.rounds": [["a", "a"]]}, "plan.rounds leave out b"),
    (GROUPED | {"operations.1.name": "a"}, "these are not all different: a, a"),
    (GROUPED | {"baselines": (DESCENT,)}, "leave it out where plan.rounds group them"),
    (GROUPED | {"score.measures": "wrong_association"}, "needs several views, and a round asks a, b: 2 with 1"),
    ({"score.measures": "wrong_association"}, "a round asks plural: 1 with 1"),
]


@pytest.mark.parametrize("changes, message", WRONG)
def test_what_cannot_work_is_refused_before_anything_is_compiled(changes, message):
    check.validate(CFG)
    with pytest.raises(UserError) as error:
        check.validate(config.override(CFG, changes))
    assert message in str(error.value)


def test_an_empty_inputs_file_is_refused(tmp_path):
    path = tmp_path / "inputs.txt"
    path.write_text("\n \n")
    with pytest.raises(UserError, match="inputs.file is .*, which is empty"):
        check.validate(config.override(CFG, {"operations.0.inputs.file": str(path)}))
    path.write_text("\nfox\n")
    check.validate(config.override(CFG, {"operations.0.inputs.file": str(path)}))


def test_parts_are_names_of_the_config():
    for kinds in config.REGISTRIES:
        assert [getattr(config, name) for name in kinds.class_names()] == list(kinds.values())
        assert set(kinds.class_names()) < set(dir(config))
    with pytest.raises(AttributeError, match="module 'cdjax.config' has no attribute 'Finnished'"):
        _ = config.Finnished


def test_all_problems_are_told_at_once():
    with pytest.raises(UserError, match="student.rank.*optim.lr.*seeds"):
        check.validate(
            config.override(CFG, {"student": {"kind": "low_rank", "rank": 0}, "training.optim.lr": 0, "seeds": []})
        )


@pytest.mark.parametrize("old", ["task", "optim", "replay", "dtype", "plan.operations", "score.baseline"])
def test_an_experiment_of_before_the_recut_is_told_where_its_fields_are(old, tmp_path):
    fields = json.loads(config.to_json(CFG))
    place, _, name = old.rpartition(".")
    (fields[place] if place else fields)[name] = {}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=f"config.json: .* older cdjax, whose fields have moved: {old} is now"):
        config.load_config(tmp_path / "config.json")
    with pytest.raises(UserError, match=f"{old} is now .*: an experiment has no field '{old}.x'"):
        config.override(CFG, {f"{old}.x": 1})


def test_no_field_has_both_an_old_and_a_new_place():
    assert not set(files.MOVED) & {field.name for field in dataclasses.fields(Experiment)}
