"""A relation between words -> a task: a capital's country, a word's opposite.

In: NAME.json in the data directory or below it, as relations of LRE (Hernandez et al., arXiv 2308.09124: templates,
subjects, objects) or as pairs of instruction induction (Honovich et al., arXiv 2205.10782: inputs, outputs). Out: Task.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdjax.config import UserError
from cdjax.tasks import files
from cdjax.tasks.split import merged, split
from cdjax.tasks.task import Example, Task, exact_match

# Under these names a pair lists other answers that count.
REFERENCES = ("possible_outputs", "possible_translations")


def load(name: str, data_dir: str) -> Task:
    """The task "relation:NAME"; raises UserError for a file that is missing or in another form."""
    path = find(data_dir, name.partition(":")[2])
    examples, definition = read(path)
    return Task(
        name=name,
        metric="accuracy",
        grade=exact_match,
        definition=definition,
        solve={example.input: example.output for example in examples}.get,
        **split(examples, str(path)),
    )


def find(data_dir: str, name: str) -> Path:
    """NAME.json or NAME.jsonl in the directory or below it; raises UserError unless there is exactly one."""
    there = sorted(path for path in Path(data_dir).rglob("*.json*") if path.suffix in files.JSON_LINES)
    found = [path for path in there if path.stem == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"there are {', '.join(map(str, found))}; choose between them with data_dir")
    names = ", ".join(sorted({path.stem for path in there})) or "no file of JSON"
    raise UserError(f"there is no {name}.json or {name}.jsonl in {data_dir!r} or below it, only {names}")


def read(path: Path) -> tuple[list[Example], str]:
    """Different inputs with all their right answers, and the definition that a relation's template gives, if any."""
    examples, definition = (files.read(path), "") if path.suffix != ".json" else _read_json(path)
    if bare := [example for example in examples if not example.input or not example.output]:
        raise UserError(f"{path}: {len(bare)} pairs lack an input or an output, as {bare[0].input!r}")
    return merged(examples), definition


def _read_json(path: Path) -> tuple[list[Example], str]:
    try:
        data = json.loads(path.read_text("utf-8"))
        if "samples" in data:
            pairs = [Example(row["subject"].strip(), row["object"].strip()) for row in data["samples"]]
            return pairs, _definition(data)
        return list(_pairs(data["examples"])), ""
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {str(path)!r}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path}: wanted prompt_templates and samples with subject and object, or examples with input and output; "
            f"{type(error).__name__}: {error}"
        ) from None


def _definition(relation: dict[str, Any]) -> str:
    kinds = relation.get("properties", {})
    subject, answer = kinds.get("domain_name", "subject"), kinds.get("range_name", "object")
    asked = relation["prompt_templates"][0].replace("{}", f"[{subject}]")
    return f'The input is the {subject}. Answer with the {answer} that completes "{asked}".'


def _pairs(examples: dict[str, dict[str, Any]]) -> Iterator[Example]:
    for row in examples.values():
        others = [other for key in REFERENCES for other in row.get(key, [])]
        yield Example(row["input"].strip(), row["output"].strip(), tuple(other.strip() for other in others))
