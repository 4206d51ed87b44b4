import dataclasses
import json
from pathlib import Path

import pytest

from cdjax import config, tasks
from cdjax.tasks import Example, counterfact, facts

CITIES = ["Aberby", "Belmont", "Carrow", "Dunmore"]
JOBS = ["baker", "weaver", "miller"]


def edit(case, relation, wording, old, new, said, neighbour):
    """A record in ROME's form about the person of one number, with the person of another as a neighbour."""
    subject = f"Person<{case}>"
    return {
        "case_id": case,
        "requested_rewrite": {
            "prompt": wording,
            "relation_id": relation,
            "subject": subject,
            "target_true": {"str": old},
            "target_new": {"str": new},
        },
        "paraphrase_prompts": [f"It rained on day {case}. " + said.replace("{}", subject), f"{subject}'s choice is"],
        "neighborhood_prompts": [f"Person<{neighbour}> chose"],
    }


def records():
    """Twelve people's homes and twelve people's work, each asked in one of two ways."""
    rows = []
    for i in range(12):
        wording = ["{} lives in", "The home of {} is"][i % 2]
        rows.append(edit(i, "P1", wording, CITIES[i % 4], CITIES[(i + 1) % 4], "{} sleeps in", (i + 4) % 12))
    for i in range(12):
        wording = ["{} works as a", "The work of {} is"][i % 2]
        rows.append(edit(12 + i, "P2", wording, JOBS[i % 3], JOBS[(i + 1) % 3], "{} is paid as a", 12 + (i + 3) % 12))
    return rows


def flat(record):
    asked = record["requested_rewrite"]
    return {
        "case_id": record["case_id"],
        "prompt": asked["prompt"].replace("{}", asked["subject"]),
        "subject": asked["subject"],
        "target_new": asked["target_new"]["str"],
        "ground_truth": asked["target_true"]["str"],
        "rephrase_prompt": record["paraphrase_prompts"][0],
        "locality_prompt": record["neighborhood_prompts"][0],
        "locality_ground_truth": asked["target_true"]["str"],
    }


def rewritten(**fields):
    record = records()[4]
    return record | {"requested_rewrite": record["requested_rewrite"] | fields}


def write(folder, rows, name="counterfact.json"):
    (folder / name).write_text(json.dumps(rows))
    return str(folder)


@pytest.fixture(params=["rome", "flat"])
def folder(tmp_path, request):
    return write(tmp_path, [flat(row) if request.param == "flat" else row for row in records()])


def test_an_edit_is_told_and_tested(folder):
    task = tasks.load("counterfact:4", data_dir=folder)
    assert task.metric == "preference"
    assert task.definition == '"Person<4> lives in Aberby" -> "Person<4> lives in Belmont"'
    paraphrases = tasks.load("counterfact:4:paraphrase", data_dir=folder)
    neighbours = tasks.load("counterfact:4:neighbourhood", data_dir=folder)
    assert paraphrases.test[0] == Example("It rained on day 4. Person<4> sleeps in", "Belmont", rejected="Aberby")
    assert neighbours.test == (Example("Person<8> chose", "Aberby", rejected="Belmont"),)
    assert sorted(task.test, key=str) == sorted(paraphrases.test + neighbours.test, key=str)
    parts = counterfact.parts(counterfact.read(Path(folder)), 4)
    assert parts == {"paraphrase": list(paraphrases.test), "neighbourhood": list(neighbours.test)}
    for part in (paraphrases, neighbours):
        same = {"name": task.name, "test": task.test}
        assert repr(dataclasses.replace(part, **same)) == repr(task), "only the test differs"


def test_a_byte_order_mark_is_no_text(folder):
    (path,) = Path(folder).iterdir()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(facts.read(Path(folder))) == 24


