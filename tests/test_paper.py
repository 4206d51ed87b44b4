"""Each experiment of the paper runs by its command, on a random model, and its page has the numbers of its runs."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cdjax import config, tasks
from cdjax.config.check import validate
from cdjax.distill import opening
from cdjax.errors import UserError
from cdjax.report import page
from cdjax.views import encode
from cdjax.workdir.journal import Journal
from experiments.paper import claims
from experiments.paper.association import __main__ as association
from experiments.paper.demonstrations import __main__ as demonstrations
from experiments.paper.explanations import __main__ as explanations
from experiments.paper.facts import __main__ as facts
from experiments.paper.generation import __main__ as generation
from experiments.paper.instructions import __main__ as instructions
from experiments.paper.instructions.measured import Measured
from experiments.paper.questions import __main__ as questions
from experiments.paper.scratchpad import __main__ as scratchpad
from experiments.paper.window import __main__ as window
from tests import test_spider

RUNS = [  # of what `results.json` says
    {"commit": "one, two", "seconds": {"sample": 30.0, "update": 60.0}},
    {"commit": "two, three", "seconds": {"update": 90.0}},
]


def test_an_interval_has_the_spread_of_seeds_and_that_of_examples():
    examples, seeds = np.linspace(0, 1, 50), np.linspace(0.2, 0.8, 12)[:, None]
    of_examples, of_seeds = np.tile(examples, (12, 1)), np.tile(seeds, (1, 50))
    widths = []
    for ours in (of_examples, of_seeds, of_examples + of_seeds):
        mean, (low, high) = claims.difference(ours, [[0.25] * 50])
        assert mean == pytest.approx(ours.mean() - 0.25) and low < mean < high
        widths.append(high - low)
    one_seed = claims.difference(of_examples[:1], [[0.25] * 50])[1]
    assert widths[0] == pytest.approx(one_seed[1] - one_seed[0], rel=0.05)
    assert widths[0] == pytest.approx(2 * 1.96 * examples.std() / np.sqrt(50), rel=0.05)
    assert widths[1] == pytest.approx(2 * 2.201 * seeds.std(ddof=1) / np.sqrt(12), rel=0.01)  # Student's t, of 11
    drawn = np.hypot(examples.std() / np.sqrt(50), seeds.std() / np.sqrt(12))
    assert widths[2] == pytest.approx(2 * 1.96 * drawn, rel=0.05)


def test_a_share_of_all_has_an_interval_all_the_same():
    mean, (low, high) = claims.share([[1.0] * 20] * 2)
    assert mean == 1 and 0.8 < low < 0.9 and high == 1


def test_a_command_measured_again_leaves_none_of_its_old_claims(tmp_path):
    def claim(text, command):
        made = claims.made_by("facts", (0, 1), RUNS, command)
        return claims.compared(text, "none", [[0.75] * 4], [[0.25] * 4], made, least=40, reason="small")

    claims.record([claim("old", "--data-dir DIR"), claim("older", "--data-dir DIR")], tmp_path / "new")
    claims.record([claim("other", "--digits 8")], tmp_path / "new")
    claims.record([claim("new", "--data-dir DIR")], tmp_path / "new")
    rows = json.loads((tmp_path / "new" / "claims.json").read_text())
    assert [row["claim"] for row in rows] == ["new", "other"]
    assert rows[0]["ci95"] == [50, 50] and rows[0]["holds"] and rows[0]["commit"] == "one, two, three"
    assert "- facts: small" in (tmp_path / "new" / "README.md").read_text()
    readme = claims.page([rows[0], rows[1] | {"reason": "few"}])
    assert "- facts: " not in readme and "- new: small" in readme and "- other: few" in readme


def test_the_table_is_of_the_claims():
    rows = json.loads((claims.HERE / "claims.json").read_text(encoding="utf-8"))
    assert (claims.HERE / "README.md").read_text(encoding="utf-8") == claims.page(rows)


def test_a_page_lies_beside_its_claims(tmp_path, monkeypatch):
    """A trial on a random model goes elsewhere, where the command itself does not find it, and says what it is."""
    monkeypatch.chdir(tmp_path)
    whole, tiny = (
        claims.arguments("facts", "?", ["--data-dir", "x", "--claims", "c", *more]) for more in ([], ["--tiny"])
    )
    assert whole.out == Path("c/facts") and whole.out.is_dir() and whole.seeds == (0, 1)
    assert tiny.out == tiny.workdir != whole.workdir
    assert claims.arguments("facts", "?", ["--data-dir", "x"]).out == claims.HERE / "facts"
    for args, said in ((whole, "page\n"), (tiny, f"{claims.TRIAL}page\n")):
        claims.publish(args, "page\n", [], plots={"plot.svg": "<svg/>"})
        assert (args.out / "results.md").read_text() == said and (args.out / "plot.svg").read_text() == "<svg/>"
        assert (args.claims / "README.md").is_file()


def test_a_mistake_is_told_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="^error: .*counterfact"):
        claims.command(lambda: facts.main(["--data-dir", str(tmp_path)]))
    for wrong in (["--seeds", "a", "--tiny"], ["--seeds", "0"]):
        with pytest.raises(SystemExit):
            generation.main([*wrong, "--workdir", str(tmp_path)])
    assert "argument --seeds" in (said := capsys.readouterr().err) and "--data-dir is needed" in said
    with pytest.raises(SystemExit):
        scratchpad.main(["--tiny", "--seeds", "0,0"])
    assert "0,0: every number once" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="^error: --model"):
        claims.command(lambda: demonstrations.main(["--data-dir", str(tmp_path), "--model", "other"]))


def test_where_a_page_cannot_be_left_nothing_is_measured(tmp_path):
    (tmp_path / "claims.json").write_text("[{")
    for folder, said in ((tmp_path / "claims.json" / "x", "give a folder"), (tmp_path, "is damaged")):
        with pytest.raises(UserError, match=said):
            claims.arguments("facts", "?", ["--data-dir", "x", "--claims", str(folder)])


@pytest.mark.parametrize("main, option", [(scratchpad.main, "--digits"), (questions.main, "--only")])
def test_help_tells_of_what_only_this_command_takes(main, option, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert option in (said := capsys.readouterr().out) and "--seeds" in said


def test_association(tmp_path):
    """The student of each round reads that round's numbers, and each test input once with another task's number."""
    cells = association.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    shown = [
        int(operation.student_context.instruction.removeprefix("Task "))
        for operation in association.tiny("mixed").operations
    ]
    for kind in association.KINDS:
        results = Journal(tmp_path / kind / "journal.json").results()
        for number, numbers in enumerate(((1, 2), (2, 1), (1, 2))):
            scored = results[f"seed 0/round {number}/score"]
            wrong, asked = (
                scored["measures"]["wrong_association"],
                set(zip(scored["operations"], scored["inputs"], strict=True)),
            )
            assert sorted(asked) == sorted(zip(wrong["operations"], wrong["inputs"], strict=True)) and len(asked) == 6
            for operation, view in zip(wrong["operations"], wrong["views"], strict=True):
                assert shown[operation] == numbers[operation % 2] != shown[view] and view in scored["operations"]
            assert cells[kind, "wrong", number].grades == [wrong["grades"]]
            joined = [results[f"seed 0/round {number}/operation {operation}/inputs"]["tasks"] for operation, _ in asked]
            assert all(joined) if kind == "mixed" else not any(joined)
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 4


def test_demonstrations(tmp_path, monkeypatch):
    """Student and baseline learn from the seed's demonstrations, none of which is tested."""
    monkeypatch.setattr(demonstrations.config, "TINY_TASKS", ("past tense",))
    grades = demonstrations.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    cfg = json.loads((tmp_path / "past_tense_2" / "seed_0" / "config.json").read_text())
    shown = cfg["operations"][0]["context"]["demonstrations"]
    (solved,) = cfg["baselines"][1]["training"]["sources"][0]["examples"]
    assert shown == solved["demonstrations"] and len(shown) == 2
    task = tasks.load("past_tense")
    assert not {example["input"] for example in shown} & {
        example.input for example in (*task.test, *task.validation[:32])
    }
    others = [demonstrations.config.demonstrations(task, 8, seed) for seed in range(3)]
    assert len(set(others)) == 3
    assert {side: len(rows) for side, rows in grades["past tense", 2, 0].items()} == dict.fromkeys(
        demonstrations.NAMES, 4
    )
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 2


