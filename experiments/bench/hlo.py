"""The text of a compiled TPU program, read: operations, loops, products and main-memory traffic of each.

In: `compiled.as_text()`. Out: `Module`, which `replay.py` plays back.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

BYTES = {"pred": 1, "bf16": 2, "f16": 2} | {
    f"{kind}{bits}": bits / 8 for kind in "suf" for bits in (2, 4, 8, 16, 32, 64)
}
ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,]*)\](\{[^{}]*\})?")
LINE = re.compile(r"^\s+(ROOT )?%(\S+) = (.*)$")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
VIEWS = {"bitcast", "reshape", "copy"}
SLICES = {"dynamic-slice", "slice", "gather"}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of the text."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes
    root: bool

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate."""
        found = re.search(r'estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else None

    @property
    def kernel(self) -> float:
        """FLOPs of a Pallas kernel, as it states them: the compiler gives no estimate for what it did not write."""
        found = re.search(r'cost_estimate":\{"flops":"(\d+)"', self.rest)
        return float(found[1]) if found else 0.0

    @property
    def collective(self) -> str:
        """Its kind, "" for any other operation."""
        return next((kind for kind in COLLECTIVES if self.opcode in (kind, f"{kind}-start")), "")

    @property
    def source(self) -> str:
        """Where in the program it came from, as JAX names it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def called(self, attribute: str) -> str:
        """The computation that an attribute names."""
        return self.attribute(attribute).lstrip("%")

    def attribute(self, name: str) -> str:
        """Its value, up to the next comma outside braces; "" if there is none."""
        found = re.search(rf"\b{name}=(\{{.*?\}}|[^\s,]+)", self.rest)
        return found[1] if found else ""


Computation = dict[str, Operation]


def arrays(shape: str) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """(type, dimensions, whether in main memory) of every array of a shape, which may be a tuple."""
    for kind, dims, layout in ARRAY.findall(shape):
        if kind in BYTES:
            yield kind, tuple(int(size) for size in dims.split(",") if size), "S(" not in layout


def size(shape: str, *, main: bool = False) -> float:
    """Bytes of a shape; with `main`, of its arrays in main memory only."""
    return sum(BYTES[kind] * math.prod(dims) for kind, dims, here in arrays(shape) if here or not main)


class Module:
    """A compiled program, by computation. Loops whose end the data decide are taken to run `unbounded` times."""

    def __init__(self, text: str, unbounded: int = 1) -> None:
        self.unbounded = unbounded
        self.computations: dict[str, Computation] = {}
        current: Computation = {}
        for line in text.splitlines():
            head = re.match(r"^(ENTRY )?%?(\S+) \(.*\{$", line)
            if head:
                current = self.computations.setdefault(head[2], {})
                self.entry = head[2] if head[1] else getattr(self, "entry", "")
            elif found := LINE.match(line):
                one = _operation(found[2], found[3], bool(found[1]))
                current[one.name] = one

    def trips(self, loop: Operation) -> int:
        """How often a loop runs: the bound that its condition compares the counter with, by the counter's step."""
        bounds: list[int] = []
        waiting = [loop.called("condition")]
        while waiting:
            for one in self.computations.get(waiting.pop(), {}).values():
                if one.opcode == "constant" and one.shape.startswith(("s32[]", "u32[]")):
                    bounds.append(int(one.operands[0]))
                elif one.opcode == "fusion":
                    waiting.append(one.called("calls"))
        return -(-max(bounds) // self._step(loop)) if bounds else self.unbounded

    def _step(self, loop: Operation) -> int:
        """By how much the counter of a loop grows each time."""
        condition, body = (self.computations[loop.called(part)] for part in ("condition", "body"))
        compared = [x for x in condition.values() if x.opcode == "compare"]
        counter = condition[compared[0].operands[0]] if compared else None
        if counter is None or counter.opcode != "get-tuple-element":
            return 1
        index = int(re.search(r"index=(\d+)", counter.rest)[1])  # type: ignore[index]
        value = body[next(x for x in body.values() if x.root).operands[index]]
        step = 0
        while value.opcode == "add":
            step += sum(int(body[x].operands[0]) for x in value.operands if body[x].opcode == "constant")
            value = body[value.operands[0]]
        return max(step, 1)

    def products(self, one: Operation, computation: Computation) -> float:
        """FLOPs of the matrix products of an operation, or inside it."""
        if one.opcode == "fusion":
            inside = self.computations[one.called("calls")]
            return sum(self.products(x, inside) for x in inside.values())
        return _product(one, computation) if one.opcode in ("convolution", "dot") else one.kernel

    def traffic(self, one: Operation, computation: Computation) -> float:
        """Bytes that an operation reads from main memory and writes to it; of a sliced array only the slice."""
        operands = [computation[name].shape for name in one.operands if name in computation]
        if one.opcode == "fusion":
            inside = self.computations[one.called("calls")]
            inputs = [x for x in inside.values() if x.opcode == "parameter"]
            inputs.sort(key=lambda x: int(x.operands[0]))
            read = sum(
                min(self.read(x.name, inside), size(shape, main=True))
                for x, shape in zip(inputs, operands, strict=True)
            )
            return read + self.written(one, inside)
        if one.opcode in SLICES:
            return size(one.shape, main=True) + min(size(one.shape), size(operands[0], main=True))
        if one.opcode == "dynamic-update-slice":
            return 2 * min(size(operands[1]), size(one.shape, main=True))
        return size(one.shape, main=True) + sum(size(shape, main=True) for shape in operands)

    def read(self, name: str, computation: Computation) -> float:
        """Bytes that are used of an array: its slices, unless it is used whole; nothing if it is written in place."""
        whole = size(computation[name].shape)
        users = [user for user in computation.values() if name in user.operands]
        return min(sum(self._read_by(user, name, computation) for user in users), whole)

    def _read_by(self, user: Operation, name: str, computation: Computation) -> float:
        inside = self.computations.get(user.called("calls"), {})
        if user.opcode in SLICES and user.operands[0] == name:
            return size(user.shape)
        if user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            return 0.0
        if user.opcode == "fusion":
            places = [str(at) for at, operand in enumerate(user.operands) if operand == name]
            inputs = [x.name for x in inside.values() if x.opcode == "parameter" and x.operands[0] in places]
            return sum(self.read(x, inside) for x in inputs)
        if user.opcode in VIEWS:
            return self.read(user.name, computation)
        return size(computation[name].shape)

    def written(self, one: Operation, inside: Computation) -> float:
        """Bytes that a fusion writes to main memory; of an array updated in place only the update."""
        root = next(x for x in inside.values() if x.root)
        roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        total = 0.0
        for (kind, dims, main), x in zip(arrays(one.shape), roots, strict=False):
            while x.opcode in VIEWS and x.operands[0] in inside:
                x = inside[x.operands[0]]
            update = x.opcode == "dynamic-update-slice"
            total += main * (size(inside[x.operands[1]].shape) if update else BYTES[kind] * math.prod(dims))
        return total

    def fused(self, one: Operation) -> Iterator[tuple[Operation, Computation]]:
        """The collectives inside a fusion, or pieces of them."""
        inside = self.computations[one.called("calls")] if one.opcode == "fusion" else {}
        for x in inside.values():
            if x.collective:
                yield x, inside
            yield from self.fused(x)


def _operation(name: str, text: str, root: bool) -> Operation:
    """`shape opcode(operands), attributes`, where the shape may be a tuple."""
    at, depth = 0, 0
    while depth or text[at] != " ":
        depth += (text[at] == "(") - (text[at] == ")")
        at += 1
    shape, (opcode, rest) = text[:at], text[at + 1 :].split("(", 1)
    if opcode == "constant":
        return Operation(name, shape, opcode, (rest.split(")")[0],), "", root)
    inside, _, rest = rest.partition(")")
    operands = tuple(
        part.split("%")[-1].strip() for part in re.sub(r"/\*.*?\*/", "", inside).split(",") if part.strip()
    )
    return Operation(name, shape, opcode, operands, rest, root)


def _product(one: Operation, computation: Computation) -> float:
    """FLOPs of a dot or a convolution. Of a dilated window, as batched products have, only what it really meets."""
    (_, out, _), (_, left, _), (_, right, _) = (
        next(arrays(shape)) for shape in (one.shape, *(computation[name].shape for name in one.operands[:2]))
    )
    if one.opcode == "dot":
        contracted = [int(at) for at in re.findall(r"\d+", one.attribute("lhs_contracting_dims"))]
        return 2.0 * math.prod(out) * math.prod(left[at] for at in contracted)
    inputs, kernel, result = re.split("_|->", one.attribute("dim_labels"))
    settings = dict(part.split("=") for part in one.attribute("window").strip("{}").split())
    taps = 1.0
    for at in range(len(inputs) - 2):
        width, base, wide = right[kernel.index(str(at))], left[inputs.index(str(at))], out[result.index(str(at))]
        given = {name: value.split("x")[at] for name, value in settings.items()}
        stride, low = int(given.get("stride", 1)), int(given.get("pad", "0_0").split("_")[0])
        spread, dilated = int(given.get("rhs_dilate", 1)), int(given.get("lhs_dilate", 1))
        places = (o * stride + k * spread - low for o in range(wide) for k in range(width))
        taps *= sum(0 <= place <= (base - 1) * dilated and place % dilated == 0 for place in places)
    return 2.0 * out[result.index("b")] * out[result.index("f")] * right[kernel.index("i")] * taps
