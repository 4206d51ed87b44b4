"""Prepared datasets: what is read from one is what was read from the files."""

import pytest

from cdjax import tasks
from cdjax.config import UserError
from cdjax.tasks import builders, natural_instructions
from tests import test_counterfact
from tests.test_natural_instructions import instances, write

NAME = "natural_instructions:task007"


@pytest.fixture
def source(tmp_path):
    write(tmp_path / "files" / "task007_colour" / "train.json", instances(20) + [{"input": "Käse\nund Brot"}])
    write(tmp_path / "files" / "task007_colour" / "test.json", instances(3, start=20))
    write(tmp_path / "files" / "task008_other.json", instances(12), **{"Negative Examples": []})
    return tmp_path / "files"


def rows_of(task):
    return {name: value for name, value in vars(task).items() if name != "solve"}


def test_a_prepared_task_is_the_task_of_its_files(source, tmp_path):
    made = builders.prepare("natural_instructions", source, tmp_path / "made")
    assert [path.parent.name for path in made] == ["task007_colour", "task008_other"]
    for name in (NAME, "natural_instructions:task008_other:exact_match"):
        prepared = tasks.load(f"tfds:{name}", data_dir=str(tmp_path / "made"))
        assert rows_of(prepared) == rows_of(tasks.load(name, data_dir=str(source)))
        assert prepared.solve("thing 3").output == "dark red"


@pytest.mark.parametrize("form", [dict, test_counterfact.flat], ids=["rome", "flat"])
def test_a_prepared_fact_is_the_fact_of_its_file(form, tmp_path):
    files, made, name = tmp_path / "files", tmp_path / "made", "counterfact:4:paraphrase"
    files.mkdir()
    test_counterfact.write(files, [form(row) for row in test_counterfact.records()])
    assert [path.parent.name for path in builders.prepare(name, files, made)] == ["counterfact"]
    assert tasks.load(f"tfds:{name}", data_dir=str(made)) == tasks.load(name, data_dir=str(files))


def test_rows_come_back_plain_and_in_order(source, tmp_path):
    builders.prepare(NAME, source, tmp_path)
    rows = builders.read("natural_instructions", "task007", tmp_path)
    assert rows == natural_instructions.read(source, "task007")
    assert type(rows["train"][-1]["input"]) is str and rows["train"][-1]["outputs"] == []


def test_preparing_again_takes_the_files_as_they_are(source, tmp_path):
    builders.prepare(NAME, source, tmp_path)
    write(source / "task007_colour" / "test.json", instances(5, start=50))
    builders.prepare(NAME, source, tmp_path)
    assert len(builders.read("natural_instructions", "task007", tmp_path)["test"]) == 5


def test_what_cannot_be_prepared_or_read_is_told(source, tmp_path):
    with pytest.raises(UserError, match="no task 'fruit' can be prepared; there are natural_instructions"):
        builders.prepare("fruit", source, tmp_path)
    with pytest.raises(UserError, match="is not a folder with files"):
        builders.prepare(NAME, tmp_path / "none", tmp_path)
    with pytest.raises(UserError, match="has no 'task009'"):
        builders.prepare("natural_instructions:task009", source, tmp_path)
    with pytest.raises(UserError, match="has no prepared 'natural_instructions'"):
        tasks.load(f"tfds:{NAME}", data_dir=str(source))
    builders.prepare(NAME, source, tmp_path)
    with pytest.raises(UserError, match="prepared natural_instructions has no 'task008': it has task007_colour"):
        tasks.load("tfds:natural_instructions:task008", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="there is no task 'tfds:plural'"):
        tasks.load("tfds:plural", data_dir=str(tmp_path))


@pytest.mark.parametrize("damage", ["no info", "broken info", "cut off"])
def test_a_damaged_dataset_is_told(source, tmp_path, damage):
    (made,) = builders.prepare(NAME, source, tmp_path)
    info = made / "dataset_info.json"
    if damage == "no info":
        info.unlink()
    elif damage == "broken info":
        info.write_text("{}")
    else:
        for path in made.glob("*array_record*"):
            path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot read the prepared 'natural_instructions' in .*; prepare it again"):
        tasks.load(f"tfds:{NAME}", data_dir=str(tmp_path))


def test_a_target_that_is_no_folder_is_told(source, tmp_path):
    (tmp_path / "made").write_text("")
    with pytest.raises(UserError, match="cannot prepare .* in .*made': File exists; give a folder"):
        builders.prepare(NAME, source, tmp_path / "made")


def test_a_file_that_cannot_be_read_says_so_while_preparing(source, tmp_path):
    write(source / "task007_colour" / "test.json", [{"input": 3}])
    with pytest.raises(UserError, match="Instances 0: wanted an object"):
        builders.prepare(NAME, source, tmp_path)