def test_demonstrations_of_a_database_stand_beside_its_schema(tmp_path):
    """The schema is in the contexts of teacher, student and baselines; the command writes a separate page."""
    test_spider.write(tmp_path)
    asked = ["--tiny", "--seeds", "0", "--data-dir", str(tmp_path), "--databases", "library"]
    demonstrations.main([*asked, "--workdir", str(tmp_path / "run")])
    (claim,) = json.loads((tmp_path / "run" / "claims.json").read_text())[:1]
    assert claim["claim"].startswith("SPIDER: 2 demonstrations") and "--databases library" in claim["command"]
    assert "(paper, 4.2, Table 2)" in (tmp_path / "run" / "results_spider.md").read_text()
    cfg = demonstrations.config.get_config("library", 4, 0, str(tmp_path))
    validate(cfg)
    (operation,), (solved,) = cfg.operations, cfg.baselines[1].training.sources[0].examples
    contexts = operation.context, operation.student_context, solved.view
    assert {context.instruction for context in contexts} == {"{definition}"}
    assert solved.demonstrations == operation.context.demonstrations and len(solved.demonstrations) == 4


def test_a_grid_whose_end_is_best_is_told():
    """A rate beyond the end of the grid might have been better."""
    middle, end = ({"lr": lr, "epochs": 3} for lr in demonstrations.config.LRS[1:])
    chosen = [{"round 0": end, "gradient_descent": middle}] * 2 + [{"round 0": middle, "gradient_descent": end}]
    (warning,) = demonstrations.ends(dict(enumerate(chosen)))
    assert warning.startswith("student after chose a learning rate at an end of the grid, 0.0001, 2 of 3 times")


