"""cdjax's side of every case, in a process of its own; see peers/serve.py for what it hears and says.

In: a request, the case's shapes and options. Out: a function that does the work once and returns when it is done.
Everything here goes through functions that a run uses as well.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdjax import batches, config, optim, parallel
from cdjax.bench.peers import serve
from cdjax.distill import losses, pairs, update
from cdjax.distill.keep import Kept
from cdjax.model import decoder
from cdjax.model.decoder import Decoder
from cdjax.model.spec import DecoderSpec
from cdjax.rollouts import Rollout
from cdjax.sampling import score, teacher
from cdjax.sampling.generate import Record
from cdjax.students import trainable
from cdjax.views.prompts import Prompts

Work = Callable[[], dict[str, int] | None]
TOP_K = 32  # of the targets that a round records
PIECE = 4  # rows at a time where the context is concatenated: whole batches of scores would not fit
NEVER = np.zeros(0, np.int32)  # no id ends an answer: every contestant writes all tokens


def prepare(request: dict[str, Any]) -> Work:
    """The work that a request asks for, with its model made and its inputs on the mesh."""
    mesh = parallel.make_mesh(config.Mesh())
    work = WORK[request["options"].get("work")](request["shapes"], request["options"], mesh)

    def once() -> dict[str, int]:
        with jax.set_mesh(mesh):
            facts = work() or {}
        held = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        return facts | {"peak_bytes": held}

    return once


def sample(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """`teacher.sample` from numpy prompts to numpy answers, the context read every time."""
    ask = _sampler(shapes, options, mesh, Record(top_k=options.get("record", 0)))
    model = _model(shapes, options, mesh)

    def work() -> None:
        _full(ask(model), shapes)

    return work


def score_answers(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """Answers under a context that was read once, or, with `read`, is read every time."""
    model, context = _model(shapes, options, mesh), jnp.asarray(_context(shapes))
    rows = _scored(shapes, mesh, slice(None), with_context=False)
    with jax.set_mesh(mesh):
        once = decoder.read_prefix(model, context)

    def work() -> None:
        prefix = decoder.read_prefix(model, context) if options.get("read") else once
        score.logprobs(model, *rows, prefix).block_until_ready()

    return work


def score_concatenated(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """The same answers, every row with the context before its prompt, a few rows at a time."""
    model = _model(shapes, options, mesh)
    starts = range(0, shapes["batch"], PIECE)
    pieces = [_scored(shapes, mesh, slice(start, start + PIECE), with_context=True) for start in starts]

    def work() -> None:
        for piece in pieces:
            score.logprobs(model, *piece).block_until_ready()

    return work


def learn(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """One update by full-vocabulary forward KL from another model of the same size."""
    student, other = (_model(shapes, options, mesh, seed) for seed in (0, 1))
    ids = serve.tokens(shapes["vocab"], shapes["batch"], shapes["prompt"] + shapes["completion"])
    cut = [(row[: shapes["prompt"]], row[shapes["prompt"] :]) for row in ids]
    examples = [pairs.hard(prompt, prompt, completion) for prompt, completion in cut]
    batch = batches.Batches(examples, config.Update(batch=len(examples)), 0, mesh)[0]
    learner = Learner(student, config.Objective(targets="full"), mesh)
    return lambda: learner.step(other, None, batch)


def distil(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """A round: the teacher's answers with their targets, the pairs, and one update on all of them."""
    objective = config.Objective(targets=options.get("targets", "top_k"), top_k=TOP_K)
    full = objective.targets == "full"
    model = _model(shapes, options, mesh)
    ask = _sampler(shapes, options, mesh, Record() if full else Record(top_k=TOP_K))
    views, student_views = _prompts(shapes, _context(shapes)), _prompts(shapes, NEVER)
    learner = Learner(model, objective, mesh)

    def work() -> dict[str, int]:
        kept = [Kept(rollout, np.arange(len(rollout.ids), dtype=np.int32), "") for rollout in _full(ask(model), shapes)]
        lesson = pairs.pair(kept, views, student_views, completion_budget=shapes["answer"])
        batch = batches.Batches(lesson, config.Update(batch=len(lesson)), 0, mesh)[0]
        prefix = decoder.read_prefix(model, jnp.asarray(views.context)) if full else None
        return learner.step(model if full else None, prefix, batch)

    return work


class Learner:
    """A student and its compiled update."""

    def __init__(self, student: Decoder, objective: config.Objective, mesh: jax.sharding.Mesh) -> None:
        graph, params, self._frozen = trainable.split(student, config.Adapter())
        tx = optim.make(config.Optim(lr=1e-5), 1000)
        self._update: Any = update.make_update(graph, tx, objective, micro_batches=1, mesh=mesh)
        self._state = update.start(params, tx, mesh)
        self._compiled: Any = None

    def step(self, model: Decoder | None, prefix: Any, batch: pairs.PairBatch) -> dict[str, int]:
        """One update, finished; what its compiled step needs beside its inputs and outputs."""
        if self._compiled is None:
            self._compiled = self._update.lower(self._state, self._frozen, model, prefix, batch).compile()
        self._state, metrics = self._compiled(self._state, self._frozen, model, prefix, batch)
        jax.block_until_ready((self._state, metrics))
        return _temporaries(self._compiled)


