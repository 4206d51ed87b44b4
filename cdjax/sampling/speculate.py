"""Several tokens a step: the student, which reads a short prompt, drafts them, and the teacher reads all at once.

In: what generate.py takes, and the student with its own prompts. Out: the same `Samples`, each answer distributed as if
the teacher had written it alone, and a verdict on every draft. After Leviathan, Kalman and Matias, "Fast Inference from
Transformers via Speculative Decoding" (arXiv 2211.17192), algorithm 1. The caller has entered `jax.set_mesh`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cdjax.model import cache
from cdjax.model.reader import Reader
from cdjax.parallel import constrain
from cdjax.sampling import choose, generate
from cdjax.sampling.targets.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Between two steps: the teacher's answers, and how far the student has read them.

    Both sides forget a draft that was refused by having shorter `lengths`: the next token takes its column.
    """

    answers: generate.State
    past: cache.Cache  # of the student
    unread: Int[Array, "B 2"]  # what the student reads next, padded on the right
    behind: Int[Array, "B"]  # how many these are: 2 where all drafts were accepted, as the last of them was not read


@functools.partial(jax.jit, static_argnames="slots", donate_argnames="answers")
def start(student: Reader, answers: generate.State, slots: int) -> State:
    """Rows that wait for a prompt. Both sides' caches need as many more `slots` than without drafts as a draft has."""
    batch = len(answers.tokens)
    return State(
        answers=answers,
        past=cache.new_cache(student.decoder.spec, batch, slots, student.decoder.dtype),
        unread=constrain(jnp.zeros((batch, 2), jnp.int32), "batch", "length"),
        behind=constrain(jnp.ones(batch, jnp.int32), "batch"),
    )