def test_demonstrations_are_worth_more_only_if_the_interval_says_so():
    grades = {}
    for seed in range(2):
        for name, gain in (("past tense", 1.0), ("plural", 0.0)):
            grades[name, 4, seed] = dict.fromkeys(demonstrations.NAMES, [0.0] * 6) | {"after": [gain] * 6}
    made = claims.made_by("demonstrations", (0, 1), RUNS)
    alike, paper = demonstrations.judge(grades, made, "another model")
    assert alike.holds and paper.holds and alike.ours.startswith("50.0 and 0.0")
    for sides in grades.values():
        sides |= {"gradient descent": [0.5] * 6, "teacher": [0.25] * 6}
    alike, paper = demonstrations.judge(grades, made, "another model")
    assert not alike.holds and "at 50.0 it is no worse than the teacher, 25.0" in alike.reason
    other = {key: sides | {"gradient descent": [0.4] * 6} for key, sides in grades.items()}
    assert demonstrations.judge(other, made, "")[0].reason.startswith("the interval has both signs")
    assert alike.reason.endswith("another model") and paper.holds and paper.reason == "another model"


def test_facts(tmp_path, capsys):
    measured = facts.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    run = next(path for path in tmp_path.iterdir() if path.is_dir())
    scores = json.loads((run / "results.json").read_text())["scores"]
    weights = {"paraphrase": 2, "neighbourhood": 2, "attribute": 1}  # prompts of a fact in the sample
    for side in facts.SIDES:
        for what, field, scale in (("score", "mean", 100), ("magnitude", "magnitude", 1)):
            parts = [n * np.mean(measured[part, side, what]) for part, n in weights.items()]
            assert sum(parts) / 5 == pytest.approx(scale * scores[side][field])
    assert measured["paraphrase", "after", "magnitude"] != measured["paraphrase", "before", "magnitude"]
    shown = f"magnitude {scores['after']['magnitude']:+.1f}"
    assert shown in (run / page.PAGE).read_text() and shown in page.table([run])
    score = claims.percent((np.transpose(measured["paraphrase", "after", "score"]) / 100).tolist())
    assert f"| paraphrase | after | {score} |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 4


