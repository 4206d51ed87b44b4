"""A benchmark lets both sides do the same work in turns, and its figures say what that took."""

import ast
import dataclasses
import json
import sys

import numpy as np
import pytest

from cdjax.bench import cases, contest, figures, work
from cdjax.bench.cases import Case, Contestant
from cdjax.bench.figures import Answer, Figure, Results
from cdjax.errors import UserError

EVERY = cases.cases([], "tiny")
FIELDS = {"bench", "case", "shapes", "value", "unit", "spread", "memory_bytes", "peer", "ratio"}


def case(bench, name):
    return next(one for one in EVERY if (one.bench, one.name) == (bench, name))


def do(shapes, options):
    return work.prepare({"shapes": shapes, "options": options})()


def result(bench, name, other=None):
    one = case(bench, name)
    return do(one.shapes, one.ours.options if other is None else one.others[other].options).result


def test_every_prompt_gets_a_whole_answer():
    one, ids = case("sample", "shared"), result("sample", "shared")
    assert [len(row) for row in ids] == [one.shapes["answer"]] * one.shapes["batch"]
    assert sum(map(len, ids)) == one.tokens


def test_the_three_ways_of_scoring_agree():
    kept, concatenated, read = (result("score", "long", other) for other in (None, 0, 1))
    np.testing.assert_allclose(np.concatenate(concatenated), kept, rtol=2e-4)
    np.testing.assert_array_equal(read, kept)


