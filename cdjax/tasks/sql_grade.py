"""Whether an answer is the gold query: by the components of both, or by what both return.

In: two texts, with a Schema or a database file. Out: bool (spider.py). What is wrong with an answer never raises.
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
LENGTH = 50_000  # bytes of one text or blob at most: one call of a function on it is not stopped
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
FAILURES = (sqlite3.Error, sqlite3.Warning, sqlglot.errors.SqlglotError, ValueError, RecursionError, MemoryError)


def exact_set_match(answer: str, gold: str, schema: Schema) -> bool:
    """Whether both have the same components by the rules of Spider's evaluator, values and DISTINCT disregarded.

    False where either is not SQL or outside of Spider's grammar.
    """
    try:
        wanted = read(gold, schema)
    except NotComparable:
        return False
    try:
        given = read(answer, schema)
    except Exception:  # whatever a model writes, grading it must not end a run
        return False
    return _match(given, wanted)


def execution_match(answer: str, gold: str, database: Path, seconds: float = SECONDS) -> bool:
    """Whether both return the same rows, in the same order if the gold query has ORDER BY; columns in any order.

    False where either does not run or takes longer than `seconds`, and where the gold query returns no row: every
    answer that returns none would be right.
    """
    try:
        wanted = run(database, gold, seconds)
        given = run(database, answer, seconds, rows=len(wanted) + 1)
        ordered = bool(sqlglot.parse_one(gold, read="sqlite").args.get("order"))
    except FAILURES:
        return False
    given, wanted = list(zip(*given, strict=True)), list(zip(*wanted, strict=True))
    return bool(wanted) and len(given) == len(wanted) and _same(given, wanted, ordered)


def run(database: Path, query: str, seconds: float = SECONDS, rows: int | None = None) -> list[tuple[Any, ...]]:
    """The first `rows` rows of what the query returns, or all. The file is only read, and no other file can be.

    Raises sqlite3.Error, sqlite3.Warning or ValueError for what does not run, or not in `seconds`.
    """
    deadline = time.monotonic() + seconds
    # Unless told that nobody writes, SQLite puts files of its own beside a database in WAL mode.
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
        found = list(itertools.islice(cursor, rows))
    if time.monotonic() > deadline:
        raise sqlite3.OperationalError(f"it took longer than {seconds} seconds")
    return found


def has_row(database: Path, table: str) -> bool:
    """Whether the table has a row; False also where it cannot be read, as one of an extension."""
    name = table.replace('"', '""')
    try:
        return bool(run(database, f'SELECT 1 FROM "{name}"', rows=1))
    except sqlite3.Error:
        return False


def _same(given: Sequence[Any], wanted: Sequence[Any], ordered: bool, order: tuple[int, ...] = ()) -> bool:
    """Whether the given columns can be put in some order, which begins with `order`, so that all rows are the same."""
    if len(order) == len(wanted):
        return True
    collect = list if ordered else Counter
    goal = collect(zip(*wanted[: len(order) + 1], strict=True))
    left = {given[index]: index for index in range(len(given)) if index not in order}  # of equal columns, one
    return any(
        collect(zip(*(given[index] for index in one), strict=True)) == goal and _same(given, wanted, ordered, one)
        for one in ((*order, index) for index in left.values())
    )


def _match(given: Query, gold: Query) -> bool:
    """Clauses as sets; but ORDER BY, and GROUP BY with its HAVING, as they stand."""
    return (
        Counter(given.select) == Counter(gold.select)
        and Counter(given.tables) == Counter(gold.tables)
        and Counter(given.where.conditions) == Counter(gold.where.conditions)
        and set(given.where.connectors) == set(gold.where.connectors)
        and given.group == gold.group
        and (given.having == gold.having or not gold.group)
        and (given.order, given.descending) == (gold.order, gold.descending)
        and _keywords(given) == _keywords(gold)
        and _compound_match(given, gold)
    )


def _compound_match(given: Query, gold: Query) -> bool:
    if given.compound is None or gold.compound is None:
        return given.compound is gold.compound
    return given.compound[0] == gold.compound[0] and _match(given.compound[1], gold.compound[1])


def _keywords(query: Query) -> set[str]:
    """Words that count wherever they are, also in ON, whose conditions are not compared otherwise."""
    filters = (query.joins, query.where, query.having)
    conditions = [condition for one in filters for condition in one.conditions]
    found = {condition.operator for condition in conditions} & {"in", "like"}
    found |= {"not" for condition in conditions if condition.negated}
    found |= {"or" for one in filters if "or" in one.connectors}
    return found | {word for word, part in (("having", query.having.conditions), ("limit", query.limit)) if part}