def test_claims_about_facts_are_decided_by_differences_within_a_fact():
    """Facts differ much, but each gains 10 to 20 points in every seed; neighbours' lose as often as they gain."""
    level = np.linspace(0, 75, 6)
    gain, turn = np.array([[10.0, 20.0]] * 6), np.array([[20.0, 0.0], [-20.0, 0.0]] * 3)
    measured = {}
    for part, change in (("paraphrase", gain), ("neighbourhood", turn)):
        for what in ("score", "magnitude"):
            measured[part, "teacher", what] = measured[part, "before", what] = level[:, None].tolist()
            measured[part, "after", what] = (level[:, None] + change).tolist()
    made = claims.made_by("facts", (0, 1), RUNS)
    near, gained, surer, lost = facts.claimed(measured, made)
    assert near.holds and gained.holds and surer.holds and not lost.holds
    assert gained.ci95 == (pytest.approx(10), pytest.approx(20))  # one seed twice: there is no spread over facts
    assert lost.ci95[0] < 0 < lost.ci95[1]
    assert (gained.seeds, gained.minutes, gained.commit) == ((0, 1), 3.0, "one, two, three")
    measured["paraphrase", "teacher", "score"] = (level[:, None] + 15 + facts.MARGIN + 1).tolist()
    assert not facts.claimed(measured, made)[0].holds


def prompts(workdir, side):
    """A run's test prompts, as text."""
    run = opening.open(config.load_config(workdir / "config.json"), workdir)
    (assignment,) = run.assignments
    shown = getattr(assignment.views.prompts([example.input for example in assignment.task.test]), side)
    return [encode.decode(run.format.tokenizer, ids) for ids in shown.whole]


def test_instructions(tmp_path, capsys):
    """The teacher reads definition, examples and explanations, the student none of it, and the page has the run's."""
    (measured,) = instructions.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    results = json.loads((tmp_path / measured.task / "results.json").read_text())
    assert {side: measured.mean(side) for side in instructions.SIDES} == pytest.approx(
        {name: 100 * score["mean"] for name, score in results["scores"].items()}
    )
    task = tasks.load("natural_instructions:task01", data_dir=str(instructions.config.SAMPLE))
    shown = [
        task.definition,
        *(text for d in task.demonstrations + task.negatives for text in (d.input, d.explanation)),
    ]
    for example, long, bare in zip(
        task.test,
        prompts(tmp_path / measured.task, "teacher"),
        prompts(tmp_path / measured.task, "student"),
        strict=True,
    ):
        assert bare == f"Now complete the following example -\nInput: {example.input}\nOutput:"
        assert long.endswith(bare) and all(text in long for text in shown)
    times = results["tokens_per_request"]["teacher"] / results["tokens_per_request"]["student"]
    assert f"{times:.1f} times" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 3


def graded(task, **sides):
    """A measured task with the grades of each side in points of 100, [seeds][examples] or [examples]."""
    grades = {side: (np.atleast_2d(np.array(many, float)) / 100).tolist() for side, many in sides.items()}
    return Measured(task, grades, {"teacher": 300.0, "before": 40.0, "after": 30.0}, {})


