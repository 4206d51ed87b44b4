"""Parts of an experiment: frozen dataclasses with a `kind`, bounds on their fields, and checks of what goes together.

A package lists its parts in a `Kinds`, a line for each. A part's file is imported when the part is asked for, and
imports jax inside its methods: an experiment is read and checked without jax.
"""

import dataclasses
import importlib
import math
from collections.abc import Iterator, Mapping
from typing import Any


class Kinds(Mapping[str, type]):
    """A registry of parts, `kind` -> class, as `Kinds("student", whole="cdjax.students.whole:Whole")`.

    As a field's type, `Annotated[Any, kinds]`, it is the union of its classes.
    """

    def __init__(self, noun: str, /, **paths: str) -> None:
        self.noun = noun
        self._paths = paths  # MODULE:CLASS

    __eq__, __hash__ = object.__eq__, object.__hash__  # a part of types, which must be hashable

    def __getitem__(self, kind: str) -> type:
        module, _, name = self._paths[kind].partition(":")
        return getattr(importlib.import_module(module), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def named(self, name: str) -> type | None:
        """The class with this name, or None; no other part is imported."""
        return next((self[kind] for kind, path in self._paths.items() if path.endswith(f":{name}")), None)

    def class_names(self) -> list[str]:
        """The names of all classes."""
        return [path.partition(":")[2] for path in self._paths.values()]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The interval of a number: at least `least` (more than `least` if `open`), at most `most`."""

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
    """Yields a sentence for every field out of its bounds and from every part's `problems`, with dotted paths.

    A part's method `problems`, if it has one, yields sentences that begin with one of its fields.
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