@functools.partial(jax.jit, donate_argnames="state")
def admit(
    student: Reader,
    state: State,
    prompts: Int[Array, "R T"],
    real: Bool[Array, "R T"],
    rows: Int[Array, "R"],
) -> State:
    """Reads the student's prompts, left-padded, of rows whose teacher's prompts `generate.admit` has put in place."""
    new, which = generate.places(len(state.behind), real, rows)
    first = jnp.pad(prompts[:, -1:], ((0, 0), (0, 1)))
    return State(
        answers=state.answers,
        past=generate.fill(student, state.past, prompts, real, new, which),
        unread=generate.put(state.unread, first, new, which),
        behind=jnp.where(new, 1, state.behind),
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
    """Steps of `draft` tokens until at least `free` rows are free."""
    batch = len(state.behind)

    def step(state: State) -> State:
        before = state.answers
        # Each place in an answer has numbers of its own, whichever step it falls into, for the draft, the verdict,
        # the teacher's own token, and the record. Those of a place are used up only when its token is final.
        numbers = jax.vmap(lambda i: generate.uniforms(before.keys, before.ages + i, 3 + targets.uniforms), out_axes=1)(
            jnp.arange(draft + 1)
        )
        drafts, of_student, past = propose(student, state, numbers[:, :draft, 0], choice)
        logits, read = _verify(teacher, before, drafts)
        of_teacher = _each(choice.probabilities, logits)
        kept, own = accept(drafts, of_student, of_teacher, numbers[..., 1], numbers[..., 2])
        stays = jnp.where(before.alive, state.behind + jnp.minimum(kept, draft - 1), 0)
        return State(
            answers=_advance(before, drafts, kept, own, logits, numbers[..., 3:], read, stops, targets),
            past=dataclasses.replace(past, lengths=state.past.lengths + stays),
            unread=jnp.stack([jnp.where(kept == draft, drafts[:, -1], own), own], 1),
            behind=jnp.where(kept == draft, 2, 1),
        )

    return jax.lax.while_loop(lambda state: state.answers.alive.sum() > batch - free, step, state)


def propose(
    student: Reader,
    state: State,
    uniforms: Float[Array, "B d"],
    choice: choose.Choice,
) -> tuple[Int[Array, "B d"], Float[Array, "B d V"], cache.Cache]:
    """The student's next tokens, one after the other, the distribution that each was drawn from, and what it read."""
    rows = jnp.arange(len(state.behind))

    def read(past: cache.Cache, tokens: Array, real: Array, last: Array) -> tuple[Array, cache.Cache]:
        positions = _positions(past, tokens, student.prefix)
        hidden, after = student.decoder(tokens, positions, real, prefix=student.prefix, past=past)
        assert after is not None
        return choice.probabilities(constrain(student.decoder.logits(hidden[rows, last]), "batch", "vocab")), after

    def one(carry: tuple[cache.Cache, Array], uniforms: Array) -> tuple[tuple[cache.Cache, Array], tuple[Array, Array]]:
        past, ids = carry
        found, past = read(past, ids[:, None], jnp.ones((len(rows), 1), bool), jnp.zeros_like(rows))
        ids = choose.draw(found, uniforms[:, None])[:, 0]
        return (past, ids), (ids, found)

    first, past = read(state.past, state.unread, jnp.arange(2)[None] < state.behind[:, None], state.behind - 1)
    ids = choose.draw(first, uniforms[:, :1])[:, 0]
    (past, _), (more_ids, more) = jax.lax.scan(one, (past, ids), uniforms[:, 1:].T)
    drafts = jnp.concatenate([ids[None], more_ids]), jnp.concatenate([first[None], more])
    return jnp.swapaxes(drafts[0], 0, 1), jnp.swapaxes(drafts[1], 0, 1), past


def accept(
    drafts: Int[Array, "B d"],
    of_student: Float[Array, "B d V"],
    of_teacher: Float[Array, "B d+1 V"],
    verdict: Float[Array, "B d+1"],
    own: Float[Array, "B d+1"],
) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """How many drafts stand, and the teacher's own token after them, given two uniforms for each place.

    A draft x of the student's distribution q stands with probability min(1, p(x) / q(x)); in the place of the first
    that does not, the token is drawn from max(0, p - q), and after the last of them from p. Each token is one of p.
    """
    rows, draft = jnp.arange(len(drafts)), drafts.shape[1]
    p, q = (jnp.take_along_axis(x[:, :draft], drafts[..., None], 2)[..., 0] for x in (of_teacher, of_student))
    kept = jnp.cumprod(verdict[:, :draft] * q < p, 1).sum(1)
    wanted = of_teacher[rows, kept]
    known = jnp.where((kept < draft)[:, None], of_student[rows, jnp.minimum(kept, draft - 1)], 0)
    missing = jnp.maximum(wanted - known, 0)
    # Nothing is missing if p and q differ by rounding alone.
    missing = jnp.where(missing.sum(1, keepdims=True) > 0, missing, wanted)
    return kept, choose.draw(missing, own[rows, kept][:, None])[:, 0]


def _verify(teacher: Reader, answers: generate.State, drafts):
    """The teacher's logits at the last token and at every draft, in one pass, and its cache with all of them."""
    tokens = jnp.concatenate([answers.tokens[:, None], drafts], 1)
    real = jnp.broadcast_to(answers.alive[:, None], tokens.shape)
    positions = _positions(answers.past, tokens, teacher.prefix)
    hidden, past = teacher.decoder(tokens, positions, real, prefix=teacher.prefix, past=answers.past)
    return constrain(teacher.decoder.logits(hidden), "batch", "length", "vocab"), past


def _advance(before: generate.State, drafts, kept, own, logits, uniforms, read, stops, targets: Target):
    """The answers with the drafts that stand and the teacher's own token, cut at a stop token and at the limit."""
    steps, width = before.written["ids"].shape[1], drafts.shape[1] + 1
    places = jnp.arange(width)[None]
    ids = jnp.where(places < kept[:, None], jnp.pad(drafts, ((0, 0), (0, 1))), own[:, None])
    ends = stops[ids] & (places <= kept[:, None])
    count = jnp.where(ends.any(1), ends.argmax(1), kept) + 1
    count = jnp.where(before.alive, jnp.minimum(count, steps - before.ages), 0)
    column = _each(functools.partial(generate.observe, targets=targets), logits, ids, uniforms)
    column["verdicts"] = jnp.where(places < kept[:, None], 1, jnp.where(places < width - 1, -1, 0))
    # Beyond the end nothing is written.
    at = jnp.where(places < count[:, None], before.ages[:, None] + places, steps + places)
    stopped = before.alive & (ends & (places < count[:, None])).any(1)
    ages = before.ages + count
    return generate.State(
        tokens=own,
        keys=before.keys,
        alive=before.alive & ~stopped & (ages < steps),
        stopped=before.stopped | stopped,
        ages=ages,
        past=dataclasses.replace(read, lengths=before.past.lengths + count),
        written=jax.tree.map(lambda old, new: generate.write(old, new, at), before.written, column),
    )


def _positions(past: cache.Cache, tokens, prefix: cache.Prefix | None):
    starts = past.lengths if prefix is None else past.lengths + prefix.starts(len(tokens))
    return starts[:, None] + jnp.arange(tokens.shape[1])[None]


def _each(function, *columns):
    """`function` of one column's rows, for [B, T, ...] arrays of several columns."""
    batch, width = columns[0].shape[:2]
    found = function(*(x.reshape(batch * width, *x.shape[2:]) for x in columns))
    return jax.tree.map(lambda x: x.reshape(batch, width, *x.shape[1:]), found)
