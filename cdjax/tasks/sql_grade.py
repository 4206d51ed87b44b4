"""Grades of a SQL answer against the gold query: by the components of both, or by the rows that both return.

In: two texts, with a Schema or a database file. Out: bool (spider.py). No answer makes a grade raise an error.
"""

import contextlib
import itertools
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlglot

from cdjax.tasks.sql import NotComparable, Query, Schema, read

SECONDS = 5.0  # for one query
LENGTH = 50_000  # bytes of a text or blob at most: a call of a function on it cannot be interrupted
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
FAILURES = (sqlite3.Error, sqlite3.Warning, sqlglot.errors.SqlglotError, ValueError, RecursionError, MemoryError)


def exact_set_match(answer: str, gold: str, schema: Schema) -> bool:
    """Whether both have the same components by the rules of Spider's evaluator, values and DISTINCT disregarded.

    False if either is not SQL or is outside of Spider's grammar.
    """
    try:
        gold_query = read(gold, schema)
    except NotComparable:
        return False
    try:
        answer_query = read(answer, schema)
    except Exception:  # no text that a model writes may end a run
        return False
    return _match(answer_query, gold_query)


def execution_match(answer: str, gold: str, database: Path, seconds: float = SECONDS) -> bool:
    """Whether both return the same rows, in the same order if the gold query has ORDER BY; columns in any order.

    False if either does not run or takes longer than `seconds`, and if the gold query returns no row: every answer
    without a row would be right.
    """
    try:
        gold_rows = run(database, gold, seconds)
        rows = run(database, answer, seconds, rows=len(gold_rows) + 1)
        ordered = bool(sqlglot.parse_one(gold, read="sqlite").args.get("order"))
    except FAILURES:
        return False
    columns, gold_columns = list(zip(*rows, strict=True)), list(zip(*gold_rows, strict=True))
    return bool(gold_columns) and len(columns) == len(gold_columns) and _same(columns, gold_columns, ordered)


def run(database: Path, query: str, seconds: float = SECONDS, rows: int | None = None) -> list[tuple[Any, ...]]:
    """The first `rows` rows that the query returns, or all. It can only read, and only this file.

    Raises sqlite3.Error, sqlite3.Warning or ValueError if the query does not run, or not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    # Unless the file is declared immutable, SQLite puts files beside a database in WAL mode.
    written = any(Path(f"{database.resolve()}{suffix}").exists() for suffix in ("-wal", "-journal"))
    uri = f"{database.resolve().as_uri()}?mode=ro{'' if written else '&immutable=1'}"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LENGTH)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        cursor = connection.execute(query)
        if cursor.description is None:
            raise sqlite3.ProgrammingError("this is no query")
        result = list(itertools.islice(cursor, rows))
    if time.monotonic() > deadline:
        raise sqlite3.OperationalError(f"it took longer than {seconds} seconds")
    return result


def has_row(database: Path, table: str) -> bool:
    """Whether the table has a row; False also if it cannot be read, as a table of an extension."""
    name = table.replace('"', '""')
    try:
        return bool(run(database, f'SELECT 1 FROM "{name}"', rows=1))
    except sqlite3.Error:
        return False


def _same(columns: Sequence[Any], gold: Sequence[Any], ordered: bool, order: tuple[int, ...] = ()) -> bool:
    """Whether the columns have an order, which begins with `order`, in which all rows equal the gold rows.

    A depth-first search: an order is extended by a column only if the rows so far equal those of the gold columns.
    """
    if len(order) == len(gold):
        return True
    collect = list if ordered else Counter
    goal = collect(zip(*gold[: len(order) + 1], strict=True))
    # Equal columns are interchangeable: one of them is tried.
    left = {columns[index]: index for index in range(len(columns)) if index not in order}
    return any(
        collect(zip(*(columns[index] for index in longer), strict=True)) == goal
        and _same(columns, gold, ordered, longer)
        for longer in ((*order, index) for index in left.values())
    )


def _match(answer: Query, gold: Query) -> bool:
    """Whether both queries have the same clauses: as sets, but in order for ORDER BY, GROUP BY and HAVING."""
    return (
        Counter(answer.select) == Counter(gold.select)
        and Counter(answer.tables) == Counter(gold.tables)
        and Counter(answer.where.conditions) == Counter(gold.where.conditions)
        and set(answer.where.connectors) == set(gold.where.connectors)
        and answer.group == gold.group
        and (answer.having == gold.having or not gold.group)
        and (answer.order, answer.descending) == (gold.order, gold.descending)
        and _keywords(answer) == _keywords(gold)
        and _compound_match(answer, gold)
    )


def _compound_match(answer: Query, gold: Query) -> bool:
    if answer.compound is None or gold.compound is None:
        return answer.compound is gold.compound
    return answer.compound[0] == gold.compound[0] and _match(answer.compound[1], gold.compound[1])


def _keywords(query: Query) -> set[str]:
    """The keywords that are compared wherever they are, even in ON, whose conditions are not compared otherwise."""
    filters = (query.joins, query.where, query.having)
    conditions = [condition for part in filters for condition in part.conditions]
    keywords = {condition.operator for condition in conditions} & {"in", "like"}
    keywords |= {"not" for condition in conditions if condition.negated}
    keywords |= {"or" for part in filters if "or" in part.connectors}
    return keywords | {word for word, part in (("having", query.having.conditions), ("limit", query.limit)) if part}
