import collections
import itertools
import random
import re

import pytest

from cdjax import tasks
from cdjax.tasks import Example, addition

KINDS = ["addition", "addition_steps", "things", "word_problem"]


def numbers(text):
    return [int(number.replace(" ", "")) for number in re.findall(addition.NUMBER, text)]


def test_the_scratch_pad_is_written_as_in_the_paper():
    assert addition.steps(475, 68 + 500) == (
        "4 7 5 + 5 6 8 , C: 0 => 7 + 6 , 3  C: 1 => 4 + 5 , 4 3  C: 1 => , 0 4 3  C: 1 => 1 0 4 3 "
        "Final answer: #1 0 4 3#"
    )
    assert addition.steps(5, 2) == "5 + 2 , C: 0 => , 7  C: 0 => 0 7 Final answer: #7#"


def test_a_scratch_pad_adds_up():
    for demonstration in tasks.load("addition_steps:6").demonstrations:
        a, b = numbers(demonstration.input)
        start, *lines, end = demonstration.output.split(" => ")
        assert start == f"{addition.spaced(a)} + {addition.spaced(b)} , C: 0"
        head, written, carry, columns = "", "", 0, zip(reversed(str(a)), reversed(str(b)), strict=True)
        for (left, right), line in zip(columns, lines, strict=True):
            if written:
                assert head == f"{left} + {right} "
            carry, digit = divmod(int(left) + int(right) + carry, 10)
            written = f"{digit}{written}"
            head, pad = line.split(", ")
            assert pad == f"{' '.join(written)}  C: {carry}"
        assert not head
        result, answer = end.split(f" {addition.MARKER} ")
        assert numbers(result) == numbers(answer) == [a + b] and re.fullmatch("#(.+)#", answer)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_equal_and_evenly_tested(kind):
    task = tasks.load(f"{kind}:4")
    lengths = collections.Counter(addition.digits(example.input) for example in task.test)
    assert set(lengths) == {1, 2, 3, 4} and lengths[2] == lengths[3] == lengths[4] == addition.TEST
    assert [addition.digits(example.input) for example in task.test[:8]] == [1, 2, 3, 4] * 2
    for example in task.test:
        a, b = numbers(example.input)
        assert len(str(a)) == len(str(b)) and numbers(example.output) == [a + b]
    drawn = collections.Counter(addition.digits(task.rule(random.Random(i))) for i in range(400))
    assert set(drawn) == {1, 2, 3, 4} and min(drawn.values()) > 60


def test_problems_of_a_length_are_the_same_in_every_task():
    """So the two kinds can be learned together, and three digits scored within eight."""
    test = {name: {e.input for e in tasks.load(name).test} for name in ("addition:3", "addition_steps:3", "addition:8")}
    assert test["addition:3"] == test["addition_steps:3"] < test["addition:8"]
    shown = {d.input for d in tasks.load("addition_steps:2").demonstrations}
    assert not shown & test["addition:8"]


def test_one_digit_leaves_some_of_the_problems_to_the_rule():
    task = tasks.load("addition:1")
    given = {*(d.input for d in task.demonstrations), *(e.input for e in task.test + task.validation), *task.held_out}
    everything = {f"{a} + {b}" for a, b in itertools.product(range(10), repeat=2)}
    assert given < everything and len(given) <= 75
    rng = random.Random(0)
    assert {task.rule(rng) for _ in range(2000)} == everything


@pytest.mark.parametrize("kind", ["things", "word_problem"])
def test_the_rule_draws_no_sum_that_is_given_with_other_things(kind):
    task, rng = tasks.load(f"{kind}:2"), random.Random(0)
    texts = [*(d.input for d in task.demonstrations), *(e.input for e in task.test + task.validation), *task.held_out]
    given = {tuple(numbers(text)) for text in texts}
    drawn = {tuple(numbers(task.rule(rng))) for _ in range(2000)}
    assert not drawn & given and len(drawn) > 500


def test_the_rule_of_addition_draws_as_ever():
    rng = random.Random(0)
    drawn = [tasks.load("addition:3").rule(rng) for _ in range(4)]
    assert drawn == ["6 3 + 1 5", "5 9 7 + 5 1 4", "5 5 + 8 4", "2 4 2 + 3 8 8"]


@pytest.mark.parametrize(
    ("output", "answer", "grade"),
    [
        ("4 6", "4 6", 1),
        ("4 6", "46.", 1),
        ("4 6 cars", "The cars are 4 6 .", 1),
        ("4 6", addition.steps(12, 34), 1),
        ("4 6", addition.steps(12, 35), 0),
        ("4 6", "46 or 47", 0),
        ("4 6", "-46", 0),
        ("4 6", "0 4 6", 1),
        ("4 6", "", 0),
        ("0", "-0 0", 1),
        ("4 6", "46" * 5000, 0),
        ("46" * 5000, "0" + "46" * 5000, 1),
    ],
)
def test_an_answer_to_a_sum_is_its_last_number(output, answer, grade):
    assert addition.last_number_match(Example("1 2 + 3 4", output), answer) == grade


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        ("4 6", 1),
        ("46", 1),
        ("0 4 6", 1),
        ("4 7", 0),
        ("46 .", 0),
        ("", 0),
        (addition.steps(12, 34), 0),
        ("9" * 5000, 0),
    ],
)
def test_a_direct_answer_is_the_sum_alone(answer, grade):
    """Or a model that writes its scratch-pad unasked would count as one that does without."""
    assert addition.number_match(Example("1 2 + 3 4", "4 6"), answer) == grade
    assert tasks.load("addition").grade is addition.number_match
    assert tasks.load("addition_steps").grade is addition.last_number_match


@pytest.mark.parametrize("most", [2, 3, 8])
def test_there_are_enough_labelled_problems_of_every_length(most):
    shown = tasks.load(f"addition_steps:{most}").demonstrations
    assert 2000 <= len(shown) <= addition.LABELLED
    lengths = collections.Counter(addition.digits(d.input) for d in shown)
    assert set(lengths) == set(range(1, most + 1)) and min(lengths.values()) == lengths[1] == 36
    assert [d.input for d in shown] == [d.input for d in tasks.load(f"addition:{most}").demonstrations]


def test_what_is_no_sum_of_two_numbers_has_no_answer():
    solve = tasks.load("word_problem").solve
    assert solve("A has 1 2 cats. B has 8 cats.").output == "2 0"
    assert [solve(text) for text in ("1 + 2 + 3", "1 2", "no number", "9" * 5000 + " + 1")] == [None] * 4
