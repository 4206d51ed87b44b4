"""A compiled TPU program, played back as one chip would run it: seconds, and what they are spent on.

In: `hlo.Module`. Out: `Work`. The compiler's own `cost_analysis` counts the body of a loop once, and a decoder is
loops. Here each operation takes the cycles that the compiler estimates for it, in the order that it scheduled, and
transfers run beside them from their start to their end, at the full speed of what carries them.
"""

import dataclasses
import math
import re
from typing import Any

from hlo import Computation, Module, Operation, arrays, size

NOTHING = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "partition-id", "after-all", "domain"}
# Of the peak, for a Pallas kernel, of whose cycles the compiler says nothing: a block of `kernels.over_context` is
# scheduled in 5,170 bundles of instructions, and its products need 4,096.
KERNEL = 0.79


@dataclasses.dataclass(frozen=True)
class Chip:
    """What its maker states of a chip."""

    flops: float  # a second, in bfloat16
    hbm: float  # bytes a second
    memory: float  # bytes
    link: float  # bytes a second of one link, one way
    clock: float
    ring: bool  # whether four chips in a row are joined at their ends


@dataclasses.dataclass
class Work:
    """What one chip does: FLOPs of matrix products, bytes to and from its main memory, and seconds."""

    flops: float = 0.0
    hbm: float = 0.0
    seconds: float = 0.0
    links: dict[str, float] = dataclasses.field(default_factory=dict)  # way -> seconds that they are busy
    collectives: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # kind -> [count, bytes]
    parts: dict[str, float] = dataclasses.field(default_factory=dict)  # source -> seconds
    loops: list["Work"] = dataclasses.field(default_factory=list)  # once through each body

    @property
    def linked(self) -> float:
        """Seconds of the busiest links: those that carry both ways, then the busier way."""
        return self.links.get("both", 0.0) + max(self.links.get("up", 0.0), self.links.get("down", 0.0))

    def add(self, other: "Work", times: int) -> None:
        self.flops += times * other.flops
        self.hbm += times * other.hbm
        self.seconds += times * other.seconds
        for way, seconds in other.links.items():
            self.links[way] = self.links.get(way, 0.0) + times * seconds
        for source, seconds in other.parts.items():
            self.parts[source] = self.parts.get(source, 0.0) + times * seconds
        for kind, (count, moved) in other.collectives.items():
            self.carry(kind, times * count, times * moved)

    def carry(self, kind: str, count: float, moved: float) -> None:
        total = self.collectives.setdefault(kind, [0.0, 0.0])
        total[0], total[1] = total[0] + count, total[1] + moved


def replay(module: Module, chip: Chip) -> Work:
    return Player(module, chip, module.computations[module.entry]).work


class Player:
    """One computation, played to its end."""

    def __init__(self, module: Module, chip: Chip, computation: Computation) -> None:
        self.module, self.chip, self.computation = module, chip, computation
        self.work = Work()
        self.free: dict[str, float] = {}  # when a link or the copy engine is next idle
        self.ends: dict[str, float] = {}  # when a transfer that was started is over
        self.channels: set[str] = set()  # of the fused collectives that were seen: all pieces of one share a channel
        for one in computation.values():
            if one.opcode in NOTHING:
                continue
            if one.opcode in ("while", "conditional"):
                self._enter(one)
                continue
            began = self.work.seconds
            self.work.seconds = self._run(one)
            source = f"{one.opcode} {'/'.join(one.source.split('/')[-2:])}".strip()
            self.work.parts[source] = self.work.parts.get(source, 0.0) + self.work.seconds - began

    def _enter(self, one: Operation) -> None:
        """A loop as often as it runs, or the slowest branch."""
        names = [one.called("body")] if one.opcode == "while" else _names(one.attribute("branch_computations"))
        found = [Player(self.module, self.chip, self.module.computations[name]).work for name in names]
        inner = max(found, key=lambda work: work.seconds)
        self.work.loops += [inner] if one.opcode == "while" else []
        self.work.add(inner, self.module.trips(one) if one.opcode == "while" else 1)

    def _run(self, one: Operation) -> float:
        """When the next operation may begin."""
        now = self.work.seconds
        if one.opcode.endswith("-done"):
            return max(now, self.ends.get(one.operands[0], now))
        if one.collective:
            seconds, way = self._exchange(one, self.computation)
        elif one.opcode in ("copy-start", "slice-start"):
            _, (kind, dims, _), *_ = arrays(one.shape)  # from where, to where
            moved = size(f"{kind}[{','.join(map(str, dims))}]")
            self.work.hbm += moved
            seconds, way = moved / self.chip.hbm, "copy"
        else:
            return now + self._compute(one)
        end = self.free[way] = max(now, self.free.get(way, 0.0)) + seconds
        self.ends[one.name] = end
        return now if one.opcode.endswith("-start") else end

    def _compute(self, one: Operation) -> float:
        """Seconds of an operation; the collectives inside it run beside its products."""
        for x, inside in self.module.fused(one):
            if x.attribute("channel_id") not in self.channels:
                self.channels.add(x.attribute("channel_id"))
                self._exchange(x, inside)
        moved, products = self.module.traffic(one, self.computation), self.module.products(one, self.computation)
        self.work.hbm += moved
        self.work.flops += products
        if one.cycles is None:
            return max(moved / self.chip.hbm, one.kernel / KERNEL / self.chip.flops)
        return one.cycles / self.chip.clock

    def _exchange(self, one: Operation, computation: Computation) -> tuple[float, str]:
        """Seconds of a collective at the full speed of the links that its chips can use, and which way it fills."""
        moved = _carried(one, computation)
        self.work.carry(one.collective, 1, moved)
        if one.collective == "collective-permute":
            steps = re.findall(r"(\d+),(\d+)", one.rest.partition("source_target_pairs=")[2].partition("}}")[0])
            ascending = sum(int(source) < int(target) for source, target in steps)  # all but where the ring closes
            seconds, way = moved / self.chip.link, "up" if 2 * ascending > len(steps) else "down"
        else:
            if one.collective == "all-reduce":
                moved += size(one.shape)  # summed in the type that goes in, gathered in the type that comes out
            group = _group(one)
            axes = max(1, math.ceil(math.log(group, 4) - 1e-9))
            speed = self.chip.link * axes * (2 if self.chip.ring else 1)
            seconds, way = moved * (group - 1) / group / speed, "both"
        self.work.links[way] = self.work.links.get(way, 0.0) + seconds
        return seconds, way


def _carried(one: Operation, computation: Computation) -> float:
    """Bytes of the whole array that a collective gathers, sums or moves, on one chip."""
    given = sum(size(computation[name].shape) for name in one.operands if name in computation)
    if one.collective != "all-gather":
        return given
    return size(one.shape) - (given if one.opcode.endswith("-start") else 0)


def _group(one: Operation) -> int:
    """How many chips take part in one collective."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", one.rest):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", one.rest):
        shape: dict[str, Any] = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(shape[name]) for name in _names(found[2]))
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", one.rest):
        return len(found[1].split(","))
    return 1


def _names(text: str) -> list[str]:
    return re.findall(r"[\w.\-]+", text)
