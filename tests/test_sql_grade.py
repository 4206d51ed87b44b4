import contextlib
import sqlite3
import time

import pytest

from cdjax.tasks import sql, sql_grade
from tests.test_sql import JOINED, LIBRARY

SAME = [
    ("SELECT title, year FROM book", "SELECT year, title FROM book"),
    (f"SELECT T1.name {JOINED}", "SELECT T1.name FROM book AS T2 JOIN author AS T1 ON T2.author_id = T1.id"),
    (f"SELECT T1.name {JOINED}", "SELECT T1.name FROM author AS T1 JOIN book AS T2"),  # ON is not compared
    ("SELECT id FROM book WHERE year = 3 AND price = 4", "SELECT id FROM book WHERE price = 1 AND year = 2"),
    (
        "SELECT id FROM book WHERE year = 3 AND price = 4 OR title = 'a'",
        "SELECT id FROM book WHERE title = 'a' OR year = 3 AND price = 4",
    ),
    ("SELECT id FROM book ORDER BY year LIMIT 1", "SELECT id FROM book ORDER BY year LIMIT 5"),
    ("SELECT id FROM book ORDER BY year DESC, price ASC", "SELECT id FROM book ORDER BY year, price"),
    ("SELECT id FROM book UNION SELECT id FROM author", "SELECT id FROM book UNION SELECT author.id FROM author"),
]
DIFFERENT = [
    ("SELECT title FROM book", "SELECT title, title FROM book"),
    ("SELECT title FROM book", "SELECT title FROM book JOIN loan"),
    ("SELECT id FROM book WHERE year = 3 AND price = 4", "SELECT id FROM book WHERE year = 3 OR price = 4"),
    (
        "SELECT id FROM book WHERE year = 3 AND year = 4 AND price = 5",
        "SELECT id FROM book WHERE year = 3 AND price = 4 AND price = 5",
    ),
    (
        "SELECT id FROM book WHERE year = 3 AND price = 4 OR id = 5",
        "SELECT id FROM book WHERE year = 3 OR price = 4 OR id = 5",
    ),
    ("SELECT id FROM book ORDER BY year", "SELECT id FROM book ORDER BY year DESC"),
    ("SELECT id FROM book UNION SELECT id FROM author", "SELECT id FROM book EXCEPT SELECT id FROM author"),
    ("SELECT year FROM book GROUP BY year, price", "SELECT year FROM book GROUP BY price, year"),
    (
        "SELECT year FROM book GROUP BY year HAVING count(*) > 3",
        "SELECT year FROM book GROUP BY year HAVING count(*) < 3",
    ),
    ("SELECT year FROM book GROUP BY year HAVING count(*) > 3", "SELECT year FROM book GROUP BY year"),
    ("SELECT id FROM book ORDER BY year, price", "SELECT id FROM book ORDER BY price, year"),
    ("SELECT id FROM book ORDER BY year LIMIT 1", "SELECT id FROM book ORDER BY year"),
    ("SELECT id FROM book LIMIT 1", "SELECT id FROM book"),
    ("SELECT id FROM book UNION SELECT id FROM author", "SELECT id FROM author UNION SELECT id FROM book"),
    ("SELECT id FROM book UNION SELECT id FROM author", "SELECT id FROM book"),
    # Words count in ON too.
    (f"SELECT T1.name {JOINED} AND T2.title LIKE 'a'", f"SELECT T1.name {JOINED} AND T2.title = 'a'"),
    (f"SELECT T1.name {JOINED} AND T2.id = 3 OR T2.id = 4", f"SELECT T1.name {JOINED} AND T2.id = 3 AND T2.id = 4"),
]
WRONG = [
    "",
    ";",
    "-- nothing",
    "no query",
    "SELECT",
    "SELECT id FROM shelf",
    "SELECT '\x00'",
    "\ud800",
    "SELECT 1; SELECT 1",
]


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "a library.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """CREATE TABLE book (id INTEGER, title TEXT, year INTEGER, price REAL);
            INSERT INTO book VALUES (1, 'Emma', 1815, 7.5), (2, 'Ulysses', 1922, 9), (3, 'Orlando', 1928, 9),
            (4, CAST(X'ff41' AS TEXT), 1928, NULL);"""
        )
    connection.close()
    return path


@pytest.mark.parametrize(("one", "other"), SAME)
def test_sets_match(one, other):
    assert sql_grade.exact_set_match(one, other, LIBRARY) and sql_grade.exact_set_match(other, one, LIBRARY)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_sets_differ(one, other):
    assert sql_grade.exact_set_match(one, one, LIBRARY) and sql_grade.exact_set_match(other, other, LIBRARY)
    assert not sql_grade.exact_set_match(one, other, LIBRARY) and not sql_grade.exact_set_match(other, one, LIBRARY)


def test_having_without_group_is_a_word_only():
    """As in the evaluator, which compares HAVING with GROUP BY."""
    one = "SELECT count(*) FROM book HAVING count(*) > 3"
    assert sql_grade.exact_set_match(one.replace("> 3", "< 3"), one, LIBRARY)
    assert not sql_grade.exact_set_match("SELECT count(*) FROM book", one, LIBRARY)


@pytest.mark.parametrize("answer", WRONG)
def test_a_wrong_answer_is_false_and_no_error(library, answer):
    gold = "SELECT id FROM book"
    assert not sql_grade.exact_set_match(answer, gold, LIBRARY) and not sql_grade.exact_set_match(gold, answer, LIBRARY)
    assert not sql_grade.execution_match(answer, gold, library)
    assert not sql_grade.execution_match(gold, answer, library)


def test_a_failure_is_the_answers_but_not_the_gold_querys(monkeypatch):
    def read(text, schema):
        if text == "unforeseen":
            raise AttributeError(text)
        return sql.read(text, schema)

    monkeypatch.setattr(sql_grade, "read", read)
    gold = "SELECT id FROM book"
    assert not sql_grade.exact_set_match("unforeseen", gold, LIBRARY)
    with pytest.raises(AttributeError):
        sql_grade.exact_set_match(gold, "unforeseen", LIBRARY)


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("SELECT id FROM book ORDER BY id DESC", "SELECT id FROM book", True),
        ("SELECT id FROM book ORDER BY id DESC", "SELECT id FROM book ORDER BY id", False),
        ("SELECT id FROM book ORDER BY price, id DESC", "SELECT id FROM book ORDER BY price", False),
        ("SELECT id FROM book WHERE year < 1900 OR year > 1900", "SELECT id FROM book", True),
        ("SELECT price FROM book", "SELECT DISTINCT price FROM book", False),
        ("SELECT title, year FROM book", "SELECT year, title FROM book", True),
        ("SELECT year, year FROM book", "SELECT year, id FROM book", False),
        ("SELECT year, id FROM book", "SELECT year, year FROM book", False),
        ("SELECT year FROM book", "SELECT year, id FROM book", False),
        ("SELECT year, id FROM book", "SELECT year FROM book", False),
        ("SELECT id FROM book UNION ALL SELECT 9", "SELECT id FROM book", False),
        (
            "SELECT 1928, 4 UNION SELECT 1815, 3",
            "SELECT 1928, 3 UNION SELECT 1815, 4",
            False,
        ),  # columns alone are
        ("SELECT 9 FROM book WHERE id = 2", "SELECT price FROM book WHERE id = 2", True),  # 9 is 9.0
        ("SELECT id FROM book JOIN book AS b ON 1", "SELECT id FROM book", False),
        ("SELECT id FROM book WHERE id > 9", "SELECT title FROM book WHERE id > 8", False),  # both return nothing
        ("SELECT id FROM book WHERE id > 9", "SELECT title FROM book", False),
    ],
)
def test_rows_say_whether_queries_are_the_same(library, answer, gold, same):
    assert sql_grade.execution_match(answer, gold, library) is same


@pytest.mark.parametrize(
    "answer",
    [
        "DELETE FROM book",
        "CREATE TABLE shelf (id)",
        "PRAGMA user_version = 3",
        "ATTACH '{other}' AS other",
        "SELECT length(zeroblob(999999999))",
    ],
)
def test_an_answer_changes_nothing_and_reaches_no_other_file(library, answer):
    before, other = library.read_bytes(), library.with_name("other.sqlite")
    with pytest.raises(sqlite3.Error):
        sql_grade.run(library, answer.replace("{other}", str(other)))
    assert library.read_bytes() == before and not other.exists()


def test_a_database_in_wal_mode_is_read_and_gets_no_file_beside_it(library):
    with contextlib.closing(sqlite3.connect(library)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    assert len(sql_grade.run(library, "SELECT id FROM book")) == 4
    assert [path.name for path in library.parent.iterdir()] == [library.name]
    with contextlib.closing(sqlite3.connect(library)) as connection:  # somebody writes
        connection.execute("DELETE FROM book WHERE id = 1")
        connection.commit()
        assert len(sql_grade.run(library, "SELECT id FROM book")) == 3


def test_a_table_has_a_row_whatever_its_name_and_none_if_it_cannot_be_read(library):
    with contextlib.closing(sqlite3.connect(library)) as connection:
        connection.executescript(
            """CREATE TABLE "a ""b" (id); INSERT INTO "a ""b" VALUES (1); CREATE TABLE bare (id);"""
        )
    held = {name: sql_grade.has_row(library, name) for name in ("book", 'a "b', "bare", "gone")}
    assert held == {"book": True, 'a "b': True, "bare": False, "gone": False}


def test_an_answer_without_end_is_stopped(library):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    start = time.monotonic()
    assert not sql_grade.execution_match(endless, "SELECT id FROM book", library, seconds=0.05)
    assert time.monotonic() - start < 2
    assert len(sql_grade.run(library, endless.replace("max(i)", "i"), rows=5)) == 5


def test_a_result_that_comes_too_late_is_refused(library, monkeypatch):
    """SQLite asks for the time between its steps, of which a call of a function is one."""
    monkeypatch.setattr(sql_grade.time, "monotonic", iter((0.0, 9.0)).__next__)
    with pytest.raises(sqlite3.OperationalError, match="longer than 5.0 seconds"):
        sql_grade.run(library, "SELECT id FROM book")


def test_a_text_is_refused_on_which_a_function_would_run_long(library):
    with pytest.raises(sqlite3.Error, match="too big"):
        sql_grade.run(library, "SELECT replace(hex(zeroblob(30000)), '0', 'a') LIKE '%a%a%b'")


def test_many_equal_columns_are_compared_in_no_time(library):
    start = time.monotonic()
    assert not sql_grade.execution_match(f"SELECT {'1, ' * 20}3", f"SELECT {'1, ' * 20}2", library)
    assert sql_grade.execution_match(f"SELECT 3, {'1, ' * 20}2", f"SELECT {'1, ' * 20}2, 3", library)
    assert time.monotonic() - start < 2


def test_text_that_is_not_utf_8_is_read(library):
    assert sql_grade.run(library, "SELECT title FROM book WHERE id = 4") == [("\ufffdA",)]


def test_the_reason_is_told():
    with pytest.raises(sql.NotComparable, match="no such column"):
        sql.read("SELECT isbn FROM book", LIBRARY)
