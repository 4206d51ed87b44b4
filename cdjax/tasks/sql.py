"""A SQL query -> the components that Spider's evaluator compares.

In: text, Schema. Out: Query (sql_grade.py). Components and grammar are those of Spider (Yu et al., arXiv 1809.08887)
and its evaluator, evaluation.py of github.com/taoyds/spider: and/or without parentheses, plain joins, five aggregates,
arithmetic between columns. A query outside of the grammar is wrong for the evaluator, and raises NotComparable in this
module. A few more queries are NotComparable: those that SQLite cannot read (text after a semicolon, a missing comma or
condition, a SELECT in parentheses), and those with OFFSET, with sums as values, or with values or tables in
parentheses. An alias is valid in its SELECT; for the evaluator the last definition of an alias in the text is valid
everywhere.
"""

import contextlib
import dataclasses
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlglot
from sqlglot import exp

CLAUSES = ("expressions", "distinct", "from_", "joins", "where", "group", "having", "order", "limit")
AGGREGATES = {exp.Count: "count", exp.Max: "max", exp.Min: "min", exp.Sum: "sum", exp.Avg: "avg"}
ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
COMPARISONS = {exp.EQ: "=", exp.NEQ: "!=", exp.GT: ">", exp.LT: "<", exp.GTE: ">=", exp.LTE: "<="}
NEGATABLE = {exp.In: "in", exp.Like: "like", exp.Between: "between", exp.Is: "is"}
OPERANDS = ("expression", "query", "low", "high")
CONNECTORS = {exp.And: "and", exp.Or: "or"}
COMPOUNDS = {exp.Union: "union", exp.Intersect: "intersect", exp.Except: "except"}

VALUE = re.compile(r"""'[^'"]*'|"[^'"]*\"""")
# Text that Spider's evaluator cannot read, once values are question marks: it splits at spaces and at "(),<>!;".
UNREADABLE = re.compile(
    r"""["'`\[]|\w\?|\?[\w?]  # a quote that is not around a whole value
    |--|/\*|<>|==|\b0x
    |\b(ALL|NULLS)\b|\bNOT\s+(?!(IN|LIKE|BETWEEN)\b)
    |[\w?][-+*/=]|[-+*/=]\?|[*/=]\w|[-+][^\W\d]|=[-+]|[<>=]\s*-\s|\s\.(?!\d)|\.\s""",
    re.IGNORECASE | re.VERBOSE,
)
UNFINISHED = ("syntax error", "incomplete input", "unrecognized token")  # in SQLite's messages for unreadable text

Node = Any  # of sqlglot's tree


class NotComparable(Exception):
    """A text is not SQL, uses a name that the schema does not have, or is outside the grammar."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """A database's names, in lower case."""

    tables: Mapping[str, Sequence[str]]  # table -> its columns
    keys: Mapping[str, str]  # "table.column" -> the representative of all columns that foreign keys link to it


@dataclasses.dataclass(frozen=True)
class Condition:
    """`left [not] operator operands`; an operand is a nested query, the text of a value, or None for any value."""

    negated: bool
    operator: str
    left: str
    operands: tuple["Query | str | None", ...]


@dataclasses.dataclass(frozen=True)
class Filter:
    """The conditions of ON, WHERE or HAVING in order, and each "and" or "or" between them."""

    conditions: tuple[Condition, ...]
    connectors: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Query:
    """A SELECT, and the query that a set operation joins to it. A column is "table.column" or "*"."""

    select: tuple[str, ...]
    distinct: bool
    tables: tuple["Query | str", ...]
    joins: Filter
    where: Filter
    group: tuple[str, ...]
    having: Filter
    order: tuple[str, ...]
    descending: bool  # the last direction in the text, which is compared for all
    limit: str
    compound: tuple[str, "Query"] | None = None  # "union", "intersect" or "except", and the query that follows it


def schema(tables: Mapping[str, Any]) -> Schema:
    """The Schema of an entry of Spider's tables.json; columns are linked as Spider's evaluator links them."""
    names = [name.lower() for name in tables["table_names_original"]]
    columns = [(names[table] if table >= 0 else "", name.lower()) for table, name in tables["column_names_original"]]
    groups: list[set[int]] = []
    for pair in tables["foreign_keys"]:
        # A pair joins the first group that it touches; two groups that it links are not merged.
        joined = next((group for group in groups if group & set(pair)), None)
        if joined is None:
            groups.append(set(pair))
        else:
            joined.update(pair)
    return Schema(
        tables={name: [column for table, column in columns if table == name] for name in names},
        keys={".".join(columns[i]): ".".join(columns[min(group)]) for group in groups for i in group},
    )


