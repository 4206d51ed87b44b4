"""A word list -> a task: the past tense of verbs, the plural of nouns.

In: `data/NAME.txt`, one `word answer` a line, demonstrations first. Out: Task.
"""

import hashlib
import importlib.resources
import random

from cdjax.tasks.task import Demonstration, Example, Task, exact_match

DEMONSTRATIONS = 10
TEST, VALIDATION, HELD_OUT = 200, 80, 64
ONSETS = "b bl br c ch cl d dr f fl g gr h j k l m n p pl pr r s sh sl sp st t tr v w".split()
CODAS = "b ck d dge ft g k l ll m mp n nd nk nt p r rk rm s sh sk st t ve x".split()
SALT = 91  # chosen so that the parts of both lists have similar shares of irregular words


def load(name: str) -> Task:
    """The task of a word list; a word's hash determines its part, whatever the order of the file."""
    lines = (importlib.resources.files("cdjax.tasks") / "data" / f"{name}.txt").read_text("utf-8").splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#")]
    shown = [Demonstration(word, answer) for word, answer in pairs[:DEMONSTRATIONS]]
    rest = [Example(word, answer) for word, answer in pairs[DEMONSTRATIONS:]]
    rest.sort(key=lambda example: hashlib.sha256(f"{SALT} {example.input}".encode()).digest())
    return Task(
        name=name,
        metric="accuracy",
        grade=exact_match,
        demonstrations=tuple(shown),
        test=tuple(rest[:TEST]),
        validation=tuple(rest[TEST : TEST + VALIDATION]),
        held_out=tuple(example.input for example in rest[TEST + VALIDATION :][:HELD_OUT]),
        pool=tuple(example.input for example in rest[TEST + VALIDATION + HELD_OUT :]),
        rule=invented,
        solve={word: Example(word, answer) for word, answer in pairs}.get,
    )


def invented(rng: random.Random) -> str:
    """A random syllable that sounds English, as "blick"; some are words."""
    return rng.choice(ONSETS) + rng.choice("aeiou") + rng.choice(CODAS)
