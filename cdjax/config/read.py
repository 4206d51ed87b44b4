"""Plain values (JSON, command-line text) -> typed frozen dataclasses, without unknown fields or wrong types.

In: a dataclass type and dicts, lists, numbers and text. Out: its instances, or a UserError with the dotted path.
Text is read as the value it spells: "3e-5", "true", "0,1,2", "none", a part's kind, or JSON for nested values.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Sequence
from typing import Any

from cdjax.errors import UserError
from cdjax.parts import Kinds

NAMES = {str: "text", int: "an integer", float: "a number", bool: "true or false", types.NoneType: "none"}


def convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`: str, int, float, bool, Literal, tuple[X, ...], X | None, or a dataclass of such fields.

    For `Annotated[Any, Kinds(...)]` it is the part whose "kind" the value has. Raises UserError for another value,
    with `where`, its dotted path.
    """
    origin = typing.get_origin(kind)
    if (kinds := kinds_of(kind)) is not None:
        return _part(kinds, value, where)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if origin is tuple:
        return _entries(kind, value, where)
    if origin is typing.Literal:
        if value in typing.get_args(kind):
            return value
        raise _mismatch(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        return _optional(kind, value, where)
    return _scalar(kind, value, where)


def assign(kind: Any, old: Any, path: Sequence[str], value: Any, where: str = "") -> Any:
    """A copy of `old` in which the value at `path` (field names and tuple indices) is `value`. Raises UserError."""
    if not path:
        return convert(kind, value, where)
    head, rest, below = path[0], path[1:], f"{where}.{path[0]}" if where else path[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = _inner(kind)
        old = convert(kind, {}, where) if old is None and dataclasses.is_dataclass(kind) else old
    if (kinds := kinds_of(kind)) is not None:
        if head == "kind" and not rest:
            return _another(kinds, old, value, where)
        if old is None:
            raise UserError(f"{where} is none, which has no {head}; give {where}.kind first")
        kind = type(old)
    if dataclasses.is_dataclass(kind):
        inner = _fields(kind, [head], where)[head]
        return dataclasses.replace(old, **{head: assign(inner, getattr(old, head), rest, value, below)})
    if typing.get_origin(kind) is not tuple:
        raise UserError(f"{where} is {describe(kind)}: it has no field {head!r}")
    if not head.isdecimal() or int(head) >= len(old):
        raise UserError(f"{where} has {len(old)} entries, there is no {head!r}; give the whole list as JSON")
    index, inner = int(head), typing.get_args(kind)[0]
    return (*old[:index], assign(inner, old[index], rest, value, below), *old[index + 1 :])


def describe(kind: Any) -> str:
    """The name of a type in an error, such as "an integer" or "one of 'none', 'dots', 'full'"."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(part) for part in parts)
    if isinstance(kind, Kinds):
        return f"a {kind.noun}"
    if (kinds := kinds_of(kind)) is not None:
        return f"a {kinds.noun} ({', '.join(kinds)})"
    if origin is tuple:
        return f"a list, each entry {describe(parts[0])}"
    if origin is not None:
        return " or ".join(describe(part) for part in parts)
    return NAMES.get(kind, f"a {kind.__name__}")


def kinds_of(kind: Any) -> Kinds | None:
    """The parts that a field of this type may hold; None for a field of plain values."""
    if typing.get_origin(kind) is not typing.Annotated:
        return None
    return next((note for note in typing.get_args(kind)[1:] if isinstance(note, Kinds)), None)


def _part(kinds: Kinds, value: Any, where: str) -> Any:
    """The part of an instance, a kind, or a dictionary with a "kind" and fields."""
    if isinstance(value, str):
        value = _json(value, kinds, where) if value.lstrip().startswith("{") else {"kind": value.strip()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {"kind": getattr(value, "kind", type(value).__name__)} | _shallow(value)
    if not isinstance(value, dict) or "kind" not in value:
        raise UserError(f'{where} must be a {kinds.noun} with a "kind" of {", ".join(kinds)}; got {value!r}')
    return _record(_class(kinds, value["kind"], where), {k: v for k, v in value.items() if k != "kind"}, where)


def _another(kinds: Kinds, old: Any, kind: Any, where: str) -> Any:
    """A part of another kind, with the values of the fields that both kinds have."""
    part = _class(kinds, kind, where)
    common = {field.name for field in dataclasses.fields(part)}
    values = {} if old is None else _shallow(old)
    return _record(part, {name: value for name, value in values.items() if name in common}, where)


def _class(kinds: Kinds, kind: Any, where: str) -> type:
    if kind in kinds:
        return kinds[kind]
    near = difflib.get_close_matches(str(kind), kinds, 1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    raise UserError(f"{where}.kind must be one of {', '.join(kinds)}, got {kind!r}{guess}")


def _shallow(part: Any) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def _record(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, kind):
        value = _shallow(value)
    value = _json(value, kind, where) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise _mismatch(kind, value, where)
    hints = _fields(kind, value, where)
    required = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in value]:
        raise UserError(f"{where or kind.__name__} lacks {', '.join(missing)}")
    prefix = f"{where}." if where else ""
    return kind(**{name: convert(hints[name], part, prefix + name) for name, part in value.items()})


def _fields(kind: Any, names: Any, where: str) -> dict[str, Any]:
    """The types of a dataclass's fields by name. Raises UserError if it lacks any of `names`."""
    types_of = typing.get_type_hints(kind, include_extras=True)
    hints = {field.name: types_of[field.name] for field in dataclasses.fields(kind)}
    for name in names:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, 1)
            guess = f" (did you mean {near[0]!r}?)" if near else ""
            of_kind = f" of kind {kind.kind}" if hasattr(kind, "kind") else ""
            known = ", ".join(sorted(hints)) or "none"
            raise UserError(f"{where or kind.__name__}{of_kind} has no field {name!r}{guess}; it has {known}")
    return hints


def _entries(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    inner = typing.get_args(kind)[0]
    if isinstance(value, str):
        text = value.strip()
        text = text[1:-1] if text.startswith("(") and text.endswith(")") else text  # "()" and "(1, 2)" as in Python
        nested = text.startswith("[") or (text and dataclasses.is_dataclass(inner))
        value = _json(text, kind, where) if nested else [part.strip() for part in text.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise _mismatch(kind, value, where)
    return tuple(convert(inner, part, f"{where}.{index}") for index, part in enumerate(value))


def _optional(kind: Any, value: Any, where: str) -> Any:
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    return convert(_inner(kind), value, where)


def _inner(kind: Any) -> Any:
    """X of `X | None`."""
    (inner,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return inner


def _scalar(kind: Any, value: Any, where: str) -> Any:
    read = _spelled(kind, value) if isinstance(value, str) else value
    if kind is float and type(read) is int:
        read = float(read)
    if type(read) is not kind or (isinstance(read, float) and not math.isfinite(read)):
        raise _mismatch(kind, value, where)
    return read


def _spelled(kind: Any, text: str) -> Any:
    """The value that the text spells, or the text if it spells none."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def _json(text: str, kind: Any, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} must be {describe(kind)}, as JSON; {text!r} is not: {error}") from None


def _mismatch(kind: Any, value: Any, where: str) -> UserError:
    return UserError(f"{where or 'the value'} must be {describe(kind)}, got {value!r}")
