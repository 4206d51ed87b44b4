"""Several tokens a step: the student, which reads a short prompt, drafts them, and the teacher reads all at once.

In: what generate.py takes, and the student with its own prompts. Out: the same `Samples`, each answer distributed as if
the teacher had written it alone, and a verdict on every draft. After Leviathan, Kalman and Matias, "Fast Inference from
Transformers via Speculative Decoding" (arXiv 2211.17192), algorithm 1. The caller has entered `jax.set_mesh`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from cdjax.model import cache
from cdjax.model.reader import Reader
from cdjax.parallel import constrain
from cdjax.sampling import choose, generate
from cdjax.sampling.targets.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The state between two steps: the teacher's answers, and the student's cache of them.

    A refused draft stays in both caches beyond the row's `lengths`, where nothing sees it until the next token takes
    its column.
    """

    answers: generate.State
    past: cache.Cache  # of the student
    unread: Int[Array, "B 2"]  # final tokens that the student has not read, padded on the right
    behind: Int[Array, "B"]  # their number: 2 where all drafts were accepted, as the student never read its last draft


@functools.partial(jax.jit, static_argnames="columns", donate_argnames="answers")
def start(student: Reader, answers: generate.State, columns: int) -> State:
    """The state of free rows. Both sides' caches have longest prompt + steps + draft - 1 columns.

    Drafts are written before it is known how many of them stand, so that the last step may pass the limit by `draft`.
    """
    batch = len(answers.tokens)
    return State(
        answers=answers,
        past=cache.new_cache(student.decoder.spec, batch, columns, student.decoder.dtype),
        unread=constrain(jnp.zeros((batch, 2), jnp.int32), "batch", "length"),
        behind=constrain(jnp.ones(batch, jnp.int32), "batch"),
    )


@functools.partial(jax.jit, donate_argnames="state")
def admit(
    student: Reader,
    state: State,
    prompts: Int[Array, "A T"],
    real: Bool[Array, "A T"],
    rows: Int[Array, "A"],
) -> State:
    """The state with the student's left-padded prompts in the rows that `generate.admit` has given the teacher's."""
    refilled, source = generate.refills(len(state.behind), real, rows)
    last = jnp.pad(prompts[:, -1:], ((0, 0), (0, 1)))
    return State(
        answers=state.answers,
        past=generate.fill(student, state.past, prompts, real, refilled, source),
        unread=generate.put(state.unread, last, refilled, source),
        behind=jnp.where(refilled, 1, state.behind),
    )


@functools.partial(jax.jit, static_argnames=("draft", "choice", "targets"), donate_argnames="state")
def decode(
    teacher: Reader,
    student: Reader,
    state: State,
    stops: Bool[Array, "V"],
    free: int | Int[Array, ""],
    *,
    draft: int,
    choice: choose.Choice,
    targets: Target,
) -> State:
    """The state after as many steps of `draft` drafts as it takes until at least `free` rows are free."""
    batch = len(state.behind)

    def step(state: State) -> State:
        before = state.answers
        # Each place in an answer has its random numbers, [B, d + 1, u], whichever step it falls into: for the draft,
        # its verdict, the teacher's token, and what is recorded. They are used up only when the place's token is final.
        numbers = jax.vmap(lambda i: generate.uniforms(before.keys, before.ages + i, 3 + targets.uniforms), out_axes=1)(
            jnp.arange(draft + 1)
        )
        drafts, student_probs, past = propose(student, state, numbers[:, :draft, 0], choice)
        logits, teacher_past = _verify(teacher, before, drafts)
        teacher_probs = _by_column(choice.probabilities, logits)
        accepted, corrections = accept(drafts, student_probs, teacher_probs, numbers[..., 1], numbers[..., 2])
        # Of what the student read in this step the unread tokens and the accepted drafts stay. It reads d - 1 drafts.
        stays = jnp.where(before.alive, state.behind + jnp.minimum(accepted, draft - 1), 0)
        return State(
            answers=_advance(
                before, drafts, accepted, corrections, logits, numbers[..., 3:], teacher_past, stops, targets
            ),
            past=dataclasses.replace(past, lengths=state.past.lengths + stays),
            unread=jnp.stack([jnp.where(accepted == draft, drafts[:, -1], corrections), corrections], 1),
            behind=jnp.where(accepted == draft, 2, 1),
        )

    return jax.lax.while_loop(lambda state: state.answers.alive.sum() > batch - free, step, state)


def propose(
    student: Reader,
    state: State,
    uniforms: Float[Array, "B d"],
    choice: choose.Choice,
) -> tuple[Int[Array, "B d"], Float[Array, "B d V"], cache.Cache]:
    """The student's d drafts, the distributions that they were drawn from, and its cache with all that it read."""
    rows = jnp.arange(len(state.behind))

    def read(past: cache.Cache, tokens: Array, real: Array, last: Array) -> tuple[Array, cache.Cache]:
        """Probabilities [B, V] after each row's token in column `last`."""
        positions = _positions(past, tokens, student.prefix)
        hidden, after = student.decoder(tokens, positions, real, prefix=student.prefix, past=past)
        assert after is not None
        return choice.probabilities(constrain(student.decoder.logits(hidden[rows, last]), "batch", "vocab")), after

    def next_draft(
        carry: tuple[cache.Cache, Array], uniforms: Array
    ) -> tuple[tuple[cache.Cache, Array], tuple[Array, Array]]:
        past, ids = carry
        probs, past = read(past, ids[:, None], jnp.ones((len(rows), 1), bool), jnp.zeros_like(rows))
        ids = choose.draw(probs, uniforms[:, None])[:, 0]
        return (past, ids), (ids, probs)

    probs, past = read(state.past, state.unread, jnp.arange(2)[None] < state.behind[:, None], state.behind - 1)
    ids = choose.draw(probs, uniforms[:, :1])[:, 0]
    (past, _), (later_ids, later_probs) = jax.lax.scan(next_draft, (past, ids), uniforms[:, 1:].T)
    all_ids, all_probs = jnp.concatenate([ids[None], later_ids]), jnp.concatenate([probs[None], later_probs])
    return jnp.swapaxes(all_ids, 0, 1), jnp.swapaxes(all_probs, 0, 1), past


