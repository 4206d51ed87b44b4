"""Spider (Yu et al., arXiv 1809.08887): questions about one database -> SQL.

In: a folder with tables.json, dev.json or train_spider.json, and for execution the databases. Out: Task.
"""

import difflib
import functools
import hashlib
import itertools
import json
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cdjax.config import Demonstration, UserError
from cdjax.tasks.sql import Schema
from cdjax.tasks.sql_grade import exact_set_match, execution_match, run
from cdjax.tasks.task import Example, Task, normalized

QUESTIONS = ("dev.json", "train_spider.json", "train_others.json")
DATABASES = ("database", "train_database")
METRICS = ("exact_set_match", "execution")
DEMONSTRATIONS = 8  # the paper's
VALIDATION, HELD_OUT = 0.2, 0.1  # of the queries that no demonstration shows; the others are the test
SALT = 8

Row = dict[str, Any]


def load(name: str, data_dir: str) -> Task:
    """The task "spider:DATABASE" of exact set match, or "spider:DATABASE:execution".

    All questions that one query answers are in the same part, so no query that is scored is shown. The pool has the
    other questions of the queries shown, and those whose own query does not score 1: it is outside of Spider's
    grammar, or does not run. Raises UserError for what cannot be found or read, and where queries are too few.
    """
    database, metric = _named(name)
    folder = Path(data_dir)
    tables = _tables(folder, database)
    if metric == "execution":
        match = functools.partial(execution_match, database=_file(folder, database, tables))
    else:
        match = functools.partial(exact_set_match, schema=schema(tables))

    def grade(example: Example, answer: str) -> float:
        return float(match(answer, example.output))

    queries = _by_query(_examples(folder, database))
    scored = [examples for examples in queries if grade(examples[0], examples[0].output)]
    shown, rest = scored[:DEMONSTRATIONS], scored[DEMONSTRATIONS:]
    if len(rest) < 3:
        raise UserError(
            f"database {database!r} has {len(scored)} different queries to score by {metric}; "
            f"{DEMONSTRATIONS + 3} are needed to show {DEMONSTRATIONS} and hold some out; choose another"
        )
    validation, held_out = (max(1, round(len(rest) * share)) for share in (VALIDATION, HELD_OUT))
    unscored = [examples[1:] for examples in shown] + [examples for examples in queries if examples not in scored]
    return Task(
        name=name,
        metric=metric,
        grade=grade,
        definition=definition(tables),
        demonstrations=tuple(Demonstration(first.input, first.output) for first, *_ in shown),
        validation=tuple(itertools.chain(*rest[:validation])),
        held_out=tuple(example.input for example in itertools.chain(*rest[validation:][:held_out])),
        test=tuple(itertools.chain(*rest[validation + held_out :])),
        pool=tuple(example.input for example in itertools.chain(*unscored)),
        solve={example.input: example.output for example in itertools.chain(*queries)}.get,
    )


def definition(tables: Row) -> str:
    """The schema for a prompt: a line for each table, as "song (id, title)", and one for each foreign key."""
    names = [name for name in tables["table_names_original"]]
    columns = tables["column_names_original"]
    lines = [
        f"{name} ({', '.join(column for table, column in columns if table == index)})"
        for index, name in enumerate(names)
    ]
    said = [f"{names[table]}.{column}" if table >= 0 else column for table, column in columns]
    return "\n".join(lines + [f"{said[one]} = {said[other]}" for one, other in tables["foreign_keys"]])


def schema(tables: Row) -> Schema:
    """The names of one database, and the columns that its foreign keys link, grouped as Spider's evaluator does."""
    names = [name.lower() for name in tables["table_names_original"]]
    columns = [(names[table] if table >= 0 else "", column.lower()) for table, column in tables["column_names_original"]]
    groups: list[set[int]] = []
    for pair in tables["foreign_keys"]:
        joined = next((group for group in groups if group & set(pair)), None)  # the first group only: none are merged
        if joined is None:
            groups.append(set(pair))
        else:
            joined.update(pair)
    return Schema(
        tables={name: [column for table, column in columns if table == name] for name in names},
        keys={".".join(columns[index]): ".".join(columns[min(group)]) for group in groups for index in group},
    )


def _named(name: str) -> tuple[str, str]:
    _, database, metric, *more = [*name.split(":"), "", ""]
    if not database or metric not in ("", *METRICS) or any(more):
        raise UserError(f"task {name!r}: wanted spider:DATABASE or spider:DATABASE:METRIC with {' or '.join(METRICS)}")
    return database, metric or METRICS[0]


def _tables(folder: Path, database: str) -> Row:
    fields = ("db_id", "table_names_original", "column_names_original", "foreign_keys")
    rows = {row["db_id"]: row for row in _read(folder / "tables.json", fields)}
    if database not in rows:
        near = difflib.get_close_matches(database, rows, n=5, cutoff=0.4)
        raise UserError(
            f"{folder / 'tables.json'} has no database {database!r}"
            + (f"; near it are {', '.join(near)}" if near else f" among its {len(rows)}")
        )
    return rows[database]


def _examples(folder: Path, database: str) -> list[Example]:
    """Every question once; of a question that is asked twice, the query that sorts first."""
    paths = [folder / name for name in QUESTIONS if (folder / name).is_file()]
    if not paths:
        raise UserError(f"{str(folder)!r} has no questions: put {' or '.join(QUESTIONS)} there, as Spider ships them")
    rows = [row for path in paths for row in _read(path, ("db_id", "question", "query")) if row["db_id"] == database]
    examples = sorted(((row["question"].strip(), _on_one_line(row["query"])) for row in rows), reverse=True)
    return [Example(*pair) for pair in {normalized(question): (question, query) for question, query in examples}.values()]


def _by_query(examples: Iterable[Example]) -> list[list[Example]]:
    """The examples of each query; queries, and questions within one, in the order of their hashes."""
    queries: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda example: _hash(example.input)):
        queries.setdefault("".join(example.output.casefold().split()).rstrip(";"), []).append(example)
    return [queries[key] for key in sorted(queries, key=_hash)]


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"{SALT} {text}".encode()).digest()


def _on_one_line(query: str) -> str:
    return re.sub(r"""("[^"]*"|'[^']*')|\s+""", lambda match: match[1] or " ", query).strip()


def _file(folder: Path, database: str, tables: Row) -> Path:
    paths = [folder / one / database / f"{database}.sqlite" for one in DATABASES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(f"execution needs the database: there is neither {' nor '.join(map(str, paths))}")
    try:
        filled = any(run(path, f'SELECT 1 FROM "{table}" LIMIT 1') for table in tables["table_names_original"])
    except sqlite3.Error as error:
        raise UserError(f"{path} is not the database that tables.json describes: {error}") from None
    if not filled:
        raise UserError(f"no table of {path} has a row: all queries would return the same; use exact set match")
    return path


def _read(path: Path, fields: tuple[str, ...]) -> list[Row]:
    try:
        rows = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}; data_dir must be Spider's folder") from None
    except ValueError as error:  # of JSON or of UTF-8
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: wanted a list of objects, got a {type(rows).__name__}")
    for index, row in enumerate(rows):
        if missing := [field for field in fields if not isinstance(row, dict) or field not in row]:
            raise UserError(f"{path}, row {index}: no {', '.join(missing)}")
    return rows
