import json

import pytest

from cdjax import config, tasks


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
    assert all(task.solve(text).output == text.replace("animal", "sound") for text in inputs_of(task))
    assert [len(task.demonstrations), len(task.test), len(task.validation), len(task.held_out)] == [10, 10, 5, 5]
    write(tmp_path, "nature/animal_sound.json", lre(reversed(animals)))
    assert inputs_of(tasks.load("relation:animal_sound", data_dir=str(tmp_path))) == inputs_of(task)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(lre([(f"s{i}", "o") for i in range(8)])).encode())
    assert len(tasks.load("relation:a", data_dir=str(tmp_path)).test) == 2


def test_any_of_several_right_objects_counts(tmp_path):
    rows = [{"input": f"w{i}", "output": "yes", "possible_outputs": ["yes", "True ", " "]} for i in range(8)]
    write(tmp_path, "truth.json", pairs(rows))
    task = tasks.load("relation:truth", data_dir=str(tmp_path))
    example = task.test[0]
    assert example.references == ("True",) and task.definition == ""
    assert [task.grade(example, said) for said in ("YES", " true\n", "no", "")] == [1, 1, 0, 0]


def test_a_folder_without_relations_is_told(tmp_path):
    with pytest.raises(config.UserError, match="has no pairs: wanted NAME.json or NAME.jsonl"):
        tasks.load("relation:a", data_dir=str(tmp_path))


def test_a_suffix_may_be_in_capitals(tmp_path):
    write(tmp_path, "A.JSON", lre([(f"s{i}", "o") for i in range(8)]))
    (tmp_path / "B.JSONL").write_text("".join(f'{{"input": "s{i}", "output": "o"}}\n' for i in range(8)))
    assert all(len(tasks.load(f"relation:{name}", data_dir=str(tmp_path)).test) == 2 for name in "AB")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("relation:word", "has no 'word'"),
        ("relation:none", "has no 'none': it has bare, few, letters, twice, twice, unlike, wording, wrong"),
        ("relation:twice", "has several 'twice'"),
        ("relation:few", "'relation:few' has 7 different inputs; at least 8"),
        ("relation:unlike", "examples with input and output; KeyError: 'output'"),
        ("relation:bare", "1 pairs lack an input or an output, as 'w1'"),
        ("relation:wrong", "cannot read .*wrong.json"),
        ("relation:letters", "wanted a list of texts, got 'xyz'"),
        ("relation:wording", "wanted a list of texts, got 'A {} makes'"),
        ("relation:few:rougeL", "after a second colon; ask for relation:few"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, name, told):
    write(tmp_path, "few.json", lre([(f"s{i}", "o") for i in range(8 if ":few:" in name else 7)]))
    write(tmp_path, "letters.json", pairs([{"input": "a", "output": "b", "possible_outputs": "xyz"}]))
    write(tmp_path, "wording.json", lre([("s", "o")]) | {"prompt_templates": "A {} makes"})
    write(tmp_path, "one/twice.json", lre([]))
    write(tmp_path, "two/twice.json", lre([]))
    write(tmp_path, "unlike.json", pairs([{"input": "cause", "effect": "e"}]))
    (tmp_path / "bare.jsonl").write_text('{"input": "w0", "output": "a"}\n{"input": "w1"}\n')
    (tmp_path / "wrong.json").write_text("{")
    with pytest.raises(config.UserError, match=told):
        tasks.load(name, data_dir=str(tmp_path))


@pytest.mark.parametrize(("text", "told"), [("[" * 100_000, "too many"), ('["\\udfff"]', "surrogates not allowed")])
def test_json_that_is_no_text_is_told(tmp_path, text, told):
    (tmp_path / "task007_colour.json").write_text(text)
    with pytest.raises(config.UserError, match=f"cannot read .*task007_colour.json' as JSON: .*{told}"):
        tasks.load("relation:task007_colour", data_dir=str(tmp_path))