def accept(
    drafts: Int[Array, "B d"],
    student_probs: Float[Array, "B d V"],
    teacher_probs: Float[Array, "B d+1 V"],
    verdict_uniforms: Float[Array, "B d+1"],
    correction_uniforms: Float[Array, "B d+1"],
) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """The number of drafts that stand in each row, and the token that the teacher writes after them, the correction.

    A draft x of the student's distribution q stands with probability min(1, p(x) / q(x)). In the place of the first
    draft that does not stand, the correction is drawn from max(0, p - q); where all stand, it is drawn from p in the
    place after them. Every token is then distributed as p (arXiv 2211.17192, appendix A.1).
    """
    rows, draft = jnp.arange(len(drafts)), drafts.shape[1]
    p, q = (jnp.take_along_axis(x[:, :draft], drafts[..., None], 2)[..., 0] for x in (teacher_probs, student_probs))
    accepted = jnp.cumprod(verdict_uniforms[:, :draft] * q < p, 1).sum(1)
    target = teacher_probs[rows, accepted]
    proposed = jnp.where((accepted < draft)[:, None], student_probs[rows, jnp.minimum(accepted, draft - 1)], 0)
    residual = jnp.maximum(target - proposed, 0)
    # The residual is all 0 if p and q differ by rounding alone.
    residual = jnp.where(residual.sum(1, keepdims=True) > 0, residual, target)
    return accepted, choose.draw(residual, correction_uniforms[rows, accepted][:, None])[:, 0]


def _verify(
    teacher: Reader, answers: generate.State, drafts: Int[Array, "B d"]
) -> tuple[Float[Array, "B d+1 V"], cache.Cache]:
    """The teacher's logits after its last token and after every draft, in one pass, and its cache with all of them."""
    tokens = jnp.concatenate([answers.tokens[:, None], drafts], 1)
    real = jnp.broadcast_to(answers.alive[:, None], tokens.shape)
    positions = _positions(answers.past, tokens, teacher.prefix)
    hidden, past = teacher.decoder(tokens, positions, real, prefix=teacher.prefix, past=answers.past)
    assert past is not None
    return constrain(teacher.decoder.logits(hidden), "batch", "length", "vocab"), past


def _advance(
    before: generate.State,
    drafts: Int[Array, "B d"],
    accepted: Int[Array, "B"],
    corrections: Int[Array, "B"],
    logits: Float[Array, "B d+1 V"],
    uniforms: Float[Array, "B d+1 u"],
    past: cache.Cache,
    stops: Bool[Array, "V"],
    targets: Target,
) -> generate.State:
    """The answers with the accepted drafts and the correction added, cut at a stop token and at the limit."""
    steps, width = before.written["ids"].shape[1], drafts.shape[1] + 1
    offsets = jnp.arange(width)[None]  # of a place from the first that this step writes
    ids = jnp.where(offsets < accepted[:, None], jnp.pad(drafts, ((0, 0), (0, 1))), corrections[:, None])
    ends = stops[ids] & (offsets <= accepted[:, None])
    count = jnp.where(ends.any(1), ends.argmax(1), accepted) + 1
    count = jnp.where(before.alive, jnp.minimum(count, steps - before.ages), 0)
    columns = _by_column(functools.partial(generate.observe, targets=targets), logits, ids, uniforms)
    columns["verdicts"] = jnp.where(offsets < accepted[:, None], 1, jnp.where(offsets < width - 1, -1, 0))
    # From `steps` on nothing is written; different places, since `write` asks for that.
    places = jnp.where(offsets < count[:, None], before.ages[:, None] + offsets, steps + offsets)
    stopped = before.alive & (ends & (offsets < count[:, None])).any(1)
    ages = before.ages + count
    return generate.State(
        tokens=corrections,
        keys=before.keys,
        alive=before.alive & ~stopped & (ages < steps),
        stopped=before.stopped | stopped,
        ages=ages,
        past=dataclasses.replace(past, lengths=before.past.lengths + count),
        written=jax.tree.map(lambda rows, new: generate.write(rows, new, places), before.written, columns),
    )


def _positions(past: cache.Cache, tokens: Int[Array, "B T"], prefix: cache.Prefix | None) -> Int[Array, "B T"]:
    """The positions of tokens that follow what a row has read."""
    starts = past.lengths if prefix is None else past.lengths + prefix.starts(len(tokens))
    return starts[:, None] + jnp.arange(tokens.shape[1])[None]


def _by_column(function: Callable, *columns: Shaped[Array, "B T ..."]) -> Any:
    """`function`, which takes and returns arrays of one column's rows, [B, ...], applied to T columns."""
    batch, width = columns[0].shape[:2]
    results = function(*(x.reshape(batch * width, *x.shape[2:]) for x in columns))
    return jax.tree.map(lambda x: x.reshape(batch, width, *x.shape[1:]), results)