def read(text: str, schema: Schema) -> Query:
    """The query's components, without values and DISTINCT; columns linked by foreign keys have one name.

    A query nested in a condition keeps DISTINCT and its column names, and a query in FROM keeps its values too. Raises
    NotComparable.
    """
    if not text.lstrip().casefold().startswith("select"):
        raise NotComparable("not a SELECT", text)
    _check_text(text)
    try:
        tree = sqlglot.parse_one(text, read="sqlite")
        _check_tree(tree, text, schema)
        tables = tuple(f"{table}." for table in _names(_chain(tree)[0]).values())
        keys = {column: key for column, key in schema.keys.items() if column.startswith(tables)}
        return _Reader(schema, keys, distinct=False, values=False).compound(tree)
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise NotComparable("not SQL", error) from None


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads a query's components; `keys`, `distinct` and `values` depend on where the query is nested, see `read`."""

    schema: Schema
    keys: Mapping[str, str]
    distinct: bool
    values: bool
    tables: tuple[str, ...] = ()  # of the SELECT that is being read
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # its aliases and the outer queries' -> table

    def compound(self, tree: Node) -> Query:
        *before, last = _chain(tree)
        query = self.query(last)
        while before:
            *before, select, operator = before
            query = dataclasses.replace(self.query(select), compound=(operator, query))
        return query

    def query(self, select: Node) -> Query:
        _allow(select, CLAUSES)
        names = _names(select)
        if unknown := set(names.values()) - set(self.schema.tables):
            raise NotComparable("no such table", unknown)
        return dataclasses.replace(self, tables=tuple(names.values()), names={**self.names, **names}).clauses(select)

    def clauses(self, select: Node) -> Query:
        derived = dataclasses.replace(self, keys={}, distinct=True, values=True)
        order = _list(select, "order")
        directions = [term.args["desc"] for term in order if term.args.get("desc") is not None]
        return Query(
            select=tuple(self.item(node) for node in select.expressions),
            distinct=self.distinct and bool(select.args.get("distinct")),
            tables=tuple(
                source.name.lower() if isinstance(source, exp.Table) else derived.compound(source)
                for source in _sources(select)
            ),
            joins=self.filter(join.args.get("on") for join in select.args.get("joins") or ()),
            where=self.filter([select.args.get("where")]),
            group=self.all(_list(select, "group")),
            having=self.filter([select.args.get("having")]),
            order=self.all(term.this for term in order),
            descending=bool(directions and directions[-1]),
            limit=_limit(select),
        )

    def filter(self, trees: Iterable[Node]) -> Filter:
        parts: list[Any] = []
        for tree in trees:
            if tree and not isinstance(tree, exp.Boolean):  # TRUE is what sqlglot puts where a JOIN has no ON
                parts += ["and", *_flat(tree)]
        nodes: list[Node] = []
        connectors: list[str] = []
        for connector, node in zip(parts[::2], parts[1::2], strict=True):
            # Spider's evaluator ignores a condition that "or" joins to a comparison with a column.
            if connector != "or" or not _compares_columns(nodes[-1]):
                nodes.append(node)
                connectors.append(connector)
        return Filter(tuple(self.condition(node) for node in nodes), tuple(connectors[1:]))

    def condition(self, node: Node) -> Condition:
        negated = isinstance(node, exp.Not)
        node = node.this if negated else node
        operator = NEGATABLE.get(type(node)) or (not negated and COMPARISONS.get(type(node)))
        operands = [node.args[part] for part in OPERANDS if node.args.get(part)] + node.expressions
        if not operator or (operator == "in" and len(operands) > 1):
            raise NotComparable("not a condition", node)
        return Condition(
            negated=negated or bool(node.args.get("negate")),
            operator=operator,
            left=self.value(node.this),
            operands=tuple(self.operand(operand) for operand in operands),
        )

    def operand(self, node: Node) -> Query | str | None:
        if isinstance(node, exp.Subquery):
            return dataclasses.replace(self, keys={}, distinct=True).compound(node)
        if node.find(*AGGREGATES):
            raise NotComparable("an aggregate as operand", node)
        number = node.this if isinstance(node, exp.Neg) else node
        text = f"'{node.name}'" if _is_text(node) else node.sql() if number.is_number else self.value(node)
        return text if self.values else None

    def all(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        return tuple(self.value(node) for node in nodes)

    def item(self, node: Node) -> str:
        """A value of SELECT: a lone aggregate without parentheses, arithmetic that begins with one in parentheses."""
        inner = node.unnest()
        first = inner.this if type(inner) in ARITHMETIC else inner
        if type(first) in AGGREGATES and isinstance(node, exp.Paren) is (first is inner):
            raise NotComparable("parentheses", node)
        return self.value(node)

    def value(self, node: Node) -> str:
        """A column, an aggregate of a column, or two of them with an operator between them."""
        node = node.unnest() if node else exp.Null()
        if operator := ARITHMETIC.get(type(node)):
            if {type(node.this.unnest()), type(node.expression.unnest())} & set(ARITHMETIC):
                raise NotComparable("two operators", node)
            return f"{self.value(node.this)} {operator} {self.value(node.expression)}"
        if aggregate := AGGREGATES.get(type(node)):
            distinct = isinstance(node.this, exp.Distinct)
            columns = node.this.expressions if distinct else [node.this]
            if node.expressions or len(columns) != 1:
                raise NotComparable("not one column", node)
            return f"{aggregate}({'distinct ' if distinct and self.distinct else ''}{self.value(columns[0])})"
        return self.column(node)

    def column(self, node: Node) -> str:
        if isinstance(node, exp.Star):
            return "*"
        if not isinstance(node, exp.Column) or node.args.get("db") or _quoted(node):
            raise NotComparable("not a column", node)
        name, table = node.name.lower(), node.table.lower()
        for source in [self.names.get(table, table)] if table else self.tables:
            if name in self.schema.tables.get(source, ()):
                return self.keys.get(f"{source}.{name}", f"{source}.{name}")
        raise NotComparable("no such column", node)


def _check_text(text: str) -> None:
    """Raises NotComparable for text that sqlglot would repair, but SQLite or Spider's evaluator cannot read."""
    if match := UNREADABLE.search(VALUE.sub("?", text)):
        raise NotComparable("outside of the grammar", match[0])
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        try:
            connection.execute(f"EXPLAIN {text}")
        except sqlite3.OperationalError as error:  # mostly a missing table: the database is empty
            if any(words in str(error) for words in UNFINISHED):
                raise NotComparable("not SQL", error) from None
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise NotComparable("not SQL", error) from None


def _check_tree(tree: Node, text: str, schema: Schema) -> None:
    """Raises NotComparable for an alias without AS and a sign "+", which the tree alone does not show.

    Also for an alias that is a table's name, which Spider's evaluator refuses.
    """
    bare = VALUE.sub("?", text)
    names = [alias.name.lower() for alias in tree.find_all(exp.TableAlias)]
    if len(names) != len(re.findall(r"\bAS\b", bare, re.IGNORECASE)) or set(names) & set(schema.tables):
        raise NotComparable("not an alias", names)
    if bare.count("+") != len(list(tree.find_all(exp.Add))):
        raise NotComparable("a sign", text)


def _chain(tree: Node) -> list[Any]:
    """SELECT, "union", SELECT, ... in the text's order; ORDER BY and LIMIT at the end belong to the last SELECT."""
    if isinstance(tree, exp.Subquery) and isinstance(tree.this, exp.Subquery):
        raise NotComparable("a query in two parentheses", tree)
    tree = tree.unnest()
    if isinstance(tree, exp.Select):
        return [tree]
    if type(tree) not in COMPOUNDS or not tree.args["distinct"]:
        raise NotComparable("not a query", tree)
    _allow(tree, ("this", "expression", "distinct", "order", "limit"))
    chain = [*_chain(tree.this), COMPOUNDS[type(tree)], *_chain(tree.expression)]
    chain[-1] = chain[-1].copy()
    for clause in ("order", "limit"):
        if tree.args.get(clause):
            chain[-1].set(clause, tree.args[clause])
    return chain


def _sources(select: Node) -> list[Node]:
    """The tables and the nested queries that the SELECT reads."""
    if not select.args.get("from_"):
        raise NotComparable("no FROM", select)
    joins = select.args.get("joins") or []
    for join in joins:
        _allow(join, ("this", "on"))
    sources = [select.args["from_"].this, *(join.this for join in joins)]
    for source in sources:
        _allow(source, ("this", "alias") if isinstance(source, exp.Table) else ("this",))
        if isinstance(source, exp.Table) and _quoted(source):
            raise NotComparable("a name in quotes", source)
    return sources


def _names(select: Node) -> dict[str, str]:
    """The alias of each table of the SELECT, or the table's name where it has none -> the table."""
    tables = (source for source in _sources(select) if isinstance(source, exp.Table))
    return {table.alias_or_name.lower(): table.name.lower() for table in tables}


def _list(select: Node, clause: str) -> list[Node]:
    node = select.args.get(clause)
    if node:
        _allow(node, ("expressions",))
    return node.expressions if node else []


def _limit(select: Node) -> str:
    node = select.args.get("limit")
    if node and not (isinstance(node, exp.Limit) and node.expression.is_int):
        raise NotComparable("not a limit", node)
    return node.expression.name if node else ""


def _flat(tree: Node) -> list[Any]:
    """Condition, "and", condition, ... in the text's order."""
    tree = tree.this if isinstance(tree, exp.Where | exp.Having) else tree
    connector = CONNECTORS.get(type(tree))
    return [*_flat(tree.this), connector, *_flat(tree.expression)] if connector else [tree]


def _is_text(node: Node) -> bool:
    """Whether the node is a text; SQLite reads a name in double quotes as a text if no column has this name."""
    return node.is_string or (isinstance(node, exp.Column) and not node.table and node.this.args.get("quoted", False))


def _quoted(node: Node) -> bool:
    return any(name.args.get("quoted") for name in node.find_all(exp.Identifier))


def _compares_columns(node: Node) -> bool:
    return isinstance(operand := node.args.get("expression"), exp.Column) and not _is_text(operand)


def _allow(node: Node, parts: Sequence[str]) -> None:
    if other := {name for name, part in node.args.items() if part} - set(parts):
        raise NotComparable("outside of the grammar", other)
