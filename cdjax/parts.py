"""Parts of an experiment: frozen dataclasses told apart by their `kind`, with bounds and refusals of their own.

A room lists its parts in one `Kinds`, a line each. A part's file is imported when the part is asked for, and imports
jax inside its methods: an experiment is read and checked without it.
"""

import dataclasses
import importlib
import math
from collections.abc import Iterator, Mapping
from typing import Any


class Kinds(Mapping[str, type]):
    """The parts of one kind by name, as `Kinds("student", whole="cdjax.students.whole:Whole")`.

    As a field's type, `Annotated[Any, kinds]`, it stands for the union of its classes.
    """

    def __init__(self, noun: str, /, **where: str) -> None:
        self.noun = noun
        self._where = where

    __eq__, __hash__ = object.__eq__, object.__hash__  # it stands in types, which must be hashable

    def __getitem__(self, kind: str) -> type:
        module, _, name = self._where[kind].partition(":")
        return getattr(importlib.import_module(module), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def named(self, name: str) -> type | None:
        """The class of this name, if it is one of them; no other part is imported."""
        return next((self[kind] for kind, where in self._where.items() if where.endswith(f":{name}")), None)

    def class_names(self) -> list[str]:
        """The names of all classes."""
        return [where.partition(":")[2] for where in self._where.values()]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number may be: at least `least` (more than that if `open`), at most `most`."""

    least: int | float
    most: int | float = math.inf
    open: bool = False

    def __contains__(self, value: int | float) -> bool:
        return (self.least < value if self.open else self.least <= value) and value <= self.most

    def __str__(self) -> str:
        if self.most < math.inf:
            return f"{'more than' if self.open else 'between'} {self.least:g} and {'at most ' * self.open}{self.most:g}"
        return f"{'more than' if self.open else 'at least'} {self.least:g}"


def at_least(least: int | float, default: int | float) -> Any:
    """A field whose value is at least `least`."""
    return dataclasses.field(default=default, metadata={"bounds": Bounds(least)})


def above(least: int | float, default: int | float | tuple[float, ...], most: int | float = math.inf) -> Any:
    """A field whose value, or each of whose values, is more than `least`, and at most `most`."""
    return dataclasses.field(default=default, metadata={"bounds": Bounds(least, most, open=True)})


def between(least: int | float, most: int | float, default: int | float) -> Any:
    """A field whose value is from `least` to `most`."""
    return dataclasses.field(default=default, metadata={"bounds": Bounds(least, most)})


def problems(part: Any, where: str = "") -> Iterator[str]:
    """A sentence for every field out of its bounds and for all that parts refuse by themselves, with dotted paths.

    A part refuses by a method `problems`, whose sentences begin with one of its own fields.
    """
    prefix = f"{where}." if where else ""
    for field in dataclasses.fields(part):
        value, path = getattr(part, field.name), prefix + field.name
        bounds = field.metadata.get("bounds")
        places = {path: value}
        if isinstance(value, tuple):
            places = {f"{path}.{index}": entry for index, entry in enumerate(value)}
        for place, entry in places.items():
            if dataclasses.is_dataclass(entry):
                yield from problems(entry, place)
            elif bounds is not None and entry not in bounds:
                yield f"{place} must be {bounds}, got {entry:g}"
    if hasattr(part, "problems"):
        yield from (prefix + problem for problem in part.problems())


def plain(part: Any) -> Any:
    """Dataclasses as dictionaries of plain values, the `kind` of a part first; the inverse of `config.read.convert`."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        kind = {"kind": part.kind} if hasattr(part, "kind") else {}
        return kind | {field.name: plain(getattr(part, field.name)) for field in dataclasses.fields(part)}
    return [plain(entry) for entry in part] if isinstance(part, tuple | list) else part
