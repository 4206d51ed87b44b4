"""A relation between words -> a task: a city's country, a word's opposite.

In: NAME.json anywhere in a folder, as relations of LRE (Hernandez et al., arXiv 2308.09124: templates, subjects,
objects) or as pairs of instruction induction (Honovich et al., arXiv 2205.10782: inputs, outputs); NAME.jsonl with
"input" and "output". Out: Rows, Task.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdjax.errors import UserError
from cdjax.tasks import files
from cdjax.tasks.split import merged, split
from cdjax.tasks.task import Example, Rows, Task, exact_match, named

# Fields in which a pair lists other right answers.
REFERENCES = ("possible_outputs", "possible_translations")


def read(folder: Path, part: str) -> Rows:
    """The different inputs of the file with this name, each with all its right outputs.

    Raises UserError for a name that no file has, or several have, and for a file in another form.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in files.JSON_LINES)
    if not paths:
        raise UserError(f"{str(folder)!r} has no pairs: wanted NAME.json or NAME.jsonl, in it or in a folder of it")
    name = named(part, [path.stem for path in paths], str(folder))
    (path,) = (path for path in paths if path.stem == name)
    examples, definition = (files.read(path), "") if path.suffix.lower() != ".json" else _read_json(path)
    if bare := [example for example in examples if not example.input or not example.output]:
        raise UserError(f"{path}: {len(bare)} pairs lack an input or an output, as {bare[0].input!r}")
    return {
        "pairs": [
            {"definition": definition, "input": pair.input, "outputs": [pair.output, *pair.references]}
            for pair in merged(examples)
        ]
    }


def task(name: str, rows: Rows) -> Task:
    """The task "relation:NAME"; its definition is made of the relation's template, if the file has one."""
    check_name(name)
    known = examples(rows)
    return Task(
        name=name,
        metric="accuracy",
        grade=exact_match,
        definition=rows["pairs"][0]["definition"] if known else "",
        solve={example.input: example for example in known}.get,
        **split(known, f"task {name!r}"),
    )


def check_name(name: str) -> None:
    """Raises UserError for a name with a second colon, which only tasks with several metrics have."""
    if name.count(":") > 1:
        known = ":".join(name.split(":")[:2])
        raise UserError(f"task {name!r}: nothing can be asked for after a second colon; ask for {known}")


def examples(rows: Rows) -> list[Example]:
    """The rows as examples."""
    return [Example(row["input"], row["outputs"][0], tuple(row["outputs"][1:])) for row in rows["pairs"]]


def _read_json(path: Path) -> tuple[list[Example], str]:
    data = files.read_json(path)
    try:
        if "samples" in data:
            pairs = [Example(row["subject"].strip(), row["object"].strip()) for row in data["samples"]]
            return pairs, _definition(data)
        return list(_pairs(data["examples"])), ""
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path}: wanted prompt_templates and samples with subject and object, or examples with input and output; "
            f"{type(error).__name__}: {error}"
        ) from None


def _definition(relation: dict[str, Any]) -> str:
    kinds = relation.get("properties", {})
    subject, answer = kinds.get("domain_name", "subject"), kinds.get("range_name", "object")
    asked = _listed(relation["prompt_templates"])[0].replace("{}", f"[{subject}]")
    return f'The input is the {subject}. Answer with the {answer} that completes "{asked}".'


def _pairs(examples: dict[str, dict[str, Any]]) -> Iterator[Example]:
    for row in examples.values():
        others = [other for key in REFERENCES for other in _listed(row.get(key, []))]
        yield Example(
            row["input"].strip(), row["output"].strip(), tuple(other.strip() for other in others if other.strip())
        )


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"wanted a list of texts, got {str(value)[:80]!r}")
    return value
