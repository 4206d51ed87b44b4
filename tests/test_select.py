"""Which demonstrations each row is shown."""

import dataclasses

import numpy as np
import pytest

from cdjax import config
from cdjax.config import check
from cdjax.views import encode, render
from tests import small_tokenizer
from tests.test_views import ARROW, CHAT, TASK, encoded

WORDS = ("one", "two", "three", "four", "five", "six", "seven")
SHOWN = tuple(config.Demonstration(word, word.upper()) for word in WORDS)
CONTEXT = config.Context(instruction="Shout.", demonstrations=SHOWN, shots=3, select=config.Drawn())
TOKENIZER = small_tokenizer.make()


def drawn(*inputs, seed=0, shots=3):
    return [[one.input for one in row] for row in config.Drawn(seed)(SHOWN, inputs, shots)]


def test_first_shows_every_row_the_same():
    context = dataclasses.replace(CONTEXT, select=config.First(skip=1), shots=1)
    for row in render.rows(context, TASK, ["a", "b"]):
        assert row == render.complete(context, TASK)
        assert row.demonstrations == SHOWN + TASK.demonstrations[1:]


def test_drawn_shows_others_for_every_input_and_the_same_in_every_run():
    rows = drawn(*map(str, range(200)))
    assert all(len(set(row)) == 3 for row in rows) and len(set(map(tuple, rows))) > 100
    assert [drawn(str(i))[0] for i in range(200)] == rows != drawn(*map(str, range(200)), seed=1)
    counts = np.unique(np.array(rows), return_counts=True)[1]
    assert len(counts) == len(WORDS) and counts.min() > 50


def test_an_input_is_never_shown_its_own_answer():
    for word in ("one", " ONE"):
        assert {shown for seed in range(50) for shown in drawn(word, seed=seed)[0]} == set(WORDS[1:])
    with pytest.raises(config.UserError, match="shots is 7, and for the input 'one' there are 6 other demonstrations"):
        drawn("zero", "one", shots=7)


@pytest.mark.parametrize("template", [ARROW, CHAT])
def test_every_row_has_its_own_context_and_shares_what_all_begin_with(template):
    inputs = ["cat", "cow", "one"]
    prompts, _ = encoded(template, CONTEXT, inputs)
    rows = render.rows(CONTEXT, TASK, inputs)
    texts = [render.prompt(TOKENIZER, template, *one) for one in zip(rows, inputs, strict=True)]
    assert [ids.tolist() for ids in prompts.whole] == [TOKENIZER(text)["input_ids"] for text in texts]
    assert len({row.demonstrations for row in rows}) == 3
    assert "Shout." in encode.decode(TOKENIZER, prompts.context)
    assert len({int(suffix[0]) for suffix in prompts.suffixes}) > 1, "no longer context would do"


def test_rows_are_selected_from_what_is_written_out_and_the_tasks_own():
    whole = render.complete(CONTEXT, TASK)
    assert whole.demonstrations == SHOWN + TASK.demonstrations and render.complete(whole, TASK) == whole
    rows = render.rows(CONTEXT, TASK, list(map(str, range(50))))
    assert {one for row in rows for one in row.demonstrations} == set(whole.demonstrations)
    assert all(render.complete(row, TASK) == row for row in rows)
    unselected = dataclasses.replace(CONTEXT, shots=0)
    assert render.rows(unselected, TASK, ["a"])[0].demonstrations == SHOWN


def test_without_a_task_rows_are_selected_from_what_is_written_out(tmp_path):
    (tmp_path / "inputs.txt").write_text("cat\ncow\n")
    inputs = config.Inputs(file=str(tmp_path / "inputs.txt"))
    check.validate(
        config.Experiment(
            name="own",
            model="tiny:0",
            operations=(config.Operation(inputs=inputs, context=CONTEXT),),
        )
    )
    first = dataclasses.replace(CONTEXT, select=config.First())
    with pytest.raises(config.UserError, match="shots=3 must be a number of the task's own demonstrations"):
        check.validate(
            config.Experiment(
                name="own",
                model="tiny:0",
                operations=(config.Operation(inputs=inputs, context=first),),
            )
        )
