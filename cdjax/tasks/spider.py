"""Spider (Yu et al., arXiv 1809.08887): questions about a database -> a task whose answers are SQL.

In: a folder with tables.json, dev.json or train_spider.json, and for execution the databases; or the same rows as
prepared by builders/spider.py. Out: Rows, Task.
"""

import functools
import hashlib
import itertools
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cdjax.errors import UserError
from cdjax.tasks.files import read_json
from cdjax.tasks.task import Demonstration, Example, Row, Rows, Task, named, normalized

QUESTIONS = {"dev.json": "dev", "train_spider.json": "train", "train_others.json": "train"}  # file -> split
DATABASES = ("database", "train_database")
METRICS = ("exact_set_match", "execution")
DEMONSTRATIONS = 8  # the paper's
VALIDATION, HELD_OUT = 0.2, 0.1  # share of the queries that no demonstration shows; the other queries are the test
LEAST = DEMONSTRATIONS + 3
QUESTION = {"db_id": str, "question": str, "query": str}
TABLES = {"db_id": str, "table_names_original": list, "column_names_original": list, "foreign_keys": list}
SEED = 0  # of the hashes that order questions and queries


def names(folder: Path) -> list[str]:
    """The databases that the folder has questions about."""
    return sorted({row["db_id"] for row in _questions(folder)})


def read(folder: Path, part: str) -> Rows:
    """The questions about the database that `part` names, each with its entry in tables.json and its file, if any.

    Raises UserError if there is no such database, and for files of another form.
    """
    name = named(part, names(folder), str(folder))
    path = folder / "tables.json"
    tables = next((row for row in _records(path, TABLES) if row["db_id"] == name), None)
    if tables is None:
        raise UserError(f"{path} says nothing of the database {name!r}")
    _check_tables(tables, f"{path}, database {name!r}")
    files = (folder / directory / name / f"{name}.sqlite" for directory in DATABASES)
    database = next((str(file.resolve()) for file in files if file.is_file()), "")
    shared = {"tables": json.dumps({field: tables[field] for field in TABLES}), "database": database}
    rows: Rows = {}
    for row in _questions(folder):
        if row["db_id"] == name:
            rows.setdefault(row["split"], []).append({"question": row["question"], "query": row["query"]} | shared)
    return rows


def task(name: str, rows: Rows) -> Task:
    """The task, graded by "exact_set_match" (the default) or "execution".

    All questions with the same query are in the same list, so that no query that is scored is shown or learned from.
    The pool has the other questions of the queries shown, and the questions whose gold query does not score 1 against
    itself: it is outside of Spider's grammar, does not run, or returns no row. Raises UserError if too few queries are
    left.
    """
    metric = ":".join(name.split(":")[2:]) or METRICS[0]
    if metric not in METRICS:
        raise UserError(f"task {name!r}: the metric after the colon must be {' or '.join(METRICS)}, got {metric!r}")
    first = next(row for split in rows.values() for row in split)
    tables = json.loads(first["tables"])
    match = _matcher(metric, tables, first["database"])
    queries = _by_query(_examples(row for split in rows.values() for row in split))
    scored = [examples for examples in queries if match(examples[0].output, examples[0].output)]
    if len(scored) < LEAST:
        raise UserError(
            f"task {name!r} has {len(scored)} different queries that score 1 by {metric}; {LEAST} are needed "
            f"to show {DEMONSTRATIONS} and hold some out: choose another database"
        )
    shown, rest = scored[:DEMONSTRATIONS], scored[DEMONSTRATIONS:]
    unscored = [examples[1:] for examples in shown] + [examples for examples in queries if examples not in scored]
    validation, held_out = (max(1, round(len(rest) * share)) for share in (VALIDATION, HELD_OUT))
    return Task(
        name=name,
        metric=metric,
        grade=lambda example, answer: float(match(answer, example.output)),
        definition=definition(tables),
        demonstrations=tuple(Demonstration(first.input, first.output) for first, *_ in shown),
        pool=tuple(example.input for example in itertools.chain(*unscored)),
        held_out=tuple(example.input for example in itertools.chain(*rest[:held_out])),
        validation=tuple(itertools.chain(*rest[held_out:][:validation])),
        test=tuple(itertools.chain(*rest[held_out + validation :])),
        solve={example.input: example for example in itertools.chain(*queries)}.get,
    )