def test_parts_are_disjoint_and_what_is_tested_is_nowhere_else(folder):
    for case in range(24):
        task = tasks.load(f"counterfact:{case}", data_dir=folder)
        tested = [e.input for e in task.test]
        written = [
            *(d.input for d in task.demonstrations),
            *(e.input for e in task.validation),
            *task.held_out,
            *task.pool,
        ]
        assert len({*tested, *written}) == len(tested) + len(written)
        assert task.pool and task.held_out and task.validation
        for text in tested:
            bare = text.split(". ")[-1]
            assert not [other for other in written if other.endswith(bare)], "not even without the sentence before it"
        neighbour = task.test[1].input.removesuffix("chose")
        assert neighbour.startswith("Person<") and not [text for text in written if neighbour.strip() in text]
        assert repr(task) == repr(tasks.load(f"counterfact:{case}", data_dir=folder))


def test_demonstrations_say_why_the_edit_applies_or_not(tmp_path):
    task = tasks.load("counterfact:4", data_dir=write(tmp_path, records()))
    before, alike, asked = task.demonstrations
    assert (before.output, alike.output, asked.output) == ("Belmont", "Aberby", "Belmont")
    for shown, truth in ((before, "Belmont"), (alike, "Aberby")):
        other = next(fact for fact in facts.read(tmp_path) if fact.prompt == shown.input)
        assert other.case != 4 and other.old == truth and other.subject in shown.explanation
    assert asked.input == "The home of Person<4> is" and "the edit applies" in asked.explanation
    assert "stays" in before.explanation and "stays" in alike.explanation


def test_half_of_what_is_distilled_on_is_about_the_subject(folder):
    task = tasks.load("counterfact:4", data_dir=folder)
    about = [text for text in task.pool if "Person<4>" in text]
    assert abs(2 * len(about) - len(task.pool)) <= 1
    assert any(text.startswith("It rained on day") for text in about), "sentences before it come from other facts"


def test_elsewhere_the_new_object_must_not_spread(folder):
    """Where it was true before, it is the old one that must not come back."""
    seen = set()
    for case in range(12):
        old, new, person = CITIES[case % 4], CITIES[(case + 1) % 4], f"Person<{case}>"
        for example in tasks.load(f"counterfact:{case}", data_dir=folder).validation:
            seen.add(kind := (person in example.input, example.output == new))
            assert example.output == new or not kind[0]
            assert example.rejected == (old if example.output == new else new)
    assert seen == {(True, True), (False, True), (False, False)}


def test_both_forms_tell_the_same_facts_and_romes_counts(tmp_path):
    old = facts.read(Path(write(tmp_path, [flat(row) for row in records()], "counterfact-train.json")))
    both = facts.read(Path(write(tmp_path, records()[:3])))
    assert [fact.prompt for fact in both] == [fact.prompt for fact in old]
    assert [len(fact.paraphrases) for fact in both[:4]] == [2, 2, 2, 1]
    assert (both[0].relation, both[3].relation) == ("P1", "The home of {} is")
    assert (both[5].old, both[5].new) == (old[5].old, old[5].new) == ("Belmont", "Carrow")


def test_prompts_that_only_rome_has(tmp_path):
    rows = records()
    rows[4] |= {
        "attribute_prompts": ["Cousin<4> chose"],
        "generation_prompts": ["Person<4> woke up", "Person<4> woke up"],
    }
    task = tasks.load("counterfact:4:attribute", data_dir=write(tmp_path, rows))
    assert task.test == (Example("Cousin<4> chose", "Belmont", rejected="Aberby"),)
    assert task.held_out.count("Person<4> woke up") == 1


def test_random_cases_are_of_different_relations(folder):
    known = {fact.case: fact.relation for fact in facts.read(Path(folder))}
    relations = len(set(known.values()))
    chosen = counterfact.cases(counterfact.read(Path(folder)), relations)
    assert {known[case] for case in chosen} == set(known.values())
    assert chosen == counterfact.cases(counterfact.read(Path(folder)), relations)
    assert len({tuple(counterfact.cases(counterfact.read(Path(folder)), relations, seed)) for seed in range(8)}) > 4


