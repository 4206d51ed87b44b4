"""Compiles the steps of cdjax for a TPU pod on a host without one, and says what one chip would do in them.

    pip install -e '.[tpu]'
    python experiments/bench/tpu.py --topology v5e:4x4 --model 8b [--steps update score] [--json]

No weight is allocated: models, states and batches are shapes with shardings. Time is the compiler's own estimate of
cycles for every operation, played back in the order it scheduled them (`replay.py`). Nothing was measured on a TPU.
"""

import argparse
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no machine to ask about its neighbours
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Weights split over fsdp are gathered while the products before them run; shard by shard, each product is too small.
os.environ.setdefault("LIBTPU_INIT_ARGS", "--xla_tpu_enable_windowed_einsum_for_all_gather=false")

import hlo
import jax
import jax.numpy as jnp
import replay
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from cdjax import config, parallel
from cdjax.learn import optim, update
from cdjax.lessons.pairs import PairBatch
from cdjax.losses import fused
from cdjax.model import cache, decoder, reader
from cdjax.model.spec import DecoderSpec, RopeScaling
from cdjax.sampling import choose, generate, read

MODELS = {
    "8b": DecoderSpec(  # Llama 3.1
        vocab=128256,
        embed=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp=14336,
        max_positions=131072,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
        tied=False,
    ),
    "tiny": DecoderSpec(vocab=1024, embed=256, layers=2, heads=8, kv_heads=8, head_dim=128, mlp=512, tied=False),
}
# cloud.google.com/tpu/docs/v5e and /v5p. A link's speed is that of its chip, both ways, over its 4 or 6 links, halved.
CHIPS = {
    "v5e": replay.Chip(flops=197e12, hbm=819e9, memory=16e9, link=50e9, clock=1.5e9, ring=False),
    "v5p": replay.Chip(flops=459e12, hbm=2765e9, memory=95e9, link=100e9, clock=1.75e9, ring=True),
}
BFLOAT16 = jnp.dtype("bfloat16")


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Rows of a batch, and tokens: of the shared context, of a row's own prompt, of its completion."""

    rows: int = 256
    context: int = 2048
    prompt: int = 64
    completion: int = 64


@dataclasses.dataclass(frozen=True)
class Step:
    """A step to compile: how, at which shapes, on which mesh."""

    build: Callable[["Job"], Any]
    shapes: dict[str, Shapes]  # by topology
    meshes: dict[str, tuple[int, int, int]]  # topology -> data, fsdp, tensor


