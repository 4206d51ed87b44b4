import json

import pytest

from cdjax import tasks
from cdjax.config import Demonstration, UserError
from cdjax.tasks import Example, text

COLOURS = {
    "Definition": ["Say which colour the thing has.", "Name the colour."],
    "Positive Examples": [
        {"input": "snow", "output": "white", "explanation": "Fresh snow is white. "},
        {"input": "soot", "output": "black", "explanation": "Soot is black."},
    ],
    "Negative Examples": [{"input": "blood", "output": "blue", "explanation": "Blood is red."}],
}


def instances(many, start=0):
    return [{"input": f" thing {start + i} ", "output": ["dark red", "crimson", " "]} for i in range(many)]


def write(path, rows, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(COLOURS | {"Instances": rows} | fields), "utf-8")


def load(folder, name="natural_instructions:task007_colour"):
    return tasks.load(name, data_dir=str(folder))


def inputs_of(task):
    shown = [one.input for one in (*task.demonstrations, *task.negatives, *task.test, *task.validation)]
    return [*shown, *task.held_out, *task.pool]


def sizes(task):
    return len(task.test), len(task.validation), len(task.held_out), len(task.pool)


def test_one_file_is_cut_by_the_input_whatever_the_order(tmp_path):
    rows = [*instances(40), {"input": "Thing  3", "output": "red"}, {"input": "blood", "output": ["red"]}]
    write(tmp_path / "deep" / "task007_colour.json", rows)
    task = load(tmp_path)
    assert task.definition == "Say which colour the thing has." and task.metric == "rougeL"
    assert task.grade is text.rouge_l
    assert task.demonstrations[0] == Demonstration("snow", "white", "Fresh snow is white.")
    assert task.negatives == (Demonstration("blood", "blue", "Blood is red."),)
    assert sizes(task) == (8, 4, 4, 24)
    assert sorted(inputs_of(task)) == sorted(["snow", "soot", "blood", *(f"thing {i}" for i in range(40))])
    assert all(one.output == "dark red" and one.references == ("crimson",) for one in task.test + task.validation)
    assert task.solve("thing 3").output == "dark red" and task.solve("blood") is None
    assert task.grade(task.solve("thing 3"), "crimson") == 1  # a reference counts, also where a filter asks
    write(tmp_path / "deep" / "task007_colour.json", rows[39::-1])
    assert inputs_of(load(tmp_path)) == inputs_of(task)


@pytest.mark.parametrize(
    ("kept", "expected"), [("test", (3, 4, 4, 32)), ("eval", (3, 4, 4, 32)), ("dev", (8, 3, 4, 28))]
)
def test_files_of_a_folder_say_the_parts(tmp_path, kept, expected):
    """What another file has, without what is also trained on; the rest is cut from the training file."""
    write(tmp_path / "task007_colour" / "train.json", instances(40))
    write(tmp_path / "task007_colour" / f"{kept}.json", instances(3, start=40) + [{"input": "soot", "output": "red"}])
    task = load(tmp_path, "natural_instructions:task007")
    assert sizes(task) == expected and len(set(inputs_of(task))) == 46
    part = task.validation if kept == "dev" else task.test
    assert {one.input for one in part} == {"thing 40", "thing 41", "thing 42"}
    assert len(task.demonstrations) == 2, "each file repeats the examples"


def test_a_byte_order_mark_is_no_text(tmp_path):
    write(path := tmp_path / "task007_colour.json", instances(20))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load(tmp_path).test) == 4


def test_what_is_tested_is_never_trained_on(tmp_path):
    write(tmp_path / "task007_colour" / "train.json", instances(40))
    write(tmp_path / "task007_colour" / "test.json", instances(10))
    task = load(tmp_path)
    assert sizes(task) == (10, 3, 3, 24) and len(set(inputs_of(task))) == 43


def test_instances_without_an_answer_are_only_distilled_on(tmp_path):
    bare = [{"input": f"bare {i}"} for i in range(5)]
    write(tmp_path / "task007_colour.json", instances(20) + bare, Definition="As text.")
    task = load(tmp_path)
    assert sizes(task) == (4, 2, 2, 17) and {one["input"] for one in bare} < set(task.pool)
    assert task.definition == "As text."
    write(tmp_path / "task007_colour.json", [{"input": f"bare {i}"} for i in range(20)])
    task = load(tmp_path)
    assert (task.metric, task.solve, sizes(task)) == ("agreement", None, (4, 0, 2, 14))


def test_a_task_may_have_no_examples(tmp_path):
    path = tmp_path / "task007_colour.json"
    path.write_text(json.dumps({"Definition": "Do.", "Instances": instances(10)}))
    assert (load(tmp_path).demonstrations, load(tmp_path).negatives) == ((), ())


def test_an_exact_match_is_of_any_reference_without_punctuation(tmp_path):
    write(tmp_path / "task007_colour.json", instances(20))
    task = load(tmp_path, "natural_instructions:task007:exact_match")
    assert task.metric == "exact_match"
    example = Example("x", "dark red", references=("crimson",))
    answers = {"Dark red.": 1, " 'crimson'\n": 1, "dark  RED": 1, "red": 0, "dark red crimson": 0, "darkred": 0, "": 0}
    assert {answer: task.grade(example, answer) for answer in answers} == answers


