"""The command of the open questions: `--tiny` answers some of them, and claims are decided by their intervals."""

import dataclasses
import json

import pytest

from cdjax.config.check import validate
from experiments.paper import claims
from experiments.paper.questions import __main__ as questions
from experiments.paper.questions.config import Claim
from tests.test_paper import RUNS


def test_questions(tmp_path, monkeypatch):
    """Rounds are read in their order, a shared variant is run once, and the page has what the runs scored."""
    few = {
        "order": ("sequential", "simultaneous"),
        "targets": ("top_k", "hard"),
        "teacher": ("frozen", "live"),
    }
    for name, variants in few.items():
        question = questions.QUESTIONS[name]
        changed = {variant: dict(question.variants[variant]) for variant in variants}
        for changes in changed.values():
            if "plan" in changes:
                plan = changes["plan"]
                changes["plan"] = dataclasses.replace(plan, repeat=plan.repeat // 2)
        monkeypatch.setitem(questions.QUESTIONS, name, dataclasses.replace(question, variants=changed))
    answers = questions.main(["--tiny", "--seeds", "0", "--only", ",".join(few), "--workdir", str(tmp_path)])
    runs = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert runs == {"base", "targets_hard"} | {
        f"{name}_{variant}" for name in ("order", "teacher") for variant in few[name]
    }
    kl = {
        variant: [scored[0]["measures"]["held_out_kl"]["mean"] for scored in rounds]
        for variant, rounds in answers["teacher"].items()
    }
    assert kl["frozen"][0] == kl["live"][0] and kl["frozen"][1] != kl["live"][1]
    results = json.loads((tmp_path / "teacher_live" / "results.json").read_text())
    last = results["measures"]["held_out_kl"]["after"]["mean"]
    assert kl["live"][1] == last and f"{last:.3f}" in (tmp_path / "results.md").read_text()
    assert [len(rounds) for rounds in answers["order"].values()] == [2, 1]  # both tasks in one
    last = answers["order"]["simultaneous"][0][0]["measures"]["held_out_kl"]["mean"]
    assert (
        f"| simultaneous: KL to the teacher on held-out inputs |  | {last:.3f} |"
        in (tmp_path / "results.md").read_text()
    )
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 3


def test_every_question_can_be_asked_and_its_claim_compares_two_of_its_variants():
    for question in questions.QUESTIONS.values():
        assert {question.claim.one, question.claim.other} <= set(question.variants)
        for changes in question.variants.values():
            validate(questions.get_config(changes))


@pytest.mark.parametrize("measure, holds", [("accuracy", True), ("held_out_kl", False)])
def test_an_open_question_is_decided_by_its_interval(measure, holds):
    """Accuracy over seeds and examples, a divergence over seeds, of which two that disagree decide nothing."""
    first = [{"grades": [1.0, 1.0, 1.0, 0.0] * 3, "measures": {"held_out_kl": {"mean": kl}}} for kl in (0.3, 0.9)]
    other = [{"grades": [0.0] * 12, "measures": {"held_out_kl": {"mean": kl}}} for kl in (0.2, 0.1)]
    question = questions.Question("", {}, Claim("", measure, "one", "other"), found="this was found")
    made = claims.made_by("questions", (0, 1), RUNS)
    judged = questions.judged(question, {"one": [first], "other": [other]}, made)
    assert judged.holds == holds and judged.reason == "this was found"
