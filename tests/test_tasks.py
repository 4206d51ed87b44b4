import random
import re

import pytest

from cdjax import config, tasks
from cdjax.tasks import Example

NAMES = ["past_tense", "plural", "addition", "addition_steps:5", "things:1", "word_problem"]
# Verbs of several syllables that double their last consonant: the stress is on the last one, or custom has it.
DOUBLING = set(
    "admit commit compel confer control defer equip expel incur infer occur omit overlap patrol permit prefer propel "
    "rebel refer regret repel submit transfer transmit".split()
)
IRREGULAR_ENDINGS = [("eed$", "ed"), ("fe?$", "ves"), ("is$", "es"), ("$", "")]
KNOWN = {"lead", "flee", "stomach", "quiz", "potato", "tomato", "hero"}


def inputs_of(task):
    examples = [e.input for e in (*task.demonstrations, *task.test, *task.validation)]
    return [*examples, *task.held_out, *task.pool]


def regular_past(verb):
    one_syllable = re.fullmatch(r"(?:[^aeiouy]|qu|y(?=.))*[aeiou][bdgklmnprt]", verb)
    if one_syllable or verb in DOUBLING:
        return verb + verb[-1] + "ed"
    if re.search("[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    return verb + ("ked" if verb.endswith("ic") else "d" if verb.endswith("e") else "ed")


def regular_plural(noun):
    if re.search("[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search("(s|x|z|ch|sh)$", noun) else "s")


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_disjoint_and_known(name):
    task = tasks.load(name)
    given = inputs_of(task)
    assert len(given) == len(set(given))
    assert len(task.demonstrations) >= 10
    assert all(task.grade(example, example.output) == 1 for example in task.test + task.validation)
    assert all(task.solve(text) for text in given) and task.solve("no such input") is None
    assert given == inputs_of(tasks.load(name)), "the split is fixed"


def test_past_tense_is_large_enough_and_split_as_ever():
    task = tasks.load("past_tense")
    assert [example.input for example in task.test[:3]] == ["dedicate", "contest", "shove"]
    assert len(task.pool) >= 550 and len(task.test) >= 150
    assert len(task.validation) >= 64 and len(task.held_out) >= 48


@pytest.mark.parametrize(("name", "regular"), [("past_tense", regular_past), ("plural", regular_plural)])
def test_words_follow_the_spelling_rules_or_are_irregular(name, regular):
    """What breaks the rule must not look like a misspelled regular form, and each part has its share of it."""
    task = tasks.load(name)
    irregular = {word for word in inputs_of(task) if task.solve(word).output != regular(word)}
    for word in irregular:
        looks_regular = re.fullmatch({"past_tense": "[a-z]{2,}ed", "plural": "[a-z]+s"}[name], task.solve(word).output)
        kind = any(re.sub(old, new, word) == task.solve(word).output for old, new in IRREGULAR_ENDINGS)
        assert not looks_regular or kind or word in KNOWN, (word, task.solve(word))
    parts = [task.pool, task.held_out, [e.input for e in task.test], [e.input for e in task.validation]]
    shares = [sum(word in irregular for word in part) / len(part) for part in parts]
    assert max(shares) - min(shares) < 0.05 and min(shares) > 0.02


def test_words_are_graded_whatever_their_case():
    task = tasks.load("past_tense")
    assert task.grade(Example("go", "went"), " Went\n") == 1
    assert task.grade(Example("go", "went"), "wen") == 0


def test_words_are_invented_the_same_for_a_seed_and_mostly_not_real():
    task = tasks.load("past_tense")
    words, again = ([task.rule(rng) for _ in range(200)] for rng in (random.Random(0), random.Random(0)))
    assert words == again and len(set(words)) > 150 and all(re.fullmatch("[a-z]{2,7}", word) for word in words)
    assert sum(word in inputs_of(task) for word in set(words)) < 20


def test_a_file_becomes_a_task(tmp_path):
    path = tmp_path / "fruit.jsonl"
    path.write_text("".join(f'{{"input": "n{i}", "output": "{i}"}}\n' for i in range(30)) + '\n{"input": "N0"}\n')
    task = tasks.load("", inputs_file=str(path))
    assert task.metric == "accuracy" and task.solve("n7").output == "7"
    assert (len(task.pool), len(task.test), len(task.validation), len(task.held_out)) == (21, 3, 3, 3)
    assert sorted(inputs_of(task)) == sorted(f"n{i}" for i in range(30))
    assert inputs_of(tasks.load("fruit", data_dir=str(tmp_path))) == inputs_of(task)
    path.rename(tmp_path / "FRUIT.JSONL")
    assert inputs_of(tasks.load("", inputs_file=str(tmp_path / "FRUIT.JSONL"))) == inputs_of(task)
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n\nthree\n")
    task = tasks.load("", inputs_file=str(path))
    assert task.metric == "agreement" and task.solve is None
    assert (task.pool, [e.input for e in task.test], task.held_out) == (("one",), ["two"], ("three",))


@pytest.mark.parametrize(
    ("name", "line"), [("inputs.jsonl", '{{"input": "n\u2028{}\x85"}}'), ("inputs.txt", "n\u2028{}\x85.")]
)
def test_a_line_ends_where_a_line_of_a_file_ends_and_a_byte_order_mark_is_no_text(tmp_path, name, line):
    text = "\r\n".join(line.format(i) for i in range(9))
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    given = inputs_of(tasks.load("", inputs_file=str(tmp_path / name)))
    assert sorted(given) == [f"n\u2028{i}\x85" + "." * name.endswith("txt") for i in range(9)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"input": "a"}\n{"input": \n', "line 2: not JSON"),
        ('{"input": "a"}\n\n["b"]\n', r'line 3: wanted an object with a text "input", got \["b"\]'),
        ('{"input": "a", "output": 3}\n', 'line 1: "output" must be text'),
        ('{"input": "a", "output": null}\n', 'line 1: "output" must be text'),
        ('{"input": "a"}\n{"input": "b", "output": " "}\n', 'line 2: "output" must be text, or left out'),
        (
            '{"input": "a", "output": "b"}\n\n{"input": "A ", "output": "c"}\n',
            "lines 1 and 3: the input 'A ' has the outputs 'b' and 'c'; leave one",
        ),
        ('{"input": "a", "output": "b"}\n{"input": "c"}\n', "'c' has none"),
        ('{"input": "a"}\n{"input": "A "}\n', "1 different inputs; at least 3"),
        ("\n \n", "has no inputs"),
        ("[" * 100_000, "line 1: not JSON .*too many"),
        ('{"input": "\\ud800"}', "line 1: not JSON .*surrogates not allowed"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, told):
    path = tmp_path / "inputs.jsonl"
    path.write_text(text)
    with pytest.raises(config.UserError, match=told):
        tasks.load("", inputs_file=str(path))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "past"}, "there is no task 'past'; there are past_tense, plural"),
        ({"name": ""}, "neither a task nor inputs.file"),
        ({"name": "", "inputs_file": "/none.txt"}, "cannot read the inputs file '/none.txt': No such file"),
        ({"name": "mine", "data_dir": "/none"}, "/none/mine.jsonl"),
        ({"name": "addition:0"}, "from 1 to 18"),
        ({"name": "addition:x"}, "from 1 to 18"),
        ({"name": "relation:capital"}, "data_dir must be the folder"),
        ({"name": "plural:3"}, "there is no task 'plural:3'"),
    ],
)
def test_what_is_not_there_is_told(given, told):
    with pytest.raises(config.UserError, match=told):
        tasks.load(**given)
