import json
import sqlite3
from collections import Counter

import pytest

from cdjax import tasks
from cdjax.config import UserError
from cdjax.tasks import spider
from tests.test_sql import TABLES

COLUMNS = ("id", "title", "year", "price", "author_id")
PAIRS = [
    *((f"What is the {one} of each book?", f"SELECT {one} FROM book") for one in COLUMNS),
    *((f"Give the {one} of all the books.", f"SELECT  {one.upper()}\nFROM book ;") for one in COLUMNS),
    *((f"Which {one} comes first?", f"SELECT {one} FROM book ORDER BY {one} LIMIT 1") for one in COLUMNS),
    *((f"How many times is each {one}?", f"SELECT {one}, count(*) FROM book GROUP BY {one}") for one in COLUMNS),
    ("Which books have no price?", "SELECT title FROM book WHERE price IS NULL"),
    ("Whose books are lent on Monday?", "SELECT publisher FROM loan WHERE day = 'Monday'"),
]


def write(folder, pairs=PAIRS, tables=(TABLES,)):
    rows = [{"db_id": "library", "question": question, "query": query} for question, query in pairs]
    (folder / "dev.json").write_text(json.dumps([*rows, {"db_id": "shop", "question": "?", "query": "SELECT"}]))
    (folder / "tables.json").write_text(json.dumps(tables))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path)
    path = tmp_path / "database/library/library.sqlite"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE book (id, title, year, price, author_id)")
        connection.execute("INSERT INTO book VALUES (1, 'Emma', 1815, 7.5, 2), (2, 'Orlando', 1928, NULL, 3)")
    connection.close()
    return tmp_path


def load(folder, name="spider:library"):
    return tasks.load(name, data_dir=str(folder))


def inputs_of(task):
    labelled = [one.input for one in (*task.demonstrations, *task.test, *task.validation)]
    return [*labelled, *task.held_out, *task.pool]


def query_of(task, question):
    return task.solve(question).output.lower().rstrip(" ;")


@pytest.mark.parametrize("name", ["spider:library", "spider:library:execution"])
def test_every_question_is_in_one_part_and_every_query_that_is_scored(folder, name):
    task = load(folder, name)
    assert sorted(inputs_of(task)) == sorted(question for question, _ in PAIRS)
    assert len(task.demonstrations) == 8 and (len(task.held_out) and len(task.validation) and len(task.test))
    scored = [[query_of(task, one.input) for one in part] for part in (task.validation, task.test)]
    other = [query_of(task, one) for one in (*(one.input for one in task.demonstrations), *task.held_out, *task.pool)]
    assert not set(scored[0]) & set(scored[1]) and not set(scored[0] + scored[1]) & set(other)
    assert all(task.grade(one, one.output) == 1 for one in task.test + task.validation)
    assert all("\n" not in one.output and "  " not in one.output for one in task.demonstrations + task.test)


def test_questions_of_one_query_stay_together(folder):
    task = load(folder)
    parts = (task.validation, task.test)
    counts = Counter(query_of(task, one.input) for part in parts for one in part)
    assert all(counts[query] == (1 if "count" in query or "limit" in query else 2) for query in counts)


def test_a_query_that_does_not_score_itself_is_never_scored(folder):
    """IS NULL is outside of Spider's grammar, and the table of loans is not in the database."""
    null, lent = (question for question, _ in PAIRS[-2:])
    exact, execution = load(folder), load(folder, "spider:library:execution")
    assert {null, lent} <= set(exact.pool) and lent in execution.pool and null not in execution.pool


def test_a_query_that_returns_no_row_is_not_scored_by_execution(folder):
    """Any other that returns none would be right."""
    question, query = "Who wrote Ulysses?", "SELECT author_id FROM book WHERE title = 'Ulysses'"
    write(folder, [*PAIRS, (question, query)])
    task = load(folder, "spider:library:execution")
    assert question in task.pool and task.grade(tasks.Example(question, query), "SELECT 1 WHERE 0") == 0
    assert question not in load(folder).pool


def test_the_metric_is_the_one_asked_for(folder):
    exact, execution = load(folder, "spider:library:exact_set_match"), load(folder, "spider:library:execution")
    assert (exact.metric, execution.metric) == ("exact_set_match", "execution")
    gold = tasks.Example("?", "SELECT title FROM book WHERE year < 1900")
    for answer, scores in {
        "select Title from book where year < 3": (1, 0),
        "SELECT 'Emma'": (0, 1),
        "Emma": (0, 0),
    }.items():
        assert (exact.grade(gold, answer), execution.grade(gold, answer)) == scores


