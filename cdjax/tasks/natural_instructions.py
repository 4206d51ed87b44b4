"""Natural-Instructions v2 task files (arXiv 2204.07705) -> a task: definition, positive and negative examples, answers.

In: NAME.json, or a folder NAME with train.json, test.json (or eval.json) and perhaps dev.json, anywhere in a folder; or
the rows of the same as prepared by builders/natural_instructions.py. Out: Rows, Task.
"""

import hashlib
import string
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from cdjax.errors import UserError
from cdjax.tasks import files
from cdjax.tasks.task import Demonstration, Example, Row, Rows, Task, exact_match, named, normalized, whole_match
from cdjax.tasks.text import check_rouge, rouge_l, scorable

SPLITS = {"train": "train", "task": "train", "dev": "validation", "test": "test", "eval": "test"}  # by a file's name
EXAMPLES = {"positive": "Positive Examples", "negative": "Negative Examples"}
EACH = 4  # instances for each label at least, on average: outputs that hardly repeat are not labels
TEST, VALIDATION, HELD_OUT = 100, 64, 64  # at most; the benchmark tests 100 instances of a task


def names(folder: Path) -> list[str]:
    """The tasks with files in the folder. Raises UserError if there is none."""
    places = _places(folder)
    if not places:
        raise UserError(f"{str(folder)!r} has no task: wanted NAME.json, or a folder NAME with train.json")
    return [place.name.removesuffix(".json") for place in places]


def read(folder: Path, part: str) -> Rows:
    """The instances and examples of the task that `part` names, or whose name begins with it, as "task1155".

    Raises UserError if no task or several tasks fit, and for a file of another form.
    """
    name = named(part, names(folder), str(folder))
    (place,) = (place for place in _places(folder) if place.name.removesuffix(".json") == name)
    rows: Rows = {}
    for path in sorted(place.glob("*.json")) if place.is_dir() else [place]:
        whole = _parse(path)
        for split, field in {SPLITS.get(path.stem, "train"): "Instances", **EXAMPLES}.items():
            records = [_row(whole, record, f"{path}, {field} {i}") for i, record in enumerate(whole.get(field, []))]
            if split in EXAMPLES and (bare := [row["input"] for row in records if not row["outputs"]]):
                raise UserError(f'{path}, {field}: {bare[0]!r} is shown without an "output"; add it or leave it out')
            if split not in EXAMPLES or split not in rows:  # every file of a task repeats its examples
                rows.setdefault(split, []).extend(records)
    return rows


def task(name: str, rows: Rows) -> Task:
    """The task "natural_instructions:PART", graded by Rouge-L, or "natural_instructions:PART:exact_match".

    Inputs shown as examples are in no other list; an instance without an answer, or with one that Rouge-L cannot read,
    can only be in the pool. If no instance has an answer, the metric is "agreement" with the teacher. Raises UserError
    if no instance is left to test.
    """
    metric = ":".join(name.split(":")[2:]) or "rougeL"
    if metric not in GRADES:
        raise UserError(f"task {name!r}: the metric after the colon must be {' or '.join(GRADES)}, got {metric!r}")
    shown = {kind: tuple(map(_demonstration, rows.get(kind, []))) for kind in EXAMPLES}
    scored = scorable if metric == "rougeL" else bool
    inputs_shown = {normalized(example.input) for examples in shown.values() for example in examples}
    parts = _parts(rows, inputs_shown, scored)
    if not parts["test"] and any(example.output and not scored(example.output) for example in parts["pool"]):
        raise UserError(
            f"task {name!r}: Rouge-L reads only the letters a to z and digits, of which too few outputs have one; "
            f"ask for {':'.join(name.split(':')[:2])}:exact_match"
        )
    if not parts["test"]:
        raise UserError(f"task {name!r} has no test instances, and too few others to take some from: 5 are needed")
    answers = {example.input: example for examples in parts.values() for example in examples if example.output}
    metric = metric if answers else "agreement"
    grade = GRADES.get(metric, exact_match)
    if metric == "rougeL":
        check_rouge()
    return Task(
        name=name,
        metric=metric,
        grade=whole_match if grade is match and _differ_in_punctuation(answers.values()) else grade,
        definition=next(row["definition"] for split in rows.values() for row in split),
        demonstrations=shown["positive"],
        negatives=shown["negative"],
        pool=tuple(example.input for example in parts["pool"]),
        held_out=tuple(example.input for example in parts["held_out"]),
        validation=tuple(parts["validation"]),
        test=tuple(parts["test"]),
        solve=answers.get if answers else None,
    )


