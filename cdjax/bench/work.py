"""cdjax's side of every case, in a separate process; peers/serve.py has the protocol.

In: a request, the case's shapes and options. Out: a function that does the work once.
All work is done by functions that a run uses too.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdjax import parallel
from cdjax.bench.peers import serve
from cdjax.learn import Optim, optim, update
from cdjax.lessons import Update, batches, pairs
from cdjax.lessons.filters import Kept
from cdjax.losses import divergence, fused
from cdjax.losses.forward_kl import ForwardKL
from cdjax.losses.positions import Positions
from cdjax.model import decoder
from cdjax.model.decoder import Decoder
from cdjax.model.reader import Reader
from cdjax.model.spec import DecoderSpec
from cdjax.sampling import Sampling, answers, read
from cdjax.sampling.store import Rollout
from cdjax.sampling.targets.full import Full
from cdjax.sampling.targets.labels import Labels
from cdjax.sampling.targets.target import Target
from cdjax.sampling.targets.top_k import TopK
from cdjax.students.whole import Whole
from cdjax.views.prompts import Prompts


class Done(NamedTuple):
    """The result of a repetition, and its compiled step if its memory is compared."""

    result: Any
    step: Any = None


Shapes = dict[str, int]
Options = dict[str, Any]
Work = Callable[[], Done]
LOSSES = (ForwardKL(),)
TOP_K = 32  # of the targets that a round records
PIECE = 4  # rows scored together if the context is concatenated: whole batches of scores would not fit
NEVER = np.zeros(0, np.int32)  # no id ends an answer: every contestant writes all tokens


def prepare(request: dict[str, Any]) -> Work:
    """The work of a request, with its model created and its inputs on the mesh."""
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        work = WORK[request["options"]["work"]](request["shapes"], request["options"], mesh)

    def once() -> Done:
        with jax.set_mesh(mesh):
            return jax.block_until_ready(work())

    return once


def sample(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """`answers.sample` from numpy prompts to numpy answers, the context read every time."""
    model = _model(shapes, options, mesh)
    ask = _sampler(shapes, options, mesh, TopK(options["record"]) if "record" in options else Labels())
    return lambda: Done([rollout.ids for rollout in ask(Reader(model))])


def score_answers(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """Log-probabilities of answers under a context that was read once, or, with `read`, is read every time."""
    model, context = _model(shapes, options, mesh), _context(shapes)
    rows = _scored(shapes, mesh, slice(None), with_context=False)
    kept = None if options.get("read") else Reader(model).after(context)

    def work() -> Done:
        return Done(read.logprobs(Reader(model).after(context) if kept is None else kept, *rows))

    return work


def score_concatenated(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """Log-probabilities of the answers, with the context in every row, PIECE rows together."""
    model = _model(shapes, options, mesh)
    starts = range(0, shapes["batch"], PIECE)
    pieces = [_scored(shapes, mesh, slice(start, start + PIECE), with_context=True) for start in starts]
    # Waiting for each piece keeps a single one in memory.
    return lambda: Done([read.logprobs(Reader(model), *piece).block_until_ready() for piece in pieces])


def learn(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """One update by full-vocabulary forward KL from another model of the same size."""
    student, teacher = (_model(shapes, options, mesh, seed) for seed in (0, 1))
    ids = serve.tokens(shapes["vocab"], shapes["batch"], shapes["prompt"] + shapes["completion"])
    split = [(row[: shapes["prompt"]], row[shapes["prompt"] :]) for row in ids]
    examples = [pairs.hard(prompt, prompt, completion) for prompt, completion in split]
    batch = batches.Batches(examples, Update(batch=len(examples)), 0, mesh, teacher=True)[0]
    learner = Learner(student, Full(), mesh)
    return lambda: learner.step(Reader(teacher), batch)


def distil(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """A round: the teacher's answers with their targets, the pairs, and one update on all of them."""
    full = options.get("targets") == "full"
    targets = Full() if full else TopK(TOP_K)
    model = _model(shapes, options, mesh)
    ask = _sampler(shapes, options, mesh, targets)
    teacher_prompts, student_prompts = _prompts(shapes, _context(shapes)), _prompts(shapes, NEVER)
    learner = Learner(model, targets, mesh)

    def work() -> Done:
        kept = [Kept(rollout, np.arange(len(rollout.ids), dtype=np.int32), "") for rollout in ask(Reader(model))]
        examples = pairs.pair(kept, teacher_prompts, student_prompts, completion_budget=shapes["answer"])
        batch = batches.Batches(examples, Update(batch=len(examples)), 0, mesh, teacher=full)[0]
        return learner.step(Reader(model).after(teacher_prompts.context) if full else None, batch)

    return work


class Learner:
    """A student and its compiled update."""

    def __init__(self, student: Decoder, targets: Target, mesh: jax.sharding.Mesh) -> None:
        params, self._frozen = Whole().init(student, seed=0, context=NEVER)
        tx = optim.make(Optim(lr=1e-5), 1000)
        self._update = update.make_update(Whole(), tx, targets, LOSSES, mesh)
        self._state = update.start(params, tx, mesh)

    def step(self, teacher: Reader | None, batch: pairs.PairBatch) -> Done:
        """An update on the batch."""
        self._state, metrics = self._update(self._state, self._frozen, teacher, batch)
        return Done((self._state, metrics))