def test_both_losses_agree_in_value_and_gradient():
    (value, grads), (dense, dense_grads) = result("loss", "vocabulary"), result("loss", "vocabulary", 0)
    np.testing.assert_allclose(value, dense, rtol=1e-5)
    np.testing.assert_allclose(grads[1], dense_grads[1], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("bench, name", [("update", "quarter"), ("rounds", "shared")])
def test_a_step_counts_the_completion_and_learns(bench, name):
    one = case(bench, name)
    once = work.prepare({"shapes": one.shapes, "options": one.ours.options})
    counted = one.shapes["batch"] * one.shapes["completion" if bench == "update" else "answer"]
    losses = []
    for step in (1, 2):
        state, metrics = once().result
        assert int(metrics["loss"][1]) == counted and int(state.step) == step
        losses.append(float(metrics["loss"][0]))
    assert ("teacher_top_mass" in metrics) == (name == "shared")
    assert losses[1] < losses[0]


def test_the_matrix_products_are_those_of_the_update():
    one = case("update", "all")
    assert one.others[0].options["work"] == "products" and result("update", "all", 0).ndim == 2


SCRIPT = """
import os, sys, time
import serve
stage = serve.Stage()
print("a library says hello")
def once():
    with open(stage.request["options"]["log"], "a") as log:
        log.write(stage.request["options"]["sign"])
    if stage.request["options"].get("dies", 1000) == 0:
        raise RuntimeError("out of luck")
    stage.request["options"]["dies"] = stage.request["options"].get("dies", 1000) - 1
    return {"bytes_temporary": 5}
stage.run(once)
"""


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Makes contestants that only write their sign into `log`."""
    (tmp_path / "quick.py").write_text(SCRIPT)
    (tmp_path / "serve.py").write_text((contest.PEERS / "serve.py").read_text())
    monkeypatch.setattr(contest, "PEERS", tmp_path)

    def make(sign, name="cdjax", **options):
        return Contestant(name, "quick", ("json",), {"log": str(tmp_path / "log"), "sign": sign} | options)

    return make


def play(ours, *others, pythons=(sys.executable,), **rules):
    said = []
    one = Case("update", "all", {"batch": 2}, 100, ours, others)
    found = list(contest.run([one], pythons, contest.Rules(**rules), said.append))
    return found, said


def test_both_sides_work_in_turns(quick, tmp_path):
    found, said = play(quick("A"), quick("B", "one"), quick("C", "two"), repeat=3, clock="cpu")
    assert (tmp_path / "log").read_text() == "A" + "B" + "ABABAB" + "C" + "ACACAC"
    assert {figure.peer["name"] for figure in found} == {"one", "two"}
    assert said == ["update/all: cdjax", "update/all: one", "update/all: two"]


def test_one_turn_is_taken_however_long_it_takes(quick, tmp_path):
    play(quick("A"), quick("B", "one"), repeat=3, seconds=0.0)
    assert (tmp_path / "log").read_text() == "ABAB"


def test_without_a_peer_there_are_figures_without_one(quick, tmp_path):
    found, said = play(quick("A"), quick("B", "one"), pythons=(), repeat=2)
    assert (tmp_path / "log").read_text() == "AAA"
    assert all(figure.peer is None and figure.ratio is None for figure in found) and found
    assert said[0] == "update/all: without one: peers are left out"


def test_a_missing_peer_is_told_in_a_sentence(quick):
    missing = dataclasses.replace(quick("B", "one"), needs=("json", "no_such_package"))
    _, said = play(quick("A"), missing, repeat=1)
    assert said[0] == (
        "update/all: without one: no interpreter has json and no_such_package; "
        "give one that does with --peer-python PATH"
    )


@pytest.mark.parametrize("turn", [0, 2])
def test_a_peer_that_falls_is_left_out(quick, turn):
    found, said = play(quick("A"), quick("B", "one", dies=turn), quick("C", "two"), repeat=3)
    assert "update/all: one failed: RuntimeError: out of luck" in said
    assert {figure.peer["name"] for figure in found} == {"two"}


@pytest.mark.parametrize("turn", [0, 2])
def test_our_own_fall_is_an_error(quick, turn):
    with pytest.raises(UserError, match="^cdjax failed: RuntimeError: out of luck$"):
        play(quick("A", dies=turn), quick("B", "one"), repeat=3)


def test_a_path_that_is_no_python_is_refused(quick):
    with pytest.raises(UserError, match="--peer-python no/python is no Python interpreter"):
        play(quick("A"), quick("B", "one"), pythons=("no/python",))


def answer(seconds, peak=10, **facts):
    return Answer(cpu=2.0 * seconds, wall=1.0 * seconds, peak_bytes=peak, facts=facts)


def test_figures_are_medians_of_all_but_the_first():
    ours = Results("cdjax", answer(90, bytes_temporary=6), (answer(1.0), answer(4.0), answer(2.0, peak=30)))
    peer = Results("other", answer(50, bytes_temporary=12), (answer(8.0, peak=60), answer(4.0)))
    one = Case("update", "all", {"batch": 2}, 16, Contestant("cdjax", "ours"), ())
    speed, first, peak, temporary = figures.compare(one, ours, peer, "cpu")
    shared = {"bench": "update", "case": "all", "shapes": {"batch": 2}, "memory_bytes": 30}
    assert dataclasses.asdict(speed) == shared | {
        "value": 4.0, "unit": "tokens/CPU-s", "spread": 6.0, "peer": {"name": "other", "value": 1.5}, "ratio": 4 / 1.5
    }  # fmt: skip
    assert (first.value, first.unit, first.ratio) == (180, "CPU-s, first time", 1.8)
    assert (peak.value, peak.unit, peak.peer["value"], peak.ratio) == (30, "bytes, peak", 60, 0.5)
    assert (temporary.value, temporary.unit, temporary.ratio) == (6, "bytes, temporary", 0.5)


def test_a_figure_without_tokens_is_a_time():
    ours = Results("cdjax", answer(9), (answer(1.0), answer(3.0)))
    one = Case("loss", "vocabulary", {}, 0, Contestant("cdjax", "ours"), ())
    speed = next(figures.compare(one, ours, None, "wall"))
    assert (speed.value, speed.unit, speed.spread) == (2.0, "s", 2.0)


def test_what_only_one_side_knows_is_compared_with_nothing():
    ours, peer = Results("cdjax", answer(1, bytes_temporary=3), (answer(1),)), Results("other", answer(1), (answer(1),))
    one = Case("loss", "vocabulary", {}, 0, Contestant("cdjax", "ours"), ())
    assert list(figures.compare(one, ours, peer, "wall"))[-1].peer is None


def test_the_table_has_every_figure(capsys):
    about = ("update", "all", {})
    figures.show(
        [
            Figure(*about, 4321.0, "tokens/s", 12.0, 7, {"name": "other", "value": 400.0}, 10.8),
            Figure(*about, 5e9, "bytes, peak", 0.0, 7, None, None),
        ]
    )
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.split() == ["update/all", "4321", "tokens/s", "12", "other", "400", "10.80"]
    assert second.split() == ["update/all", "5,000", "M", "bytes,", "peak"]


def test_a_line_is_json_with_the_fields_that_are_promised():
    line = json.loads(Figure("loss", "vocabulary", {"batch": 2}, 1.0, "s", 0.5, 7, None, None).line())
    assert set(line) == FIELDS and line["peer"] is None


def test_names_choose_benches_and_cases():
    assert {one.bench for one in EVERY} == set(cases.BENCHES)
    assert [one.full_name for one in cases.cases(["loss", "update/all"], "tiny")] == ["update/all", "loss/vocabulary"]
    assert cases.cases(["score"], "small")[0].shapes["context"] == 2048


@pytest.mark.parametrize(
    "names, scale, message",
    [
        (["fly"], "tiny", "there is no bench 'fly'; there are sample, score, update, loss, rounds"),
        (["update/half"], "tiny", "there is no bench 'update/half'; .* update/all, update/quarter"),
        ([], "huge", "there is no scale 'huge'; there are tiny, small, large"),
    ],
)
def test_a_wrong_name_is_one_sentence(names, scale, message):
    with pytest.raises(UserError, match=message):
        cases.cases(names, scale)


def test_every_contestant_has_its_script_and_scripts_know_nothing_of_us():
    others = [other for one in EVERY for other in one.others]
    assert {one.options["work"] for one in [case.ours for case in EVERY] + others if one.script == "ours"} == {
        *work.WORK
    }
    scripts = {path.stem: path.read_text() for path in contest.PEERS.glob("*.py") if path.stem != "__init__"}
    assert {other.script for other in others} - {"ours"} == {name for name in scripts if name.count("_")} - {
        "with_torch", "with_tunix", "with_easydel",
    }  # fmt: skip
    for text in scripts.values():
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
        found = [node.names[0].name if isinstance(node, ast.Import) else str(node.module) for node in nodes]
        assert not [one for one in found if one.split(".")[0] == "cdjax"]


def test_peers_on_torch_do_the_work():
    pytest.importorskip("torch")
    one = case("sample", "shared")
    reused = next(other for other in one.others if other.options == {"reuse": True, "dtype": "bfloat16"})
    wanted = [dataclasses.replace(one, ours=reused, others=())]
    found = list(contest.run(wanted, (), contest.Rules(repeat=1), print))
    assert {figure.unit for figure in found} == {"tokens/s", "s, first time", "bytes, peak"}


def test_the_command_prints_a_json_line_a_figure(capfd):
    from cdjax import cli

    assert cli.main(["bench", "loss", "--scale", "tiny", "--repeat", "2", "--json", "--alone"]) == 0
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["unit"] for line in lines] == ["s", "s, first time", "bytes, peak", "bytes, temporary"]
    assert all(set(line) == FIELDS and line["peer"]["name"] == "dense in JAX" for line in lines)
    assert all(line["ratio"] == line["value"] / line["peer"]["value"] for line in lines)
    assert lines[0]["shapes"] == {"embed": 64, "batch": 2, "length": 16, "vocab": 512}
    assert "loss/vocabulary: without Liger: peers are left out" in err
