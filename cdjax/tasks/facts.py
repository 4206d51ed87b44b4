"""CounterFact's records (Meng et al., arXiv 2202.05262) -> facts that are to be edited.

In: counterfact*.json in a folder, as ROME has them (lists of prompts, a relation) or flat as EasyEdit has them (one
prompt of a kind). Out: Fact (counterfact.py).
"""

import dataclasses
from pathlib import Path
from typing import Any

from cdjax.errors import UserError
from cdjax.tasks import files

FILES = "counterfact*.json"


@dataclasses.dataclass(frozen=True)
class Fact:
    """An edit of a fact: the answer to `wording` about `subject` was `old` and is to be `new`."""

    case: int
    relation: str  # its id, as "P103"; the wording where the file has none
    subject: str
    wording: str  # with {} where the subject goes
    old: str
    new: str
    paraphrases: tuple[str, ...]
    neighbours: tuple[str, ...]  # prompts about other subjects, of which `old` is true
    attributes: tuple[str, ...] = ()  # prompts about other subjects, of which `new` is true
    generations: tuple[str, ...] = ()  # beginnings of any text about the subject

    @property
    def prompt(self) -> str:
        return self.wording.replace("{}", self.subject)


def read(folder: Path) -> list[Fact]:
    """The facts of the folder's files in the order of their cases; ROME's form is preferred for a case in both forms.

    Raises UserError for a folder without such files, for a malformed record, and for two facts of the same case.
    """
    paths = sorted(folder.glob(FILES))
    if not paths:
        raise UserError(f"there is no {FILES} in {str(folder)!r}")
    by_form: dict[bool, dict[int, Fact]] = {False: {}, True: {}}  # flat, ROME's
    for path in paths:
        for i, row in enumerate(_rows(path)):
            fact, known = _fact(row, f"{path}, record {i}"), by_form[_is_rome(row)]
            if known.setdefault(fact.case, fact) != fact:
                raise UserError(f"{path}, record {i}: case {fact.case} is there twice, about different facts")
    facts = by_form[False] | by_form[True]
    return [facts[case] for case in sorted(facts)]


def _rows(path: Path) -> list[Any]:
    rows = files.read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: wanted a list of records, got {str(rows)[:80]}")
    return rows


def _fact(row: Any, where: str) -> Fact:
    try:
        return _rome(row) if _is_rome(row) else _flat(row)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}: not a record of CounterFact, neither ROME's nor EasyEdit's ({error!r}): {str(row)[:80]}"
        ) from None


def _is_rome(row: Any) -> bool:
    return isinstance(row, dict) and "requested_rewrite" in row


def _rome(row: dict[str, Any]) -> Fact:
    edit = row["requested_rewrite"]
    if "{}" not in _text(edit["prompt"]):
        raise ValueError("there is no {} in the prompt")
    return Fact(
        case=int(str(row["case_id"])),
        relation=_text(edit["relation_id"]),
        subject=_text(edit["subject"]),
        wording=edit["prompt"],
        old=_text(edit["target_true"]["str"]).strip(),
        new=_text(edit["target_new"]["str"]).strip(),
        paraphrases=_texts(row["paraphrase_prompts"]),
        neighbours=_texts(row["neighborhood_prompts"]),
        attributes=_texts(row.get("attribute_prompts", [])),
        generations=_texts(row.get("generation_prompts", [])),
    )


def _flat(row: dict[str, Any]) -> Fact:
    subject, old = _text(row["subject"]), _text(row["ground_truth"]).strip()
    wording = _text(row["prompt"]).replace(subject, "{}")
    if wording == row["prompt"]:
        raise ValueError("the subject is not in the prompt")
    if row["locality_ground_truth"].strip() != old:
        raise ValueError("locality_ground_truth differs from ground_truth")
    return Fact(
        case=int(str(row["case_id"])),
        relation=wording,
        subject=subject,
        wording=wording,
        old=old,
        new=_text(row["target_new"]).strip(),
        paraphrases=(_text(row["rephrase_prompt"]),),
        neighbours=(_text(row["locality_prompt"]),),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"wanted a text, got {str(value)[:80]!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"wanted a list of texts, got {str(value)[:80]!r}")
    return tuple(map(_text, value))
