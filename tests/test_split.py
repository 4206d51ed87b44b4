import pytest

from cdjax.tasks import Example
from cdjax.tasks.split import in_turn, merged, split


def test_one_input_with_several_outputs_is_one_example():
    given = [Example("a", "1"), Example("b", "2", ("3",)), Example(" A", "4", ("1", "5")), Example("b", "2")]
    assert merged(given) == [Example("a", "1", ("4", "5")), Example("b", "2", ("3",))]


@pytest.mark.parametrize("size", [8, 9, 31, 1000])
def test_a_split_has_no_empty_part_and_loses_nothing(size):
    examples = [Example(f"input {i}", str(i)) for i in range(size)]
    parts = split(examples, "here")
    assert all(parts.values()) and sum(map(len, parts.values())) == size


def test_in_turn():
    assert list(in_turn([[1, 2, 3], [], [None], [5, 6]])) == [1, None, 5, 2, 6, 3]
