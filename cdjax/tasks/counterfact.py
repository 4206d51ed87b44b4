"""One edited fact -> a task: its prompts ask for the new object, those about anything else for what they asked before.

In: a case of CounterFact and all the facts beside it (facts.py). Out: Rows, Task (arXiv 2209.15189, A.2).

The case's own prompts are only tested. What is shown and what is distilled on is written by rule: how other facts of
the relation are asked about, put to the edited subject, and prompts about the subjects of other facts.
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

WRITTEN = 1024  # inputs about the subject at most, and as many about others; the paper has 2048 for a fact
VALIDATION, HELD_OUT = 32, 64  # of both together, and never more than an eighth
SHOWN = 3  # demonstrations of a fact, where the file has what they are written of


def read(folder: Path, part: str = "") -> Rows:
    """Every fact of the folder's files, whichever is asked for: each task is written of all of them."""
    return {"facts": [dataclasses.asdict(fact) for fact in facts.read(folder)]}


def task(name: str, rows: Rows) -> Task:
    """The task "counterfact:CASE"; "counterfact:CASE:paraphrase" tests one part alone, all else is the same.

    Its metric, "preference", is 1 for an example if P(output) > P(rejected); without probabilities an answer counts
    that begins with the output. Raises UserError for a case or a part that is not there.
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
    written = [one for pair in pairs for one in pair]
    validation, held_out = (min(size, len(written) // 8) for size in (VALIDATION, HELD_OUT))
    return Task(
        name=name,
        metric="preference",
        grade=begins,
        definition=f'"{fact.prompt} {fact.old}" -> "{fact.prompt} {fact.new}"',
        demonstrations=tuple(shown),
        test=tuple(tested[part] if part else in_turn(tested.values())),
        validation=tuple(written[:validation]),
        held_out=tuple(one.input for one in (*generations, *written[validation:][:held_out])),
        pool=tuple(one.input for one in written[validation + held_out :]),
    )


def parts(rows: Rows, case: int) -> dict[str, list[Example]]:
    """What is tested of a case, by part; a part that the file does not have is left out."""
    return _tested(next(fact for fact in _facts(rows) if fact.case == case))


def cases(rows: Rows, count: int, seed: int = 0) -> list[int]:
    """So many random cases with all demonstrations, each of another relation as long as there is another one.

    The flat form knows no relations; there it is the wording that differs. Raises UserError for more than there are.
    """
    known = _facts(rows)
    rng = random.Random(f"cases {seed}")
    relations: dict[str, list[Fact]] = {}
    for fact in rng.sample(known, len(known)):
        relations.setdefault(fact.relation, []).append(fact)
    complete = (
        fact.case for fact in in_turn(relations.values()) if len(_demonstrations(fact, _others(fact, known))) == SHOWN
    )
    found = list(itertools.islice(complete, count))
    if len(found) < count:
        raise UserError(f"there are {len(found)} facts that can be shown with {SHOWN} demonstrations, not {count}")
    return found


def begins(example: Example, answer: str) -> float:
    """1.0 if the answer begins with the output as whole words, letter case and space aside."""
    return float(bool(re.match(re.escape(normalized(example.output)) + r"(?!\w)", normalized(answer))))


def _facts(rows: Rows) -> list[Fact]:
    return [Fact(**{name: _hashable(value) for name, value in row.items()}) for row in rows["facts"]]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tested(fact: Fact) -> dict[str, list[Example]]:
    every = {
        "paraphrase": [Example(text, fact.new, rejected=fact.old) for text in fact.paraphrases],
        "neighbourhood": [Example(text, fact.old, rejected=fact.new) for text in fact.neighbours],
        "attribute": [Example(text, fact.new, rejected=fact.old) for text in fact.attributes],
    }
    return {part: examples for part, examples in every.items() if examples}


def _others(fact: Fact, known: list[Fact]) -> list[Fact]:
    """Facts whose subjects the case does not name, in random order; those of its relation first, then like objects."""
    named = "\n".join((fact.prompt, *fact.paraphrases, *fact.neighbours, *fact.attributes))
    apart = [other for other in known if other.subject not in named]
    random.Random(f"counterfact {fact.case}").shuffle(apart)
    objects = {fact.old, fact.new}
    return sorted(
        apart, key=lambda other: (other.relation != fact.relation, objects.isdisjoint((other.old, other.new)))
    )


def _demonstrations(fact: Fact, others: list[Fact]) -> list[Demonstration]:
    """What the edit does not touch, since it was so before or is about another subject, and what it is about."""
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
    """How facts of the relation are asked about, the fact's own way last; none that ends one of its paraphrases."""
    kin = [other for other in others if other.relation == fact.relation]
    ways = [way for other in kin for way in (other.wording, *(_cut(text, other)[1] for text in other.paraphrases))]
    asked = [way for way in dict.fromkeys(ways) if way != fact.wording] + [fact.wording]
    tested = [normalized(text) for text in fact.paraphrases]
    return [
        way
        for way in asked
        if "{}" in way and not any(text.endswith(normalized(way.replace("{}", fact.subject))) for text in tested)
    ]


def _cut(text: str, other: Fact) -> tuple[str, str]:
    """What comes before the sentence that names the subject, and the rest with {} in the subject's place."""
    before, subject, after = text.partition(other.subject)
    opening, stop, begun = before.rpartition(". ")
    return " ".join((opening + stop).split()), (begun + subject + after).replace(other.subject, "{}")


def _about(fact: Fact, others: list[Fact]) -> list[Example]:
    """The relation's ways to ask put to the subject, bare and then after sentences that open other prompts."""
    asked = [way.replace("{}", fact.subject) for way in _wordings(fact, others)]
    openings = sorted({_cut(text, other)[0] for other in others for text in other.paraphrases} - {""})
    rng = random.Random(f"about {fact.case}")
    more = rng.sample(range(len(asked) * len(openings)), min(WRITTEN, len(asked) * len(openings)))
    texts = [*asked, *(f"{openings[i // len(asked)]} {asked[i % len(asked)]}" for i in more)][:WRITTEN]
    return [Example(text, fact.new, rejected=fact.old) for text in rng.sample(texts, len(texts))]


def _elsewhere(fact: Fact, others: list[Fact]) -> list[Example]:
    """Prompts of other facts, half of them or less of the same relation."""
    rng = random.Random(f"elsewhere {fact.case}")
    kin = sum(other.relation == fact.relation for other in others)
    near = rng.sample(others[:kin], min(kin, WRITTEN // 2))
    far = rng.sample(others[kin:], min(len(others) - kin, WRITTEN - len(near)))
    return [
        Example(
            rng.choice((other.prompt, *other.paraphrases)),
            other.old,
            rejected=fact.old if other.old == fact.new else fact.new,
        )
        for other in rng.sample(near + far, len(near + far))
    ]


def _fresh(examples: list[Example], seen: set[str]) -> list[Example]:
    """Those whose inputs are not among the seen ones, to which they are added."""
    fresh = []
    for example in examples:
        if normalized(example.input) not in seen:
            seen.add(normalized(example.input))
            fresh.append(example)
    return fresh