@dataclasses.dataclass(frozen=True)
class Job:
    """One step on one mesh."""

    spec: DecoderSpec
    shapes: Shapes
    mesh: Mesh

    def on(self, shape: tuple[int, ...], dtype: Any, *axes: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.mesh, parallel.spec(*axes)))

    def rows(self, width: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return self.on((self.shapes.rows, width), dtype, "batch")

    def text(self, width: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Token ids, and which of them are real."""
        return self.rows(width, jnp.int32), self.rows(width, jnp.bool_)

    def model(self, stored: Any = BFLOAT16, remat: str = "none") -> decoder.Decoder:
        def make() -> decoder.Decoder:
            rngs = nnx.Rngs(params=jax.random.key(0))
            return decoder.Decoder(self.spec, rngs=rngs, dtype=BFLOAT16, remat=remat)

        return jax.tree.map(lambda leaf: leaf.update(dtype=stored), self.placed(jax.eval_shape(make)))

    def sampler(self) -> decoder.Decoder:
        return self.placed(jax.eval_shape(decoder.unstack, self.model(jnp.float32)))

    def placed(self, shapes: Any) -> Any:
        """Abstract arrays with their shardings: parameters by their axes."""
        places = parallel.shardings(shapes, self.mesh)
        return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), shapes, places)

    def batch(self, targets: Any, taught: bool) -> PairBatch:
        """Rows that a prompt and its completion fill, in as many parts as share a batch."""
        parts = parallel.batch_parts(self.mesh)
        rows = self.shapes.rows // parts
        kept, width = rows * self.shapes.completion, self.shapes.prompt + self.shapes.completion

        def part(shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
            return self.on((parts, *shape), dtype, "batch")

        text = part((1, rows, width))
        read = reader.Rows(text, text, text, part((kept,)))
        ids, weight = part((kept,)), part((kept,), jnp.float32)
        recorded = {name: part((kept, *shape), dtype) for name, (shape, dtype) in targets.buffers().items()}
        return PairBatch(read, read if taught else None, ids, weight, recorded)

    def prefix(self) -> cache.Prefix:
        shapes = jax.eval_shape(reader._read, reader.Reader(self.model()), *self.contexts())
        spec = self.on((1,), jnp.int32)
        kv = (
            self.on(x.shape, x.dtype, "layers", "length", "kv_heads", "length", "head_dim")
            for x in (shapes.k, shapes.v)
        )
        return cache.Prefix(*kv, spec)

    def reader(self, model: decoder.Decoder) -> reader.Reader:
        """The model after the context."""
        return reader.Reader(model, self.prefix())

    def contexts(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        return self.on((1, self.shapes.context), jnp.int32), self.on((1,), jnp.int32)

    def state(self) -> generate.State:
        """A decode loop's state, with room for the prompts and the completions."""
        columns, steps = self.shapes.prompt - 1 + self.shapes.completion, self.shapes.completion
        start = functools.partial(
            generate.start, batch=self.shapes.rows, columns=columns, targets=config.TopK(32), steps=steps
        )
        shapes = jax.eval_shape(start, reader.Reader(self.sampler()))

        def one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            axes = cache.AXES if leaf.ndim == 4 else ("batch",)
            return leaf.update(sharding=NamedSharding(self.mesh, parallel.spec(*axes)))

        return jax.tree.map(one, shapes)


def update_full(job: Job) -> Any:
    """All weights learn from the full vocabulary of a teacher that reads the context; float32 weights and AdamW."""
    return _update(job, config.Full(), job.reader(job.model(remat="full")))


def update_top_k(job: Job) -> Any:
    """The same from the recorded 32 most likely ids: no teacher in the step."""
    return _update(job, config.TopK(32), None)


def _update(job: Job, targets: Any, teacher: Any) -> Any:
    student = config.Whole()
    params, frozen = student.init(job.model(jnp.float32, remat="full"), seed=0, context=None)
    tx = optim.make(config.Optim(), 1000)
    step = update.make_update(student, tx, targets, (config.ForwardKL(),), job.mesh)
    batch = job.batch(targets, teacher is not None)
    return step.lower(update.abstract(params, tx, job.mesh), frozen, teacher, batch)


def score_step(job: Job) -> Any:
    """Log-probabilities of completions under the shared context."""
    texts = (*job.text(job.shapes.prompt), *job.text(job.shapes.completion))
    return read.logprobs.lower(job.reader(job.model()), *texts)


def context(job: Job) -> Any:
    """The keys and values of the context, at batch 1."""
    return reader._read.lower(reader.Reader(job.model()), *job.contexts())


def prefill(job: Job) -> Any:
    """Prompts into the rows of a decode loop."""
    prompts, state = job.text(job.shapes.prompt), job.state()
    rows = job.on((job.shapes.rows,), jnp.int32, "batch")
    return generate.admit.lower(job.reader(job.sampler()), state, *prompts, state.keys, rows)


def decode(job: Job) -> Any:
    """The decode loop, of which one step is shown."""
    state, stops = job.state(), job.on((job.spec.vocab,), jnp.bool_)
    settings = {"choice": choose.Choice(), "targets": config.TopK(32)}
    return generate.decode.lower(job.reader(job.sampler()), state, stops, job.shapes.rows, **settings)


TENSOR = {"v5e:4x4": (2, 1, 8), "v5p:4x4x4": (16, 1, 4)}
SHARDED = {"v5e:4x4": (1, 16, 1), "v5p:4x4x4": (1, 64, 1)}
LEARN = {"v5e:4x4": Shapes(64, 2048, 64, 448), "v5p:4x4x4": Shapes(1024, 2048, 64, 448)}
ANSWER = {"v5e:4x4": Shapes(256), "v5p:4x4x4": Shapes(4096)}
STEPS = {
    "update": Step(update_full, LEARN, SHARDED),
    "update_top_k": Step(update_top_k, LEARN, SHARDED),
    "score": Step(score_step, ANSWER, SHARDED),
    "context": Step(context, ANSWER, TENSOR),
    "prefill": Step(prefill, ANSWER, TENSOR),
    "decode": Step(decode, ANSWER, TENSOR),
}


def topology_mesh(topology: str, shape: tuple[int, int, int]) -> Mesh:
    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    return jax.make_mesh(shape, parallel.AXES, axis_types=(AxisType.Auto,) * 3, devices=chips)


def measure(name: str, topology: str, spec: DecoderSpec, shapes: Shapes, axes: tuple[int, int, int]) -> dict[str, Any]:
    """Compiles a step; a row of figures for it."""
    mesh, chip = topology_mesh(topology, axes), CHIPS[topology.split(":")[0]]
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        compiled = STEPS[name].build(Job(spec, shapes, mesh)).compile()
    seconds = time.perf_counter() - began
    text = compiled.as_text()
    if folder := os.environ.get("HLO"):
        Path(folder, f"{name}-{topology.replace(':', '-')}.hlo").write_text(text)
    module = hlo.Module(text, unbounded=_tiles(spec, shapes, mesh) if name.startswith("update") else 1)
    work = replay.replay(module, chip)
    if name == "decode":
        work = max(work.loops, key=lambda one: one.seconds)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    return {
        "bench": "tpu",
        "case": name,
        "topology": topology,
        "mesh": dict(zip(parallel.AXES, axes, strict=True)),
        "shapes": dataclasses.asdict(shapes),
        **figures(work, chip),
        "memory_bytes": {
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "peak": memory.peak_memory_in_bytes,
            "chip": int(chip.memory),
        },
        "compiler": estimate(cost, chip),
        "compile_seconds": round(seconds, 1),
    }


def estimate(cost: dict[str, float], chip: replay.Chip) -> dict[str, float]:
    """The compiler's own figures, loops once. From its seconds it takes one for every operation it cannot estimate."""
    unknown = max(-int(cost["optimal_seconds"] // 1), 0)
    seconds = cost["optimal_seconds"] + unknown
    bound = max(cost["flops"] / chip.flops, cost["bytes accessed"] / chip.hbm)
    return {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "optimal_ms": round(seconds * 1e3, 3),
        "not_estimated": unknown,
        "ratio": round(seconds / bound, 2),
    }


def _tiles(spec: DecoderSpec, shapes: Shapes, mesh: Mesh) -> int:
    """How often the loss's loop runs when every position is real: it ends with them, which the compiler cannot know."""
    positions = shapes.rows * shapes.completion // parallel.batch_parts(mesh)
    return -(-positions // fused.positions_of_a_tile(spec.embed))


def figures(work: replay.Work, chip: replay.Chip) -> dict[str, Any]:
    """The estimate beside the roofline of the program's own counts: the slowest of products, memory and links."""
    bounds = {"products": work.flops / chip.flops, "memory": work.hbm / chip.hbm, "links": work.linked}
    bound = max(bounds, key=bounds.__getitem__)
    slowest = sorted(work.parts.items(), key=lambda part: -part[1])[:12]
    return {
        "value": round(work.seconds * 1e3, 3),
        "unit": "ms",
        "roofline": {name: round(value * 1e3, 3) for name, value in bounds.items()},
        "bound": bound,
        "ratio": round(work.seconds / bounds[bound], 2),
        "flops": work.flops,
        "hbm_bytes": work.hbm,
        "collectives": {kind: {"count": round(n), "bytes": moved} for kind, (n, moved) in work.collectives.items()},
        "slowest": {source: round(value * 1e3, 3) for source, value in slowest},
    }


def show(row: dict[str, Any]) -> None:
    bounds = ", ".join(f"{name} {value:.2f}" for name, value in row["roofline"].items())
    print(f"{row['case']} on {row['topology']} {row['mesh']}: {row['value']:.2f} ms, {row['ratio']} x {row['bound']}")
    print(f"  at full speed, ms: {bounds}")
    print("  GiB a chip:", ", ".join(f"{name} {size / 2**30:.2f}" for name, size in row["memory_bytes"].items()))
    print("  compiler, loops once:", row["compiler"], f"compiled in {row['compile_seconds']} s")
    for kind, moved in row["collectives"].items():
        print(f"  {moved['count']:10} {kind}, {moved['bytes'] / 1e9:.2f} GB")
    for source, value in row["slowest"].items():
        print(f"  {value:10.2f} ms  {source}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--model", default="8b", choices=MODELS)
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=STEPS)
    parser.add_argument("--mesh", help="data,fsdp,tensor instead of the step's own")
    parser.add_argument("--rows", type=int, help="instead of the step's own")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args()
    for name in given.steps:
        step = STEPS[name]
        axes = tuple(map(int, given.mesh.split(","))) if given.mesh else step.meshes[given.topology]
        shapes = step.shapes[given.topology]
        shapes = dataclasses.replace(shapes, rows=given.rows) if given.rows else shapes
        row = measure(name, given.topology, MODELS[given.model], shapes, axes)
        print(json.dumps(row), flush=True) if given.json else show(row)


if __name__ == "__main__":
    main()