def fused_loss(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """Value and gradient by hidden states and embedding, as an update computes them."""
    objective = config.Objective(targets="full")
    chunk = losses.chunk_size(shapes["batch"], shapes["length"])

    def loss(student: Decoder, hidden: jax.Array, other: Decoder, wanted: jax.Array, ids: jax.Array) -> jax.Array:
        none = ids[..., None][..., :0]
        positions = losses.Positions(hidden, wanted, ids, ids >= 0, none, none.astype(jnp.float32), none)
        sums = losses.fused(student, other, positions, objective=objective, chunk=chunk)
        return sums["loss"] / sums["count"]

    return _gradient(loss, shapes, options, mesh)


def dense_loss(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """The same by the dense reference."""

    def loss(student: Decoder, hidden: jax.Array, other: Decoder, wanted: jax.Array, ids: jax.Array) -> jax.Array:
        return losses.divergence(other.logits(wanted), student.logits(hidden), ids >= 0, kind="forward_kl")

    return _gradient(loss, shapes, options, mesh)


def products(shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """The matrix products of `learn` and nothing else, all row-major: what they alone would take on this machine."""
    rows, embed, vocab = shapes["batch"] * (shapes["prompt"] + shapes["completion"]), shapes["embed"], shapes["vocab"]
    heads, kv_heads, mlp = shapes["heads"], shapes["kv_heads"], shapes["mlp"]
    wide = heads * shapes["head_dim"]
    into = wide + 2 * kv_heads * shapes["head_dim"]
    layer = [(embed, into), (wide, embed), (embed, 2 * mlp), (mlp, embed)]
    weights = [*layer * shapes["layers"], (embed, vocab)]
    # Forward in teacher and student; backward by the input and by the weight.
    every = [size for k, n in weights for size in ((rows, k, n), (rows, k, n), (rows, n, k), (k, rows, n))]
    dtype = jnp.dtype(options.get("dtype", "float32"))
    made = {size: (jnp.ones(size[:2], dtype), jnp.ones(size[1:], dtype)) for size in set(every)}
    multiply = jax.jit(jnp.matmul)

    def work() -> None:
        for size in every:
            multiply(*made[size]).block_until_ready()

    return work


WORK: dict[str, Callable[[dict, dict, jax.sharding.Mesh], Work]] = {
    "sample": sample,
    "score": score_answers,
    "concatenated": score_concatenated,
    "update": learn,
    "products": products,
    "loss": fused_loss,
    "dense_loss": dense_loss,
    "round": distil,
}


def _model(shapes: dict, options: dict, mesh: jax.sharding.Mesh, seed: int = 0) -> Decoder:
    names = ("vocab", "embed", "layers", "heads", "kv_heads", "head_dim", "mlp")
    spec = DecoderSpec(**{name: shapes[name] for name in names}, qk_norm=True, max_positions=4096)
    return decoder.create(spec, mesh, seed=seed, dtype=jnp.dtype(options.get("dtype", "float32")))


def _context(shapes: dict) -> np.ndarray:
    return serve.tokens(shapes["vocab"], shapes["context"], seed=1)


def _prompts(shapes: dict, context: np.ndarray) -> Prompts:
    own = tuple(serve.tokens(shapes["vocab"], shapes["batch"], shapes["prompt"]))
    return Prompts(tuple(map(str, range(len(own)))), context, own)


def _sampler(
    shapes: dict, options: dict, mesh: jax.sharding.Mesh, record: Record
) -> Callable[[Decoder], list[Rollout]]:
    return functools.partial(
        teacher.sample,
        mesh=mesh,
        prompts=_prompts(shapes, _context(shapes) if options.get("context", True) else NEVER),
        stops=NEVER,
        sampling=config.Sampling(batch=shapes["batch"]),
        record=record,
        steps=shapes["answer"],
        seed=0,
    )


def _full(rollouts: list[Rollout], shapes: dict) -> list[Rollout]:
    assert [len(rollout.ids) for rollout in rollouts] == [shapes["answer"]] * shapes["batch"]
    return rollouts


def _scored(shapes: dict, mesh: jax.sharding.Mesh, rows: slice, *, with_context: bool) -> list[jax.Array]:
    """Prompts and answers of some rows, and where they are real: everywhere."""
    own = serve.tokens(shapes["vocab"], shapes["batch"], shapes["prompt"])[rows]
    answers = serve.tokens(shapes["vocab"], shapes["batch"], shapes["answer"], seed=2)[rows]
    if with_context:
        own = np.concatenate([np.tile(_context(shapes), (len(own), 1)), own], 1)
    return parallel.place_batch([own, np.ones(own.shape, bool), answers, np.ones(answers.shape, bool)], mesh)


def _gradient(loss: Callable, shapes: dict, options: dict, mesh: jax.sharding.Mesh) -> Work:
    """Value and gradient of `loss` by the student's weights and hidden states; of its layers nothing is used."""
    rest = {"layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 2, "mlp": 1}
    (graph, student), other = (
        nnx.split(_model(shapes | rest, options, mesh, 0)),
        _model(shapes | rest, options, mesh, 1),
    )
    size = (shapes["batch"], shapes["length"])
    dtype = jnp.dtype(options.get("dtype", "float32"))
    hidden, wanted = (jax.random.normal(jax.random.key(seed), (*size, shapes["embed"]), dtype) for seed in (2, 3))
    ids = jnp.asarray(serve.tokens(shapes["vocab"], *size))
    both = jax.value_and_grad(lambda params, *rest: loss(nnx.merge(graph, params), *rest), argnums=(0, 1))
    compiled: Any = None

    def work() -> dict[str, int]:
        nonlocal compiled
        if compiled is None:
            compiled = jax.jit(both).lower(student, hidden, other, wanted, ids).compile()
        jax.block_until_ready(compiled(student, hidden, other, wanted, ids))
        return _temporaries(compiled)

    return work


def _temporaries(compiled: Any) -> dict[str, int]:
    """What the compiler says that a step needs beside its inputs and outputs."""
    return {"bytes_temporary": compiled.memory_analysis().temp_size_in_bytes}


if __name__ == "__main__":
    stage = serve.Stage()
    stage.run(prepare(stage.request))