def test_outputs_that_rouge_l_cannot_read_are_only_distilled_on(tmp_path):
    marks = [{"input": f"mark {i}", "output": "+-"[i % 2]} for i in range(20)]
    write(tmp_path / "task007_colour.json", instances(20) + marks)
    task = load(tmp_path)
    assert sizes(task) == (4, 2, 2, 32) and {one["input"] for one in marks} < set(task.pool)
    assert all(task.grade(one, one.output) == 1 for one in task.test + task.validation)
    write(tmp_path / "task007_colour.json", marks)
    with pytest.raises(UserError, match="ask for natural_instructions:task007_colour:exact_match"):
        load(tmp_path)
    assert sizes(load(tmp_path, "natural_instructions:task007:exact_match")) == (4, 2, 2, 12)


@pytest.mark.parametrize("pair", [("+", "-"), ("-1", "1"), ("!", "?")])
def test_labels_may_differ_in_punctuation_alone(tmp_path, pair):
    rows = [{"input": f"thing {i}", "output": pair[i % 2]} for i in range(40)]
    write(tmp_path / "task007_colour.json", rows)
    task = load(tmp_path, "natural_instructions:task007:exact_match")
    for example in task.test:
        (other,) = set(pair) - {example.output}
        said = {example.output: 1, f" {example.output}\n": 1, other: 0, "": 0}
        assert {answer: task.grade(example, answer) for answer in said} == said


def test_texts_that_differ_in_punctuation_alone_are_no_labels(tmp_path):
    rows = [{"input": f"thing {i}", "output": f"so {i}" + ".!"[i % 2]} for i in range(0, 40)]
    write(tmp_path / "task007_colour.json", [*rows, {"input": "one more", "output": "so, 3."}])
    task = load(tmp_path, "natural_instructions:task007:exact_match")
    assert all(task.grade(one, one.output.strip(".!")) == 1 for one in task.test)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("task01", "has no 'task01': it has task007_colour, task011_a, task011_b"),
        ("task011", "has several 'task011': it has task011_a, task011_b"),
        ("", "has no ''"),
        ("task007:accuracy", "must be rougeL or exact_match, got 'accuracy'"),
        ("task011_a", 'task011_a.json: wanted an object with a text "Definition"'),
        ("task011_b", 'task011_b.json, Instances 0: wanted an object with a text "input"'),
        ("task012", "has no test instances"),
        ("task013", "cannot read .*task013.json' as JSON"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, name, told):
    write(tmp_path / "task007_colour.json", instances(20))
    write(tmp_path / "task011_a.json", [], Definition=[])
    write(tmp_path / "task011_b.json", [{"input": 3}])
    if name > "task011_b":
        write(tmp_path / "task012.json", instances(4))
        (tmp_path / "task013.json").write_text("{")
    with pytest.raises(UserError, match=told):
        load(tmp_path, f"natural_instructions:{name}")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"Positive Examples": None}, '"Positive Examples" must be a list or left out, got None'),
        ({"Negative Examples": 3}, '"Negative Examples" must be a list or left out, got 3'),
        ({"Positive Examples": [{"input": "snow"}]}, "Positive Examples: 'snow' is shown without an \"output\""),
        (
            {"Positive Examples": [{"input": "snow", "output": "white", "explanation": 3}]},
            '"explanation" must be a text',
        ),
        *(
            ({"Instances": [{"input": "a", "output": output}]}, '0: "output" must be a text or a list of texts, got')
            for output in (3, [3], ["red", None], {}, None)
        ),
    ],
)
def test_a_field_of_another_kind_is_told(tmp_path, fields, told):
    write(tmp_path / "task007_colour.json", **{"rows": instances(20)} | fields)
    with pytest.raises(UserError, match=told):
        load(tmp_path)


def test_an_explanation_may_be_null(tmp_path):
    shown = [{"input": "snow", "output": "white", "explanation": None}]
    write(tmp_path / "task007_colour.json", instances(20), **{"Positive Examples": shown})
    assert load(tmp_path).demonstrations == (Demonstration("snow", "white", ""),)


def test_a_folder_without_task_files_is_told(tmp_path):
    with pytest.raises(UserError, match="has no task: wanted NAME.json, or a folder NAME with train.json"):
        load(tmp_path)


def test_a_task_of_two_places_is_not_chosen_between(tmp_path):
    write(tmp_path / "one" / "task007_colour.json", instances(20))
    write(tmp_path / "two" / "task007_colour.json", instances(20))
    with pytest.raises(UserError, match="has several"):
        load(tmp_path)


@pytest.mark.parametrize("data_dir", ["", "/none"])
def test_a_task_of_files_needs_their_folder(data_dir):
    with pytest.raises(UserError, match="data_dir must be the folder with them"):
        tasks.load("natural_instructions:task007", data_dir=data_dir)


@pytest.mark.parametrize(("text", "told"), [("[" * 100_000, "too many"), ('["\\udfff"]', "surrogates not allowed")])
def test_json_that_is_no_text_is_told(tmp_path, text, told):
    (tmp_path / "task007_colour.json").write_text(text)
    with pytest.raises(UserError, match=f"cannot read .*task007_colour.json' as JSON: .*{told}"):
        load(tmp_path)