def match(example: Example, answer: str) -> float:
    """1.0 if the answer is the output or a reference, letter case, punctuation and runs of space aside.

    An answer of punctuation alone is compared as it is.
    """
    bare = float(_bare(answer) in map(_bare, (example.output, *example.references)))
    return bare if _bare(answer) else whole_match(example, answer)


GRADES = {"rougeL": rouge_l, "exact_match": match}


def _differ_in_punctuation(examples: Collection[Example]) -> bool:
    """Whether the outputs are labels of which some differ only in punctuation, as -1 and 1."""
    labels = {normalized(example.output) for example in examples}
    return EACH * len(labels) <= len(examples) and len(set(map(_bare, labels))) < len(labels)


def _bare(text: str) -> str:
    return normalized(text.translate(str.maketrans("", "", string.punctuation)))


def _parts(rows: Rows, taken: set[str], scored: Callable[[str], bool]) -> dict[str, list[Example]]:
    """Test, validation, held-out and pool, disjoint and without `taken`; parts that no file has come from train.

    Examples whose output is not scored are in the pool.
    """
    test, validation, train = (_fresh(rows.get(split, []), taken) for split in ("test", "validation", "train"))
    labelled = any(example.output for example in (*test, *validation, *train))
    unscored = {example: None for example in (*test, *train) if labelled and not scored(example.output)}
    unscored |= {example: None for example in validation if not scored(example.output)}
    test, validation, train = (
        [example for example in examples if example not in unscored] for examples in (test, validation, train)
    )
    train.sort(key=lambda example: hashlib.sha256(example.input.encode()).digest())  # independent of the file's order
    sizes = {
        "test": 0 if test else min(TEST, len(train) // 5),
        "validation": 0 if validation or not labelled else min(VALIDATION, len(train) // 10),
        "held_out": min(HELD_OUT, len(train) // 10),
    }
    cut = {name: [train.pop() for _ in range(size)] for name, size in sizes.items()}
    return {
        "test": test + cut["test"],
        "validation": validation + cut["validation"],
        "held_out": cut["held_out"],
        "pool": [*train, *unscored],
    }


def _fresh(rows: list[Row], taken: set[str]) -> list[Example]:
    """The examples of rows whose input is not in `taken`, to which their inputs are added."""
    fresh = []
    for row in rows:
        key = normalized(row["input"])
        if key not in taken:
            taken.add(key)
            output, *references = row["outputs"] or [""]
            fresh.append(Example(row["input"], output, tuple(references)))
    return fresh


def _demonstration(row: Row) -> Demonstration:
    return Demonstration(row["input"], (row["outputs"] or [""])[0], row["explanation"])


def _places(folder: Path) -> list[Path]:
    """The file of each task that has a single file, the folder of each task that has several."""
    return sorted({path.parent if path.stem in SPLITS else path for path in folder.rglob("*.json")})


def _parse(path: Path) -> Row:
    whole = files.read_json(path)
    if (
        not isinstance(whole, dict)
        or not isinstance(whole.get("Instances"), list)
        or not _texts(whole.get("Definition"))
    ):
        raise UserError(f'{path}: wanted an object with a text "Definition" and a list of "Instances"')
    for field in EXAMPLES.values():
        if not isinstance(whole.get(field, []), list):
            raise UserError(f'{path}: "{field}" must be a list or left out, got {str(whole[field])[:80]}')
    return whole


def _row(whole: Row, record: Any, where: str) -> Row:
    """The row of an instance or an example; its texts are stripped as the benchmark does."""
    if not isinstance(record, dict) or not isinstance(record.get("input"), str) or not record["input"].strip():
        raise UserError(f'{where}: wanted an object with a text "input", got {str(record)[:80]}')
    output, explanation = record.get("output", []), record.get("explanation")
    if not all(isinstance(text, str) for text in (output if isinstance(output, list) else [output])):
        raise UserError(f'{where}: "output" must be a text or a list of texts, got {str(output)[:80]}')
    if not isinstance(explanation, str | None):
        raise UserError(f'{where}: "explanation" must be a text, got {str(explanation)[:80]}')
    return {
        "definition": _texts(whole["Definition"])[0],
        "input": record["input"].strip(),
        "outputs": _texts(output),
        "explanation": (explanation or "").strip(),
    }


def _texts(value: Any) -> list[str]:
    """The texts that are not blank, of a text or a list of texts."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]
