"""A user's file of inputs -> examples, and a task made of them; also the reading of JSON for other tasks.

In: JSONL with "input" and perhaps "output", or text with an input on each line. Out: Example, Task.
"""

import json
from pathlib import Path
from typing import Any

from cdjax.errors import UserError
from cdjax.tasks.task import Example, Task, exact_match, normalized

HELD_OUT = 64  # inputs in test, validation and held-out inputs at most, each
JSON_LINES = (".jsonl", ".ndjson", ".json")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises UserError if it cannot be read."""
    try:
        return parse_json(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r} as JSON: {error}") from None


def parse_json(text: str) -> Any:
    """The value of JSON text. Raises ValueError if it is not JSON, or has an unpaired surrogate."""
    try:
        data = json.loads(text)
        if "\\ud" in text.casefold():
            json.dumps(data, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("lists and objects within each other are too many") from None
    return data


def read(path: str | Path) -> list[Example]:
    """The examples of a file, in order; blank lines are skipped."""
    return list(_numbered(path).values())


def load(path: str | Path, name: str = "") -> Task:
    """The task of a file's inputs: the last tenths are its test, validation (if labelled) and held-out inputs.

    Without outputs the metric is "agreement" with the teacher, whose answers `Exam.expected` fills in. Duplicate inputs
    count once. Raises UserError if their outputs differ.
    """
    distinct: dict[str, tuple[int, Example]] = {}
    for line, example in _numbered(path).items():
        before, first = distinct.setdefault(normalized(example.input), (line, example))
        if example.output and first.output and normalized(example.output) != normalized(first.output):
            raise UserError(
                f"{path}, lines {before} and {line}: the input {example.input!r} has the outputs {first.output!r} and "
                f"{example.output!r}; leave one of them out"
            )
    examples = [example for _, example in distinct.values()]
    labelled = all(example.output for example in examples)
    if not labelled and any(example.output for example in examples):
        bare = next(example.input for example in examples if not example.output)
        raise UserError(f"{path}: some inputs have an output and {bare!r} has none; give one to all or to none")
    parts = 3 if labelled else 2
    if len(examples) <= parts:
        raise UserError(
            f"{path} has {len(examples)} different inputs; at least {parts + 1} are needed to hold some out"
        )
    tenth = min(HELD_OUT, max(1, len(examples) // 10))
    pool, *rest = (examples[: -parts * tenth], *(examples[-i * tenth :][:tenth] for i in range(1, parts + 1)))
    return Task(
        name=name or Path(path).stem,
        metric="accuracy" if labelled else "agreement",
        grade=exact_match,
        pool=tuple(example.input for example in pool),
        held_out=tuple(example.input for example in rest[0]),
        test=tuple(rest[1]),
        validation=tuple(rest[2]) if labelled else (),
        solve={example.input: example for example in examples}.get if labelled else None,
    )


def _numbered(path: str | Path) -> dict[int, Example]:
    """The examples of a file by line number."""
    path = Path(path)
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read the inputs file {str(path)!r}: {reason}") from None
    parse = _example if path.suffix.lower() in JSON_LINES else lambda line, where: Example(line.strip())
    examples = {i: parse(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()}
    if not examples:
        raise UserError(f"the inputs file {str(path)!r} has no inputs; write one a line")
    return examples


def _example(line: str, where: str) -> Example:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}): {line[:80]}") from None
    if not isinstance(row, dict) or not isinstance(row.get("input"), str) or not row["input"].strip():
        raise UserError(f'{where}: wanted an object with a text "input", got {line[:80]}')
    if "output" in row and not (isinstance(row["output"], str) and row["output"].strip()):
        raise UserError(f'{where}: "output" must be text, or left out where there is none, got {line[:80]}')
    return Example(row["input"], row.get("output", ""))