def test_what_a_student_closes_of_the_gap_is_decided_over_tasks():
    made = claims.made_by("instructions", (0, 1), RUNS)
    names = list(instructions.config.TASKS)
    measured = [
        graded(name, teacher=[40, 40 + 2 * number], before=[number, number], after=[[30, 34], [30, 34 + 2 * number]])
        for number, name in enumerate(names)
    ]
    gain, share, fewer = instructions.claimed(measured, made)
    means = {side: np.mean([of_task.mean(side) for of_task in measured]) for side in instructions.SIDES}
    expected = (means["after"] - means["before"]) / (means["teacher"] - means["before"])
    assert share.ours.startswith(f"{100 * expected:.0f} %") and share.ci95[0] < 100 * expected < share.ci95[1]
    assert gain.holds and share.holds and fewer.holds and fewer.ci95 == (10, 10)
    poor = [
        graded(of_task.task, **{s: 100 * np.array(g) for s, g in (of_task.grades | {"after": [[0.1, 0.1]]}).items()})
        for of_task in measured
    ]
    gain, share, _ = instructions.claimed(poor, made)
    assert gain.holds and not share.holds
    none = [graded(name, teacher=[0, 0], before=[0, 0], after=[0, 0]) for name in names[:1]]
    assert instructions.closed(none) == (0, (0, 0))
    said = dataclasses.replace(
        none[0], answers={"teacher": [["a", "a", "b"]], "after": [["a", "b", "b"], ["c", "b", "a"]]}
    )
    assert instructions.same(said) == pytest.approx(1 / 3) and instructions.commonest(said) == pytest.approx(2 / 3)


def test_explanations(tmp_path):
    """The two sides differ in the explanations alone."""
    (measured,) = explanations.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    task = tasks.load("natural_instructions:task01", data_dir=str(instructions.config.SAMPLE))
    said = [f"Explanation: {d.explanation}\n" for d in task.demonstrations + task.negatives]
    for long, short in zip(*(prompts(tmp_path / measured.task, side) for side in ("teacher", "student")), strict=True):
        assert all(text in long for text in said) and task.definition in short
        for text in said:
            long = long.replace(text, "")
        assert long == short
    assert "distilled" in (tmp_path / "results.md").read_text() and "<svg" in (tmp_path / "margins.svg").read_text()


def test_noise_that_both_margins_share_makes_no_correlation_between_halves():
    """Grades without any effect: the model's own noise correlates the margins, but not those of different halves."""
    rng, names = np.random.default_rng(3), list(instructions.config.TASKS)
    noise = [graded(name, **{side: rng.uniform(0, 100, 80) for side in instructions.SIDES}) for name in names]
    correlation = explanations.correlation(noise)
    assert correlation.r - correlation.halves > 0.3 and correlation.shuffled > 0.05
    effect = [
        graded(name, before=(base := rng.uniform(0, 50, 80)), teacher=base + 4 * number, after=base + 2 * number + 1)
        for number, name in enumerate(names)
    ]
    correlation = explanations.correlation(effect)
    made = claims.made_by("explanations", (0, 1), RUNS)
    assert correlation.r > 0.99 and correlation.halves > 0.99 and explanations.claimed(correlation, 10, made).holds
    assert not explanations.claimed(dataclasses.replace(correlation, shuffled=0.06), 10, made).holds
    assert explanations.margin(effect[3], "teacher").mean == pytest.approx(12)


def test_scratchpad(tmp_path, capsys):
    grades = scratchpad.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    run = tmp_path / "digits_1" / "seed_0" / "run"
    results = json.loads((run / "results.json").read_text())
    assert list(grades) == list(scratchpad.PAPER) and {np.shape(rows) for rows in grades.values()} == {(1, 12)}
    assert {name: np.mean(rows) for name, rows in grades.items()} == pytest.approx(
        {name: score["mean"] for name, score in results["scores"].items()}
    )
    stages = json.loads((run / "journal.json").read_text())
    assert all("#" not in answer for answer in stages["teacher"]["result"]["answers"])  # f took it out
    lines = next(run.glob("rollouts/seed_0/**/samples.jsonl")).read_text().splitlines()
    pads = [text for line in lines if re.search("#(.+)#", text := json.loads(line)["text"])]
    assert len(pads) >= results["rollouts"]["kept"] > 0  # the teacher has learned the form of a scratch-pad
    assert grades["before"] == [[0.0] * 12]  # a scratch-pad is no direct answer
    teacher, student = scratchpad.requests([results])
    assert f"{teacher / student:.1f} times fewer" in capsys.readouterr().out
    near, better, fewer = json.loads((tmp_path / "claims.json").read_text())[:3]
    assert [near["holds"], better["holds"]] == [
        np.mean(grades["after"]) >= np.mean(grades["teacher"]) - scratchpad.MARGIN,
        better["ci95"][0] > 0,
    ]
    assert fewer["ci95"][0] == pytest.approx(teacher / student)


