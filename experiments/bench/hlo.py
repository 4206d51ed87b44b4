"""The text of a compiled TPU program -> what one chip does in it, loops counted as often as they run.

The compiler's own `cost_analysis` counts the body of a loop once, and a decoder is loops. Its text has what is needed to
do better: an estimate of cycles for nearly every operation, the shapes, the memory that each array lives in, and the
order of execution, which `replay` follows.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

BYTES = {"pred": 1, "bf16": 2, "f16": 2} | {f"{kind}{bits}": bits / 8 for kind in "suf" for bits in (2, 4, 8, 16, 32, 64)}
ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,]*)\](\{[^{}]*\})?")
LINE = re.compile(r"^\s+(ROOT )?%(\S+) = (.*)$")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
NOTHING = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "partition-id", "after-all", "domain"}
VIEWS = {"bitcast", "reshape", "copy"}
# Of the peak: `over_context` is scheduled in 5,170 instruction bundles a block, 4,096 of which its products need.
KERNEL = 0.79


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip, as its maker states them: FLOP/s in bfloat16, bytes/s, bytes, and bytes/s of one link one way."""

    flops: float
    hbm: float
    memory: float
    link: float
    clock: float
    ring: bool  # whether four chips in a row are joined at their ends


@dataclasses.dataclass(frozen=True)
class Operation:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes
    root: bool

    @property
    def cycles(self) -> int | None:
        found = re.search(r'estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else None

    @property
    def kernel(self) -> float:
        """FLOPs of a Pallas kernel, as it states them: the compiler gives no estimate for what it did not write."""
        found = re.search(r'cost_estimate":\{"flops":"(\d+)"', self.rest)
        return float(found[1]) if found else 0.0

    @property
    def source(self) -> str:
        """Where in the program it came from, as JAX names it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def called(self, attribute: str) -> str:
        found = re.search(rf"\b{attribute}=%?([^\s,}}]+)", self.rest)
        return found[1] if found else ""

    def dims(self, attribute: str) -> str:
        found = re.search(rf"\b{attribute}=(\S+?)(?:,|$|\s)", self.rest)
        return found[1] if found else ""


Computation = dict[str, Operation]


@dataclasses.dataclass
class Work:
    """What one chip does: FLOPs of matrix products, bytes to and from its main memory, and seconds."""

    flops: float = 0.0
    hbm: float = 0.0
    seconds: float = 0.0  # of the replayed schedule
    links: dict[str, float] = dataclasses.field(default_factory=dict)  # direction -> seconds that the links are busy
    collectives: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # kind -> [count, bytes]
    parts: dict[str, float] = dataclasses.field(default_factory=dict)  # source -> seconds
    loops: dict[str, "Work"] = dataclasses.field(default_factory=dict)  # source -> once through its body

    def add(self, other: "Work", times: float) -> None:
        self.flops += times * other.flops
        self.hbm += times * other.hbm
        for direction, seconds in other.links.items():
            self.hold(times * seconds, direction)
        for kind, (count, size) in other.collectives.items():
            self.count(kind, times * count, times * size)
        for source, seconds in other.parts.items():
            self.parts[source] = self.parts.get(source, 0.0) + times * seconds

    @property
    def linked(self) -> float:
        """Seconds of the busiest links: those that carry both ways, then the busier way."""
        return self.links.get("both", 0.0) + max(self.links.get("up", 0.0), self.links.get("down", 0.0))

    def hold(self, seconds: float, direction: str) -> None:
        self.links[direction] = self.links.get(direction, 0.0) + seconds

    def count(self, kind: str, count: float, size: float) -> None:
        total = self.collectives.setdefault(kind, [0.0, 0.0])
        total[0], total[1] = total[0] + count, total[1] + size


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

    @functools.cached_property
    def loops(self) -> list[tuple[str, int]]:
        return [
            (one.source, self.trips(one))
            for computation in self.computations.values()
            for one in computation.values()
            if one.opcode == "while"
        ]

    def products(self, name: str) -> float:
        """FLOPs of the matrix products in a computation and the fusions it calls."""
        computation, total = self.computations[name], 0.0
        for one in computation.values():
            if one.opcode in ("convolution", "dot"):
                total += _product(one, computation)
            elif one.opcode == "fusion":
                total += self.products(one.called("calls"))
        return total

    def traffic(self, one: Operation, computation: Computation) -> float:
        """Bytes that an operation reads from main memory and writes to it; of a sliced array only the slice."""
        operands = [computation[name].shape for name in one.operands if name in computation]
        if one.opcode == "fusion":
            inside = self.computations[one.called("calls")]
            inputs = [x for x in inside.values() if x.opcode == "parameter"]
            inputs.sort(key=lambda x: int(x.operands[0]))
            read = sum(
                min(self.read(x.name, inside), size(shape, main=True)) for x, shape in zip(inputs, operands, strict=True)
            )
            return read + self.written(one, inside)
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return size(one.shape, main=True) + min(size(one.shape), size(operands[0], main=True))
        if one.opcode == "dynamic-update-slice":
            return 2 * min(size(operands[1]), size(one.shape, main=True))
        return size(one.shape, main=True) + sum(size(shape, main=True) for shape in operands)

    def read(self, name: str, computation: Computation) -> float:
        """Bytes of an array that a computation uses: its slices, unless it is used whole; nothing if written in place."""
        whole, total = size(computation[name].shape), 0.0
        for user in computation.values():
            if name not in user.operands:
                continue
            if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                total += size(user.shape)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                total += 0.0
            elif user.opcode in VIEWS:
                total += self.read(user.name, computation)
            elif user.opcode == "fusion":
                inside = self.computations[user.called("calls")]
                for at, operand in enumerate(user.operands):
                    if operand == name:
                        total += self.read(_parameter(inside, at), inside)
            else:
                return whole
        return min(total, whole)

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

    def fused(self, one: Operation) -> Iterator[tuple[str, Operation, Computation]]:
        """The collectives inside a fusion: they run beside its products, in as many pieces as there are fusions."""
        inside = self.computations.get(one.called("calls"), {}) if one.opcode == "fusion" else {}
        for x in inside.values():
            yield from ((kind, x, inside) for kind in COLLECTIVES if x.opcode == kind)
            yield from self.fused(x)

    def replay(self, chip: Chip, name: str | None = None) -> Work:
        """Follows the schedule: operations one after another, transfers beside them from their start to their end."""
        computation, work, now = self.computations[name or self.entry], Work(), 0.0
        free: dict[str, float] = {}  # when a link or the copy engine is next idle
        fused: set[str] = set()
        ends: dict[str, float] = {}  # when a transfer that was started is over
        for one in computation.values():
            if one.opcode in NOTHING:
                continue
            begun = now
            if one.opcode == "while":
                inner = self.replay(chip, one.called("body"))
                work.loops |= {one.source: inner}
                work.add(inner, self.trips(one))
                now += self.trips(one) * inner.seconds
                continue
            if one.opcode == "conditional":
                branches = re.findall(r"%([\w.\-]+)", one.dims("branch_computations"))
                inner = max((self.replay(chip, branch) for branch in branches), key=lambda x: x.seconds)
                work.add(inner, 1)
                now += inner.seconds
                continue
            if one.opcode.endswith("-done"):
                now = max(now, ends.get(one.operands[0], now))
            elif kind := next((kind for kind in COLLECTIVES if one.opcode in (kind, f"{kind}-start")), ""):
                seconds, engine = _transfer(one, kind, computation, chip)
                work.count(kind, 1, _moved(one, kind, computation))
                work.hold(seconds, engine)
                end = max(now, free.get(engine, 0.0)) + seconds
                free[engine] = end
                if one.opcode.endswith("-start"):
                    ends[one.name] = end
                else:
                    now = end
            elif one.opcode in ("copy-start", "slice-start"):
                _, (kind, dims, _), *_ = arrays(one.shape)  # from where, to where
                moved = BYTES[kind] * math.prod(dims)
                work.hbm += moved
                ends[one.name] = free["copy"] = max(now, free.get("copy", 0.0)) + moved / chip.hbm
            else:
                moved = self.traffic(one, computation)
                for kind, inner, inside in self.fused(one):
                    if inner.dims("channel_id") not in fused:  # the pieces of one collective share a channel
                        fused.add(inner.dims("channel_id"))
                        work.count(kind, 1, _moved(inner, kind, inside))
                        work.hold(*_transfer(inner, kind, inside, chip))
                work.hbm += moved
                work.flops += self.products(one.called("calls")) if one.opcode == "fusion" else 0.0
                work.flops += _product(one, computation) if one.opcode in ("convolution", "dot") else one.kernel
                if one.cycles is None:
                    now += max(moved / chip.hbm, one.kernel / KERNEL / chip.flops)
                else:
                    now += one.cycles / chip.clock
            if now > begun:
                source = _where(one)
                work.parts[source] = work.parts.get(source, 0.0) + now - begun
        work.seconds = now
        return work


def _operation(name: str, text: str, root: bool) -> Operation:
    """`shape opcode(operands), attributes`, where the shape may be a tuple."""
    at = 0
    if text.startswith("("):
        depth = 0
        for at, letter in enumerate(text):
            depth += (letter == "(") - (letter == ")")
            if not depth:
                break
    at = text.index(" ", at)
    shape, (opcode, rest) = text[:at], text[at + 1 :].split("(", 1)
    if opcode == "constant":
        return Operation(name, shape, opcode, (rest.split(")")[0],), "", root)
    inside, _, rest = rest.partition(")")
    operands = tuple(part.split("%")[-1].strip() for part in re.sub(r"/\*.*?\*/", "", inside).split(",") if part.strip())
    return Operation(name, shape, opcode, operands, rest, root)


def _parameter(computation: Computation, at: int) -> str:
    return next(x.name for x in computation.values() if x.opcode == "parameter" and x.operands == (str(at),))


def _product(one: Operation, computation: Computation) -> float:
    """FLOPs of a dot or a convolution. Batched products are convolutions over a dilated window: only real taps count."""
    (_, out, _), (_, left, _), (_, right, _) = (
        next(arrays(shape)) for shape in (one.shape, *(computation[name].shape for name in one.operands[:2]))
    )
    if one.opcode == "dot":
        contracted = [int(at) for at in re.findall(r"\d+", one.dims("lhs_contracting_dims"))]
        return 2.0 * math.prod(out) * math.prod(left[at] for at in contracted)
    inputs, kernel, result = re.match(r"(\w+)_(\w+)->(\w+)", one.dims("dim_labels")).groups()  # type: ignore[union-attr]
    window = re.search(r"window=\{(.*?)\}", one.rest)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    taps = 1.0
    for at in range(len(inputs) - 2):
        width, base, wide = right[kernel.index(str(at))], left[inputs.index(str(at))], out[result.index(str(at))]
        given = {name: value.split("x")[at] for name, value in settings.items()}
        stride, low = int(given.get("stride", 1)), int(given.get("pad", "0_0").split("_")[0])
        spread, dilated = int(given.get("rhs_dilate", 1)), int(given.get("lhs_dilate", 1))
        places = (o * stride + k * spread - low for o in range(wide) for k in range(width))
        taps *= sum(0 <= place <= (base - 1) * dilated and place % dilated == 0 for place in places)
    return 2.0 * out[result.index("b")] * out[result.index("f")] * right[kernel.index("i")] * taps


def _moved(one: Operation, kind: str, computation: Computation) -> float:
    """Bytes of the whole array that a collective gathers, sums or permutes, on one chip."""
    given = sum(size(computation[name].shape) for name in one.operands if name in computation)
    if kind == "all-gather":
        shapes = [BYTES[type_] * math.prod(dims) for type_, dims, _ in arrays(one.shape)]
        return max(shapes, default=given) if one.opcode.endswith("-start") else sum(shapes)
    return given


def _transfer(one: Operation, kind: str, computation: Computation, chip: Chip) -> tuple[float, str]:
    """Seconds of a collective at the full speed of the links that its group can use, and which link it holds."""
    moved, group = _moved(one, kind, computation), _group(one)
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", one.rest)
        steps = re.findall(r"(\d+),(\d+)", pairs[1]) if pairs else []
        ascending = sum(int(source) < int(target) for source, target in steps)  # all but where the ring closes
        return moved / chip.link, "up" if 2 * ascending > len(steps) else "down"
    axes = max(1, math.ceil(math.log(group, 4) - 1e-9))
    passes = 2.0 if kind == "all-reduce" else 1.0
    return passes * moved * (group - 1) / group / (chip.link * axes * (2 if chip.ring else 1)), "both"


def _group(one: Operation) -> int:
    """How many chips take part in one collective."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", one.rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", one.rest):
        shape = {name: int(number) for name, number in re.findall(r"'(\w+)'=(\d+)", found[1])}
        return math.prod(shape[name] for name in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", one.rest):
        return len(found[1].split(","))
    return 1


def _where(one: Operation) -> str:
    """The last two steps of the way that JAX gives an operation: short enough for a table."""
    return f"{one.opcode} {'/'.join(one.source.split('/')[-2:])}".strip()