def definition(tables: Row) -> str:
    """The schema for a prompt: a line for each table, as "song (id, title)", then one for each foreign key."""
    titles, columns = tables["table_names_original"], tables["column_names_original"]
    lines = [f"{title} ({', '.join(name for table, name in columns if table == i)})" for i, title in enumerate(titles)]
    keys = [[".".join((titles[columns[i][0]], columns[i][1])) for i in pair] for pair in tables["foreign_keys"]]
    return "\n".join([*lines, *map(" = ".join, keys)])


def _matcher(metric: str, tables: Row, database: str) -> Callable[[str, str], bool]:
    """The function of the metric that compares an answer with a gold query."""
    from cdjax.tasks import sql, sql_grade  # their parser takes a tenth of a second to import

    if metric == "exact_set_match":
        return functools.partial(sql_grade.exact_set_match, schema=sql.schema(tables))
    if not Path(database).is_file():
        where = f"it was {database}" if database else f"NAME/NAME.sqlite in {' or '.join(DATABASES)}"
        raise UserError(f"execution needs the SQLite file of {tables['db_id']!r}, which is not there: {where}")
    file = Path(database)
    try:
        titles = [title for (title,) in sql_grade.run(file, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    except sqlite3.Error as error:
        raise UserError(f"{database} is not a SQLite database that can be read: {error}") from None
    if not any(sql_grade.has_row(file, title) for title in titles):
        raise UserError(
            f"no table of {database} has a row that can be read, so that all queries would return the same; "
            "use exact_set_match"
        )
    return functools.partial(sql_grade.execution_match, database=file)


def _examples(rows: Iterable[Row]) -> list[Example]:
    """An example for each different question; a question with several queries has the one that sorts last."""
    pairs = sorted((row["question"].strip(), _on_one_line(row["query"])) for row in rows)
    return [Example(*pair) for pair in {normalized(pair[0]): pair for pair in pairs}.values()]


def _by_query(examples: Iterable[Example]) -> list[list[Example]]:
    """The examples of each query, space and letter case aside, in the order of hashes, not of the file."""
    queries: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda example: _hash(example.input)):
        queries.setdefault("".join(example.output.casefold().split()).rstrip(";"), []).append(example)
    return list(queries.values())


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"{SEED} {text}".encode()).digest()


def _on_one_line(query: str) -> str:
    return re.sub(r"""("[^"]*"|'[^']*')|\s+""", lambda match: match[1] or " ", query).strip()


def _questions(folder: Path) -> list[Row]:
    paths = [folder / name for name in QUESTIONS if (folder / name).is_file()]
    if not paths:
        raise UserError(f"{str(folder)!r} has no questions: {', '.join(QUESTIONS)}, as Spider ships them")
    rows = [row | {"split": QUESTIONS[path.name]} for path in paths for row in _records(path, QUESTION)]
    if not rows:
        raise UserError(f"{', '.join(map(str, paths))} has no question: wanted them as Spider ships them")
    return rows


def _check_tables(tables: Row, where: str) -> None:
    titles, columns, keys = (tables[field] for field in TABLES if field != "db_id")
    valid = {
        "table_names_original": all(isinstance(title, str) for title in titles),
        "column_names_original": all(_are(column, int, str) and -1 <= column[0] < len(titles) for column in columns),
        "foreign_keys": all(_are(key, int, int) and 0 <= min(key) <= max(key) < len(columns) for key in keys),
    }
    if wrong := [field for field, is_valid in valid.items() if not is_valid]:
        raise UserError(
            f"{where}: wanted tables as texts, columns as [number of the table or -1, text], and foreign keys as "
            f"[number of a column, number of a column]; not so is {wrong[0]}: {str(tables[wrong[0]])[:80]}"
        )


def _are(values: Any, *kinds: type) -> bool:
    return isinstance(values, list) and [type(value) for value in values] == list(kinds)


def _records(path: Path, fields: Mapping[str, type]) -> list[Row]:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: wanted a list of objects, got a {type(rows).__name__}")
    for i, row in enumerate(rows):
        values = row if isinstance(row, dict) else {}
        if wrong := [name for name, kind in fields.items() if type(values.get(name)) is not kind]:
            needed = ", ".join(f"a {fields[name].__name__} {name!r}" for name in wrong)
            raise UserError(f"{path}, row {i}: wanted an object with {needed}, got {str(row)[:80]}")
    return rows
