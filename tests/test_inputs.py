import dataclasses

import pytest

from cdjax import config, tasks
from cdjax.tasks.inputs import collect, parse_written

PAST = tasks.load("past_tense")
WRITTEN = ("glorp\nrun", "1. blick", " - Skip", "\n", "go", "GO ", "the  cat", "the cat", PAST.test[0].input.upper())


def total(counts):
    return sum(counts[source] for source in ("pool", "tasks", "file", "rule", "written"))


def test_counts_sum_to_what_was_offered(tmp_path):
    (tmp_path / "more.txt").write_text(
        f"{PAST.pool[0]}\nsomething else\n{PAST.held_out[0]}\n{PAST.validation[0].input}\n"
    )
    cfg = config.Inputs(pool=True, file=str(tmp_path / "more.txt"), written=len(WRITTEN), limit=500)
    counts = collect(PAST, cfg, seed=0, written=WRITTEN).counts
    assert total(counts) == len(PAST.pool) + 4 + len(WRITTEN)
    went = ("unreadable", "reserved", "duplicate", "over_limit", "kept")
    assert total(counts) == sum(counts[name] for name in went)
    assert (counts["unreadable"], counts["reserved"], counts["kept"]) == (1, 5, 500)


def test_reserved_inputs_never_come_back():
    """Neither demonstrations nor test, validation and held-out inputs, in any case or spacing."""
    reserved = [e.input for e in (*PAST.demonstrations, *PAST.test, *PAST.validation)] + list(PAST.held_out)
    cfg = config.Inputs(pool=True, written=1)
    result = collect(PAST, cfg, seed=0, written=[f"  {word.title()}  " for word in reserved])
    assert result.inputs == PAST.pool and result.counts["reserved"] == len(reserved)


def test_other_tasks_inputs_join_but_for_what_any_of_them_reserves():
    other = dataclasses.replace(
        PAST, name="other", pool=(PAST.test[0].input, PAST.pool[0], "new"), test=(), held_out=()
    )
    other = dataclasses.replace(other, demonstrations=(config.Demonstration(PAST.pool[1], ""),), validation=())
    result = collect(PAST, config.Inputs(pool=True, tasks=("other",)), seed=0, others=(other,))
    assert result.inputs == (PAST.pool[0], *PAST.pool[2:], "new")
    assert result.counts["tasks"] == 3 and result.counts["reserved"] == 2 and result.counts["duplicate"] == 1
    assert total(result.counts) == result.counts["kept"] + 3
    with pytest.raises(config.UserError, match="addition has none"):
        collect(PAST, config.Inputs(tasks=("addition",)), seed=0, others=(tasks.load("addition"),))


def test_written_inputs_are_read_and_joined_once():
    result = collect(PAST, config.Inputs(written=1), seed=0, written=WRITTEN)
    assert result.inputs == ("glorp", "blick", "Skip", "the  cat") and result.counts["duplicate"] == 1


def test_the_limit_is_a_seeded_choice_in_order():
    few = [collect(PAST, config.Inputs(pool=True, limit=40), seed=seed).inputs for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert [PAST.pool.index(word) for word in few[0]] == sorted(PAST.pool.index(word) for word in few[0])


def test_a_rule_draws_by_seed():
    task = tasks.load("addition:4")
    drawn = [collect(task, config.Inputs(rule=50), seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0].inputs) + drawn[0].counts["reserved"] >= 48
    assert all(task.solve(text) for text in drawn[0].inputs)


@pytest.mark.parametrize(
    ("task", "cfg", "written", "told"),
    [
        (PAST, config.Inputs(), (), "no input to distil on: pool 0, tasks 0, file 0"),
        (PAST, config.Inputs(written=2), ("go", " "), "written 2, unreadable 1, reserved 1"),
        (dataclasses.replace(PAST, rule=None), config.Inputs(rule=3), (), "inputs.rule asked of task"),
        (tasks.load("addition"), config.Inputs(pool=True), (), "inputs.pool asked of task"),
        (PAST, config.Inputs(file="/none.jsonl"), (), "cannot read the inputs file"),
    ],
)
def test_an_empty_source_is_told(task, cfg, written, told):
    with pytest.raises(config.UserError, match=told):
        collect(task, cfg, seed=0, written=written)


def test_the_pool_may_be_all_there_is():
    task = dataclasses.replace(PAST, pool=("one",))
    assert collect(task, config.Inputs(pool=True), seed=3).inputs == ("one",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("walk", "walk"),
        ("\n\n  go on \nmore", "go on"),
        ("12. a", "a"),
        ("* b", "b"),
        ("3.5 + 1", "3.5 + 1"),
        (" ", None),
    ],
)
def test_the_first_line_written_counts(text, said):
    assert parse_written(text) == said