def test_accuracy_by_digits_adds_up_to_the_whole():
    lengths = [1, 2, 2, 3]
    rows = [[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    parts = {length: scratchpad.part(rows, lengths, length) for length in (1, 2, 3)}
    assert parts[2] == [[0.0, 1.0], [0.0, 1.0]]
    assert sum(np.mean(grades) * len(grades[0]) for grades in parts.values()) / 4 == pytest.approx(np.mean(rows))


def test_generation(tmp_path, monkeypatch):
    """Both students are asked alike; what the judge calls positive, and no more, is in the table."""
    judged = []

    def judge(self, texts):
        judged.append(list(texts))
        return [float(len(text) % 2) for text in texts]

    monkeypatch.setattr(generation.Judge, "__call__", judge)
    cells = generation.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    for tone in generation.config.TEACHERS:
        results = Journal(tmp_path / tone / "journal.json").results()
        answers = results["seed 0/round 0/score"]["answers"]
        assert answers in judged and cells[tone, "after"].positive == [[float(len(text) % 2) for text in answers]]
        assert cells[tone, "before"].positive == cells["positive", "before"].positive
    openings = [json.loads(line) for line in (tmp_path / "openings" / "reviews.jsonl").read_text().splitlines()]
    known = {review.input: review.output for review in generation.config.reviews(generation.config.SAMPLE)}
    assert {known[f"{review['input']} {review['output']}"] for review in openings} == {"negative"} and len(
        openings
    ) >= 10
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 3


def test_entropy_is_that_of_words():
    assert generation.entropy(["a b", "B a"]) == pytest.approx(np.log(2))
    assert generation.entropy(["a a a"]) == 0


def test_a_students_seeds_are_not_students():
    """Two that agree are as sure however often each is run, where nothing is drawn: four demonstrations, or eight."""
    rng, first = np.random.default_rng(0), window.STUDENTS
    teacher, before = rng.integers(2, size=(2, 40)).astype(float).tolist()
    results = [
        window.Found(
            {
                (student, side): rows
                for student in first
                for side, rows in (("teacher", [teacher]), ("before", [before]))
            }
            | {(student, "after"): [teacher] * seeds for student in first},
            [("relation", str(number)) for number in range(40)],
            {},
            56,
        )
        for seeds in (1, 5)
    ]
    made = claims.made_by("window", (0,), RUNS)
    once, often = (window.judge(result, made) for result in results)
    assert [claim.ci95 for claim in once] == [claim.ci95 for claim in often]
    assert np.shape(results[1].side("after")) == (2, 40)


def test_window(tmp_path, capsys):
    """Four demonstrations fit and eight do not; both students learn from the same ensemble, with their own four."""
    result = window.main(["--tiny", "--seeds", "0", "--workdir", str(tmp_path)])
    assert all(some <= result.window < whole for some, whole in result.tokens.values()) and result.tokens
    first, last = (tmp_path / name for name in ("first_four", "last_four"))
    stages = [Journal(run / "journal.json").results() for run in (first, last)]
    assert result.side("teacher") == [run_stages["teacher"]["grades"] for run_stages in stages]
    assert result.side("after") == [run_stages["seed 0/round 0/score"]["grades"] for run_stages in stages]
    assert [text for _, text in result.inputs] == stages[1]["before"]["inputs"]
    samples = [sorted(run.glob("rollouts/seed_0/**/samples.jsonl")) for run in (first, last)]
    assert [path.read_text() for path in samples[0]] == [path.read_text() for path in samples[1]] and samples[0]
    assert stages[0]["teacher"]["answers"] == stages[1]["teacher"]["answers"]
    assert stages[0]["before"]["tokens"] != stages[1]["before"]["tokens"]
    assert stages[0]["teacher"]["tokens"] > 7 * stages[0]["before"]["tokens"]  # eight prompts are read
    assert f"The window is {result.window} tokens" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "claims.json").read_text())) == 2
