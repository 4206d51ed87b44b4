import json
import sys

import pytest

from cdjax import tasks
from cdjax.config import UserError
from cdjax.tasks import Example, text
from tests.test_natural_instructions import instances, write


def test_rouge_l_is_of_the_best_reference_and_of_word_stems():
    example = Example("x", "the cats sat", references=("a dog barked loudly",))
    grade = text.rouge_l
    assert grade(example, "The cat!") == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert grade(example, "sat the cats") == pytest.approx(2 / 3), (
        "the longest common subsequence has two words of three"
    )
    assert grade(example, "dogs barking loud") == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert grade(example, "") == 0


@pytest.mark.parametrize(("suffix", "line"), [("txt", "Opening {}"), ("jsonl", '{{"input": "Opening {}"}}')])
def test_openings_have_no_answer_and_are_graded_against_what_the_teacher_writes(tmp_path, suffix, line):
    (tmp_path / f"reviews.{suffix}").write_text("".join(line.format(i) + "\n" for i in range(20)))
    task = tasks.load("text:reviews", data_dir=str(tmp_path))
    assert (task.name, task.metric, task.solve) == ("text:reviews", "rougeL", None)
    assert (len(task.pool), len(task.test), len(task.held_out), len(task.validation)) == (16, 2, 2, 0)
    assert all(one.output == "" for one in task.test)
    said = Example(task.test[0].input, "went on and was good")
    assert task.grade(said, "went on, was bad") == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))


def test_text_with_a_known_continuation_is_graded_against_it(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"input": "{i}", "output": "so {i}"}}\n' for i in range(20)))
    task = tasks.load("text:a", data_dir=str(tmp_path))
    assert task.grade(task.test[0], task.test[0].output) == 1 and len(task.validation) == 2


def test_a_continuation_that_rouge_l_cannot_read_is_only_distilled_on(tmp_path):
    outputs = [f"so {i}" if i % 2 else "\u0939\u0901" for i in range(40)]
    rows = [{"input": str(i), "output": output} for i, output in enumerate(outputs)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks.load("text:a", data_dir=str(tmp_path))
    assert [len(task.test), len(task.validation), len(task.held_out), len(task.pool)] == [2, 2, 4, 32]
    assert all(task.grade(one, one.output) == 1 for one in task.test + task.validation)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row | {"output": "+"}) + "\n" for row in rows))
    with pytest.raises(UserError, match="Rouge-L reads only the letters a to z .* as inputs.file"):
        tasks.load("text:a", data_dir=str(tmp_path))


def test_text_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="task 'text:a': there is neither .*a.jsonl nor a.txt"):
        tasks.load("text:a", data_dir=str(tmp_path))


def test_a_missing_package_is_told_when_the_task_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    write(tmp_path / "task007_colour.json", instances(20))
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    for name in ("text:a", "natural_instructions:task007"):
        with pytest.raises(UserError, match=r"needs the package rouge-score; pip install 'cdjax\[tasks\]'"):
            tasks.load(name, data_dir=str(tmp_path))
    assert tasks.load("natural_instructions:task007:exact_match", data_dir=str(tmp_path))