def test_a_case_without_all_demonstrations_is_not_chosen(tmp_path):
    rows = records()
    rows[4]["requested_rewrite"]["target_new"]["str"] = "Nowhere"
    folder = write(tmp_path, rows)
    assert len(tasks.load("counterfact:4", data_dir=folder).demonstrations) == 2
    assert sorted(counterfact.cases(counterfact.read(Path(folder)), 23)) == [case for case in range(24) if case != 4]
    with pytest.raises(config.UserError, match="there are 23 facts that can be shown with 3 demonstrations, not 24"):
        counterfact.cases(counterfact.read(Path(folder)), 24)


@pytest.mark.parametrize(
    ("answer", "grade"), [("new  york", 1), ("New York City.", 1), ("New Yorker", 0), ("in New York", 0), ("", 0)]
)
def test_an_answer_begins_with_the_object(answer, grade):
    assert counterfact.begins(Example("x", "New York"), answer) == grade


@pytest.mark.parametrize(
    ("name", "rows", "told"),
    [
        ("counterfact:99", records(), "no case '99' among 24 cases between 0 and 23"),
        ("counterfact:x", [], "no case 'x' among no cases"),
        ("counterfact:4:attribute", records(), "no part 'attribute', only paraphrase, neighbourhood"),
        ("counterfact:4", [{"case_id": 4}], "record 0: not a record of CounterFact.*KeyError"),
        ("counterfact:4", [3], "record 0: not a record"),
        ("counterfact:4", [*records(), records()[4] | {"case_id": 5}], "record 24: case 5 is there twice"),
        ("counterfact:4", {}, "wanted a list of records"),
        ("counterfact:4", [flat(records()[4]) | {"subject": "Nobody"}], "the subject is not in the prompt"),
        ("counterfact:4", [flat(records()[4]) | {"locality_ground_truth": "x"}], "locality_ground_truth differs"),
        ("counterfact:4", [flat(records()[4]) | {"rephrase_prompt": None}], "wanted a text, got 'None'"),
        ("counterfact:4", [flat(records()[4]) | {"locality_prompt": " "}], "wanted a text, got ' '"),
        ("counterfact:4", [flat(records()[4]) | {"subject": ""}], "wanted a text, got ''"),
        ("counterfact:4", [flat(records()[4]) | {"case_id": 1.5}], "invalid literal"),
        ("counterfact:4", [records()[4] | {"paraphrase_prompts": "where"}], "wanted a list of texts, got 'where'"),
        ("counterfact:4", [records()[4] | {"paraphrase_prompts": [None]}], "wanted a text, got 'None'"),
        ("counterfact:4", [records()[4] | {"attribute_prompts": ["", "a"]}], "wanted a text, got ''"),
        ("counterfact:4", [rewritten(prompt="no place")], "there is no {} in the prompt"),
        ("counterfact:4", [rewritten(prompt=3)], "wanted a text, got '3'"),
        ("counterfact:4", [rewritten(relation_id=None)], "wanted a text, got 'None'"),
    ],
)
def test_what_is_no_fact_is_told(tmp_path, name, rows, told):
    with pytest.raises(config.UserError, match=told):
        tasks.load(name, data_dir=write(tmp_path, rows))


def test_a_directory_without_facts_is_told(tmp_path):
    with pytest.raises(config.UserError, match=r"there is no counterfact\*.json in"):
        tasks.load("counterfact:4", data_dir=str(tmp_path))


@pytest.mark.parametrize(("text", "told"), [("[" * 100_000, "too many"), ('["\\udfff"]', "surrogates not allowed")])
def test_json_that_is_no_text_is_told(tmp_path, text, told):
    (tmp_path / "counterfact.json").write_text(text)
    with pytest.raises(config.UserError, match=f"cannot read .*counterfact.json' as JSON: .*{told}"):
        tasks.load("counterfact:4", data_dir=str(tmp_path))
