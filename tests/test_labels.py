import collections
import json

import pytest

from cdjax import config, tasks
from cdjax.tasks import Example, labels

SHARES = {"red": 0.25, "green": 0.25, "blue": 0.5}


def inputs_of(task):
    examples = [e.input for e in (*task.demonstrations, *task.test, *task.validation)]
    return [*examples, *task.held_out, *task.pool]


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
    for answers in (
        *parts,
        [task.solve(text).output for text in task.pool],
        [task.solve(text).output for text in task.held_out],
    ):
        counts = collections.Counter(answers)
        assert all(abs(counts[label] - len(answers) * share) <= 2 for label, share in SHARES.items())
    assert labels.chance(task) == pytest.approx(0.5, abs=0.02)
    assert len(set(inputs_of(task))) == 400 == len(inputs_of(task))


def test_a_label_counts_whatever_is_around_it():
    example = Example("x", "not the same", ("No.",))
    said = {"Not the same.": 1, ' "not  the same" ': 1, "no": 1, "same": 0, "": 0, "not the same, but no": 0}
    assert {answer: labels.label_match(example, answer) for answer in said} == said


@pytest.mark.parametrize("pair", [("+", "-"), ("-1", "1"), ("!", "?"), ("yes", "?")])
def test_labels_may_differ_in_punctuation_alone(tmp_path, pair):
    rows = [{"input": f"thing {i}", "output": pair[i % 2]} for i in range(40)]
    (tmp_path / "marks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks.load("labels:marks", data_dir=str(tmp_path))
    for example in task.test:
        (other,) = set(pair) - {example.output}
        said = {example.output: 1, f" {example.output}\n": 1, other: 0, "": 0, ".": 0}
        assert {answer: task.grade(example, answer) for answer in said} == said
    assert task.grade(Example("x", "yes"), "Yes.") == (pair == ("yes", "?"))


@pytest.mark.parametrize(
    ("outputs", "told"),
    [(range(20), "20 different outputs for 20 inputs"), (["same"] * 20, "1 different outputs for 20 inputs")],
)
def test_outputs_that_are_no_labels_are_told(tmp_path, outputs, told):
    rows = [{"input": f"thing {i}", "output": str(output)} for i, output in enumerate(outputs)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(config.UserError, match=told):
        tasks.load("labels:words", data_dir=str(tmp_path))


def test_no_other_metric_can_be_asked_for(tmp_path):
    rows = [{"input": f"thing {i}", "output": "ab"[i % 2]} for i in range(20)]
    (tmp_path / "kind.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(config.UserError, match="after a second colon; ask for labels:kind"):
        tasks.load("labels:kind:rougeL", data_dir=str(tmp_path))