def test_parts_do_not_depend_on_the_order_of_the_file(folder):
    pairs = [*PAIRS, (PAIRS[0][0], "SELECT name FROM author")]
    write(folder, pairs)
    before = load(folder)
    write(folder, pairs[::-1])
    assert inputs_of(load(folder)) == inputs_of(before) and inputs_of(before)[:8] != sorted(inputs_of(before))[:8]
    assert load(folder).solve(PAIRS[0][0]) == before.solve(PAIRS[0][0])


def test_the_definition_is_the_schema(folder):
    assert load(folder).definition == (
        "Author (ID, Name, Born)\nBook (ID, Title, Author_ID, Year, Price)\nLoan (Book_ID, Name, Day)\n"
        "Book.Author_ID = Author.ID\nLoan.Book_ID = Book.ID"
    )


def test_a_byte_order_mark_is_no_text(folder):
    before = inputs_of(load(folder))
    for path in folder.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert inputs_of(load(folder)) == before


def test_space_inside_of_a_text_is_kept(folder):
    write(folder, [*PAIRS, ("Who wrote A  B?", "SELECT   name\tFROM book WHERE title = 'A  B'")])
    assert load(folder).solve("Who wrote A  B?").output == "SELECT name FROM book WHERE title = 'A  B'"


def test_prepared_it_is_the_same_task(folder, tmp_path):
    from cdjax.tasks import builders

    prepared = tmp_path / "prepared"
    builders.prepare("spider:library", folder, prepared)
    for name in ("spider:library", "spider:library:execution"):
        one, other = load(folder, name), load(prepared, f"tfds:{name}")
        assert (one.name, one.metric) == (other.name, other.metric)
        assert (inputs_of(one), one.definition) == (inputs_of(other), other.definition)
        assert [other.grade(example, example.output) for example in one.test] == [1.0] * len(one.test)


def test_names_are_the_databases_with_questions(folder):
    assert spider.names(folder) == ["library", "shop"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("spider:zoo", "has no 'zoo': it has library, shop"),
        ("spider:library:accuracy", "must be exact_set_match or execution, got 'accuracy'"),
        ("spider:shop", "tables.json says nothing of the database 'shop'"),
    ],
)
def test_a_wrong_name_is_told(folder, name, told):
    with pytest.raises(UserError, match=told):
        load(folder, name)


def test_what_is_missing_is_told(folder):
    with pytest.raises(UserError, match="has 5 different queries .* 11 are needed"):
        write(folder, PAIRS[:9])
        load(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("table_names_original", ["Author", "Book", 3]),
        ("column_names_original", ["id"]),
        ("column_names_original", [[-1, "*"], [3, "ID"]]),
        ("column_names_original", [[-1, "*"], [0, 3]]),
        ("foreign_keys", [1]),
        ("foreign_keys", [[6, 99]]),
        ("foreign_keys", [[[6, 7], 1]]),
        ("foreign_keys", [[6, 1, 9]]),
    ],
)
def test_tables_of_another_shape_are_told(folder, field, value):
    write(folder, tables=[{**TABLES, "foreign_keys": [], field: value}])
    with pytest.raises(UserError, match=f"database 'library': wanted tables as texts.*; not so is {field}: "):
        load(folder)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("dev.json", None, "has no questions: dev.json"),
        ("tables.json", None, "cannot read .*tables.json"),
        ("dev.json", "[]", "dev.json has no question"),
        ("dev.json", "[{", "cannot read .*dev.json' as JSON"),
        ("dev.json", "[" * 100_000, "cannot read .*dev.json' as JSON: .*too many"),
        ("tables.json", '["\\udfff"]', "cannot read .*tables.json' as JSON: .*surrogates not allowed"),
        ("dev.json", '{"db_id": 3}', "wanted a list of objects, got a dict"),
        ("dev.json", '[{"db_id": "library", "query": "SELECT"}]', "row 0: wanted an object with a str 'question', got"),
        ("tables.json", '[{"db_id": "library", "foreign_keys": 3}]', "row 0: .* a list 'foreign_keys', got"),
        ("database/library/library.sqlite", None, "execution needs the SQLite file of 'library'"),
        ("database/library/library.sqlite", "no database at all" * 99, "is not a SQLite database"),
        ("database/library/library.sqlite", "", "no table of .* has a row"),
    ],
)
def test_a_file_that_is_missing_or_of_another_form_is_told(folder, file, text, told):
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(UserError, match=told):
        load(folder, "spider:library:execution")
