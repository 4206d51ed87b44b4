"""An edited fact -> a task: prompts about its subject ask for the new object, all others for their old one.

In: a case of CounterFact and all the facts beside it (facts.py). Out: Rows, Task (arXiv 2209.15189, A.2).

The case's prompts are only tested. Demonstrations and inputs are written by rule: the wordings of other facts of the
relation, about the edited subject, and prompts about the subjects of other facts.
"""

import dataclasses
import itertools
import random
import re
from pathlib import Path
from typing import Any

from cdjax.errors import UserError
from cdjax.tasks import facts
from cdjax.tasks.facts import Fact
from cdjax.tasks.split import in_turn
from cdjax.tasks.task import Demonstration, Example, Rows, Task, normalized

WRITTEN = 1024  # inputs about the subject at most, and as many about other subjects; the paper has 2048 for a fact
VALIDATION, HELD_OUT = 32, 64  # of both together, and never more than an eighth
SHOWN = 3  # demonstrations of a fact, if the file has facts to write all three from


def read(folder: Path, part: str = "") -> Rows:
    """All facts of the folder's files, whatever `part` is: each task is written from all of them."""
    return {"facts": [dataclasses.asdict(fact) for fact in facts.read(folder)]}


def task(name: str, rows: Rows) -> Task:
    """The task "counterfact:CASE"; "counterfact:CASE:paraphrase" differs only in testing that part alone.

    Its metric, "preference", is 1 for an example if P(output) > P(rejected); without probabilities an answer is right
    if it begins with the output. Raises UserError for a case or a part that does not exist.
    """
    case, _, part = name.partition(":")[2].partition(":")
    known = _facts(rows)
    fact = next((fact for fact in known if str(fact.case) == case), None)
    if fact is None:
        cases = f"{len(known)} cases between {known[0].case} and {known[-1].case}" if known else "no cases"
        raise UserError(f"task {name!r}: there is no case {case!r} among {cases}")
    tested = _tested(fact)
    if part and part not in tested:
        raise UserError(f"task {name!r}: case {case} has no part {part!r}, only {', '.join(tested)}")
    others = _others(fact, known)
    shown = _demonstrations(fact, others)
    seen = {normalized(example.input) for examples in tested.values() for example in examples}
    seen |= {normalized(demonstration.input) for demonstration in shown}
    generations = _fresh([Example(text) for text in fact.generations], seen)
    pairs = zip(_fresh(_about(fact, others), seen), _fresh(_elsewhere(fact, others), seen), strict=False)
    written = [example for pair in pairs for example in pair]
    validation, held_out = (min(size, len(written) // 8) for size in (VALIDATION, HELD_OUT))
    return Task(
        name=name,
        metric="preference",
        grade=begins,
        definition=f'"{fact.prompt} {fact.old}" -> "{fact.prompt} {fact.new}"',
        demonstrations=tuple(shown),
        test=tuple(tested[part] if part else in_turn(tested.values())),
        validation=tuple(written[:validation]),
        held_out=tuple(example.input for example in (*generations, *written[validation:][:held_out])),
        pool=tuple(example.input for example in written[validation + held_out :]),
    )


def parts(rows: Rows, case: int) -> dict[str, list[Example]]:
    """The test examples of a case by part; a part that the file does not have is left out."""
    return _tested(next(fact for fact in _facts(rows) if fact.case == case))


def cases(rows: Rows, count: int, seed: int = 0) -> list[int]:
    """`count` random cases with all demonstrations, of different relations as long as there are enough.

    The flat form has no relations; there the wordings differ. Raises UserError if there are fewer cases.
    """
    known = _facts(rows)
    rng = random.Random(f"cases {seed}")
    relations: dict[str, list[Fact]] = {}
    for fact in rng.sample(known, len(known)):
        relations.setdefault(fact.relation, []).append(fact)
    complete = (
        fact.case for fact in in_turn(relations.values()) if len(_demonstrations(fact, _others(fact, known))) == SHOWN
    )
    chosen = list(itertools.islice(complete, count))
    if len(chosen) < count:
        raise UserError(f"there are {len(chosen)} facts that can be shown with {SHOWN} demonstrations, not {count}")
    return chosen


def begins(example: Example, answer: str) -> float:
    """1.0 if the answer begins with the output as whole words, letter case and space aside."""
    return float(bool(re.match(re.escape(normalized(example.output)) + r"(?!\w)", normalized(answer))))


def _facts(rows: Rows) -> list[Fact]:
    return [Fact(**{name: _hashable(value) for name, value in row.items()}) for row in rows["facts"]]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tested(fact: Fact) -> dict[str, list[Example]]:
    tested = {
        "paraphrase": [Example(text, fact.new, rejected=fact.old) for text in fact.paraphrases],
        "neighbourhood": [Example(text, fact.old, rejected=fact.new) for text in fact.neighbours],
        "attribute": [Example(text, fact.new, rejected=fact.old) for text in fact.attributes],
    }
    return {part: examples for part, examples in tested.items() if examples}


def _others(fact: Fact, known: list[Fact]) -> list[Fact]:
    """Facts whose subjects the case does not name: first those of its relation, then those with one of its objects.

    Facts that rank alike are in random order.
    """
    named = "\n".join((fact.prompt, *fact.paraphrases, *fact.neighbours, *fact.attributes))
    apart = [other for other in known if other.subject not in named]
    random.Random(f"counterfact {fact.case}").shuffle(apart)
    objects = {fact.old, fact.new}
    return sorted(
        apart, key=lambda other: (other.relation != fact.relation, objects.isdisjoint((other.old, other.new)))
    )


def _demonstrations(fact: Fact, others: list[Fact]) -> list[Demonstration]:
    """Demonstrations of a fact that was so before, of a fact about another subject, and of the edited fact."""
    shown = []
    if before := next((other for other in others if other.old == fact.new), None):
        why = f'The edit is about {fact.subject}. "{fact.new}" was true of {before.subject} before and stays.'
        shown.append(Demonstration(before.prompt, fact.new, why))
    if alike := next((other for other in others if other.old == fact.old), None):
        why = f'The edit is about {fact.subject} and not about {alike.subject}, so "{fact.old}" stays.'
        shown.append(Demonstration(alike.prompt, fact.old, why))
    if asked := _wordings(fact, others):
        why = f'This is about {fact.subject}, so the edit applies: "{fact.new}", and no longer "{fact.old}".'
        shown.append(Demonstration(asked[0].replace("{}", fact.subject), fact.new, why))
    return shown


def _wordings(fact: Fact, others: list[Fact]) -> list[str]:
    """The wordings of the relation's facts, the fact's own last, without those that end one of its paraphrases.

    A paraphrase is tested, so no input may ask in its words.
    """
    related = [other for other in others if other.relation == fact.relation]
    wordings = [
        wording
        for other in related
        for wording in (other.wording, *(_cut(text, other)[1] for text in other.paraphrases))
    ]
    ordered = [wording for wording in dict.fromkeys(wordings) if wording != fact.wording] + [fact.wording]
    tested = [normalized(text) for text in fact.paraphrases]
    return [
        wording
        for wording in ordered
        if "{}" in wording
        and not any(text.endswith(normalized(wording.replace("{}", fact.subject))) for text in tested)
    ]


def _cut(text: str, other: Fact) -> tuple[str, str]:
    """The text before the sentence that names the subject, and the rest with {} in the subject's place."""
    before, subject, after = text.partition(other.subject)
    opening, stop, begun = before.rpartition(". ")
    return " ".join((opening + stop).split()), (begun + subject + after).replace(other.subject, "{}")


def _about(fact: Fact, others: list[Fact]) -> list[Example]:
    """Prompts about the subject in the relation's wordings, alone and then after sentences that open other prompts."""
    asked = [wording.replace("{}", fact.subject) for wording in _wordings(fact, others)]
    openings = sorted({_cut(text, other)[0] for other in others for text in other.paraphrases} - {""})
    rng = random.Random(f"about {fact.case}")
    more = rng.sample(range(len(asked) * len(openings)), min(WRITTEN, len(asked) * len(openings)))
    texts = [*asked, *(f"{openings[i // len(asked)]} {asked[i % len(asked)]}" for i in more)][:WRITTEN]
    return [Example(text, fact.new, rejected=fact.old) for text in rng.sample(texts, len(texts))]


def _elsewhere(fact: Fact, others: list[Fact]) -> list[Example]:
    """Prompts of other facts, at most half of them of the same relation."""
    rng = random.Random(f"elsewhere {fact.case}")
    related = sum(other.relation == fact.relation for other in others)
    near = rng.sample(others[:related], min(related, WRITTEN // 2))
    far = rng.sample(others[related:], min(len(others) - related, WRITTEN - len(near)))
    return [
        Example(
            rng.choice((other.prompt, *other.paraphrases)),
            other.old,
            rejected=fact.old if other.old == fact.new else fact.new,
        )
        for other in rng.sample(near + far, len(near + far))
    ]


def _fresh(examples: list[Example], seen: set[str]) -> list[Example]:
    """The examples whose inputs are not in `seen`, to which the inputs are added."""
    fresh = []
    for example in examples:
        if normalized(example.input) not in seen:
            seen.add(normalized(example.input))
            fresh.append(example)
    return fresh