def fused_loss(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """Value and gradient of the fused loss by hidden states and embedding, as in an update."""

    def loss(student: Decoder, hidden: jax.Array, teacher: Decoder, target: jax.Array, ids: jax.Array) -> jax.Array:
        positions = Positions(hidden, target, ids, jnp.ones(ids.shape), {})
        over = jnp.maximum(positions.real.sum(), 1)
        return fused.loss(student, teacher, positions, targets=Full(), losses=LOSSES, over=over)[0]

    return _gradient(loss, shapes, options, mesh)


def dense_loss(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """Value and gradient of the dense reference by hidden states and embedding."""

    def loss(student: Decoder, hidden: jax.Array, teacher: Decoder, target: jax.Array, ids: jax.Array) -> jax.Array:
        return divergence.divergence(teacher.logits(target), student.logits(hidden), ids >= 0, *LOSSES)

    return _gradient(loss, shapes, options, mesh)


def products(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """The matrix products of `learn` with its weights, all row-major, and nothing else: the machine's limit for it."""
    rows, embed, vocab = shapes["batch"] * (shapes["prompt"] + shapes["completion"]), shapes["embed"], shapes["vocab"]
    heads, kv_heads, mlp = shapes["heads"], shapes["kv_heads"], shapes["mlp"]
    wide = heads * shapes["head_dim"]
    into = wide + 2 * kv_heads * shapes["head_dim"]
    layer = [(embed, into), (wide, embed), (embed, 2 * mlp), (mlp, embed)]
    weights = [*layer * shapes["layers"], (embed, vocab)]
    # Forward in teacher and student; backward by the input and by the weight.
    sizes = [size for k, n in weights for size in ((rows, k, n), (rows, k, n), (rows, n, k), (k, rows, n))]
    dtype = jnp.dtype(options.get("dtype", "float32"))
    operands = {size: (jnp.ones(size[:2], dtype), jnp.ones(size[1:], dtype)) for size in set(sizes)}
    multiply = jax.jit(jnp.matmul)

    def work() -> Done:
        for size in sizes:
            product = multiply(*operands[size]).block_until_ready()
        return Done(product)

    return work


WORK: dict[str, Callable[[Shapes, Options, jax.sharding.Mesh], Work]] = {
    "sample": sample,
    "score": score_answers,
    "concatenated": score_concatenated,
    "update": learn,
    "products": products,
    "loss": fused_loss,
    "dense_loss": dense_loss,
    "round": distil,
}


def _model(shapes: Shapes, options: Options, mesh: jax.sharding.Mesh, seed: int = 0) -> Decoder:
    spec = DecoderSpec(
        vocab=shapes["vocab"],
        embed=shapes["embed"],
        layers=shapes["layers"],
        heads=shapes["heads"],
        kv_heads=shapes["kv_heads"],
        head_dim=shapes["head_dim"],
        mlp=shapes["mlp"],
        qk_norm=True,
        max_positions=4096,
    )
    return decoder.create(spec, mesh, seed=seed, dtype=jnp.dtype(options.get("dtype", "float32")))


def _context(shapes: Shapes) -> np.ndarray:
    return serve.tokens(shapes["vocab"], shapes["context"], seed=1)


def _prompts(shapes: Shapes, context: np.ndarray) -> Prompts:
    prompts = tuple(serve.tokens(shapes["vocab"], shapes["batch"], shapes["prompt"]))
    return Prompts(tuple(map(str, range(len(prompts)))), context, prompts)


def _sampler(
    shapes: Shapes, options: Options, mesh: jax.sharding.Mesh, targets: Target
) -> Callable[[Reader], list[Rollout]]:
    return functools.partial(
        answers.sample,
        mesh=mesh,
        prompts=_prompts(shapes, _context(shapes) if options.get("context", True) else NEVER),
        stops=NEVER,
        sampling=Sampling(batch=shapes["batch"]),
        targets=targets,
        steps=shapes["answer"],
        seed=0,
    )


def _scored(shapes: Shapes, mesh: jax.sharding.Mesh, rows: slice, *, with_context: bool) -> list[jax.Array]:
    """Prompts and answers of some rows, each with its mask, which is True everywhere."""
    prompts = serve.tokens(shapes["vocab"], shapes["batch"], shapes["prompt"])[rows]
    answers = serve.tokens(shapes["vocab"], shapes["batch"], shapes["answer"], seed=2)[rows]
    if with_context:
        prompts = np.concatenate([np.tile(_context(shapes), (len(prompts), 1)), prompts], 1)
    return parallel.place_batch([prompts, np.ones(prompts.shape, bool), answers, np.ones(answers.shape, bool)], mesh)


def _gradient(loss: Callable, shapes: Shapes, options: Options, mesh: jax.sharding.Mesh) -> Work:
    """Value and gradient of `loss` by the student's weights and hidden states; its layers are minimal and not used."""
    minimal = {"layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 2, "mlp": 1}
    graph, student = nnx.split(_model(shapes | minimal, options, mesh, 0))
    teacher = _model(shapes | minimal, options, mesh, 1)
    size = (shapes["batch"], shapes["length"])
    dtype = jnp.dtype(options.get("dtype", "float32"))
    hidden, target = (jax.random.normal(jax.random.key(seed), (*size, shapes["embed"]), dtype) for seed in (2, 3))
    ids = jnp.asarray(serve.tokens(shapes["vocab"], *size))
    gradient = jax.value_and_grad(lambda params, *rest: loss(nnx.merge(graph, params), *rest), argnums=(0, 1))
    step: Any = None

    def work() -> Done:
        nonlocal step
        if step is None:
            step = jax.jit(gradient).lower(student, hidden, teacher, target, ids).compile()
        return Done(step(student, hidden, teacher, target, ids), step)

    return work


def main() -> None:
    """Serves the repetitions that the parent process asks for."""
    stage = serve.Stage()
    work = prepare(stage.request)

    def once() -> dict[str, int]:
        _, step = work()
        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        facts = {} if step is None else {"bytes_temporary": step.memory_analysis().temp_size_in_bytes}
        return facts | {"peak_bytes": peak}

    stage.run(once)


if __name__ == "__main__":
    main()
