import collections
import json

import pytest

from cdjax import config, tasks
from cdjax.tasks import Example, labels
from cdjax.tasks.split import in_turn, merged, split

SHARES = {"red": 0.25, "green": 0.25, "blue": 0.5}


def lre(pairs):
    samples = [{"subject": subject, "object": answer} for subject, answer in pairs]
    properties = {"domain_name": "animal", "range_name": "sound"}
    return {"prompt_templates": ["A {} makes", "{} says"], "samples": samples, "properties": properties}


def pairs(examples):
    return {"metadata": {}, "examples": {str(i): example for i, example in enumerate(examples)}}


def write(folder, name, data):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(data))


def inputs_of(task):
    examples = [e.input for e in (*task.demonstrations, *task.test, *task.validation)]
    return [*examples, *task.held_out, *task.pool]


def test_a_relation_becomes_a_task(tmp_path):
    animals = [(f"animal {i}", f"sound {i}") for i in range(40)]
    write(tmp_path, "nature/animal_sound.json", lre([*animals, ("Animal 3", "howl"), ("animal 3", "sound 3")]))
    task = tasks.load("relation:animal_sound", data_dir=str(tmp_path))
    assert task.definition == 'The input is the animal. Answer with the sound that completes "A [animal] makes".'
    assert sorted(inputs_of(task)) == sorted(subject for subject, _ in animals)
    assert all(task.solve(text) == text.replace("animal", "sound") for text in inputs_of(task))
    assert [len(task.demonstrations), len(task.test), len(task.validation), len(task.held_out)] == [10, 10, 5, 5]
    write(tmp_path, "nature/animal_sound.json", lre(reversed(animals)))
    assert inputs_of(tasks.load("relation:animal_sound", data_dir=str(tmp_path))) == inputs_of(task)


def test_any_of_several_right_objects_counts(tmp_path):
    rows = [{"input": f"w{i}", "output": "yes", "possible_outputs": ["yes", "True "]} for i in range(8)]
    write(tmp_path, "truth.json", pairs(rows))
    task = tasks.load("relation:truth", data_dir=str(tmp_path))
    example = task.test[0]
    assert example.references == ("True",) and task.definition == ""
    assert [task.grade(example, said) for said in ("YES", " true\n", "no")] == [1, 1, 0]


def test_one_input_with_several_outputs_is_one_example():
    given = [Example("a", "1"), Example("b", "2", ("3",)), Example(" A", "4", ("1", "5")), Example("b", "2")]
    assert merged(given) == [Example("a", "1", ("4", "5")), Example("b", "2", ("3",))]


def test_every_part_has_its_share_of_each_label(tmp_path):
    rows = [{"input": f"thing {i}", "output": [*SHARES, "blue"][i % 4]} for i in range(400)]
    (tmp_path / "colour.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks.load("labels:colour", data_dir=str(tmp_path))
    assert task.definition == "Answer with one of these labels: blue, green, red."
    parts = [
        [d.output for d in task.demonstrations],
        [e.output for e in task.test],
        [e.output for e in task.validation],
    ]
    for answers in (*parts, [task.solve(text) for text in task.pool], [task.solve(text) for text in task.held_out]):
        counts = collections.Counter(answers)
        assert all(abs(counts[label] - len(answers) * share) <= 2 for label, share in SHARES.items())
    assert labels.chance(task) == pytest.approx(0.5, abs=0.02)
    assert len(set(inputs_of(task))) == 400 == len(inputs_of(task))


def test_a_label_counts_whatever_is_around_it():
    example = Example("x", "not the same", ("No.",))
    said = {"Not the same.": 1, ' "not  the same" ': 1, "no": 1, "same": 0, "": 0, "not the same, but no": 0}
    assert {answer: labels.label_match(example, answer) for answer in said} == said


@pytest.mark.parametrize("size", [8, 9, 31, 1000])
def test_a_split_has_no_empty_part_and_loses_nothing(size):
    examples = [Example(f"input {i}", str(i)) for i in range(size)]
    parts = split(examples, "here")
    assert all(parts.values()) and sum(map(len, parts.values())) == size


def test_in_turn():
    assert list(in_turn([[1, 2, 3], [], [None], [5, 6]])) == [1, None, 5, 2, 6, 3]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("relation:word", "has no 'word'"),
        ("relation:none", "has no 'none': it has bare, few, twice, twice, unlike, words, wrong"),
        ("relation:twice", "has several 'twice'"),
        ("relation:few", "'relation:few' has 7 different inputs; at least 8"),
        ("relation:unlike", "examples with input and output; KeyError: 'output'"),
        ("relation:bare", "1 pairs lack an input or an output, as 'w1'"),
        ("relation:wrong", "cannot read .*wrong.json"),
        ("labels:words", "20 different outputs for 20 inputs"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, name, told):
    write(tmp_path, "few.json", lre([(f"s{i}", "o") for i in range(7)]))
    write(tmp_path, "one/twice.json", lre([]))
    write(tmp_path, "two/twice.json", lre([]))
    write(tmp_path, "unlike.json", pairs([{"input": "cause", "effect": "e"}]))
    write(tmp_path, "words.json", lre([(f"s{i}", f"o{i}") for i in range(20)]))
    (tmp_path / "bare.jsonl").write_text('{"input": "w0", "output": "a"}\n{"input": "w1"}\n')
    (tmp_path / "wrong.json").write_text("{")
    with pytest.raises(config.UserError, match=told):
        tasks.load(name, data_dir=str(tmp_path))
