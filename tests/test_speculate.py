"""A student that drafts changes how fast the teacher answers, and nothing about the answers."""

import dataclasses
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdjax import config, parallel
from cdjax.model import decoder
from cdjax.model.reader import Reader
from cdjax.sampling import answers, choose, read, speculate
from cdjax.sampling.choose import Choice
from cdjax.sampling.store import Store
from cdjax.views.prompts import Prompts
from tests.conftest import TINY, Both
from tests.test_sampling import assert_same

RNG = np.random.default_rng(0)
BOTH = Both()
STOPS = np.array((3, 9, 20, 31, 40, 44), np.int32)
NAMES = tuple(f"input {i}" for i in range(7))
TEACHERS = Prompts(
    inputs=NAMES,
    context=np.arange(1, 8, dtype=np.int32),
    suffixes=tuple(RNG.integers(1, 64, n).astype(np.int32) for n in (5, 1, 7, 3, 8, 5, 2)),
)
STUDENTS = Prompts(
    inputs=NAMES,
    context=np.array([5, 6], np.int32),
    suffixes=tuple(RNG.integers(1, 64, n).astype(np.int32) for n in (1, 3, 9, 1, 4, 2, 6)),
)


def sharper(model, by=12.0):
    """The model with larger logits: its distributions are far from uniform, unlike those of a new model."""
    model = jax.tree.map(lambda x: x, model)
    model.final_norm.scale[...] = model.final_norm.scale[...] * by
    return model


@pytest.fixture(scope="module")
def sides(mesh):
    """A teacher, and a student that often agrees with it."""
    first, second = (sharper(decoder.create(TINY, mesh, seed=seed)) for seed in (0, 1))
    return first, jax.tree.map(lambda a, b: 0.8 * a + 0.2 * b, first, second)


@pytest.fixture(scope="module")
def sides8(sides, mesh8):
    """The same two on eight devices."""
    return tuple(jax.device_put(side, parallel.shardings(side, mesh8)) for side in sides)


def ask(models, mesh, *, draft=3, sampling=config.Sampling(batch=3), students=STUDENTS, **changes):
    """The stage's answers; without a draft the teacher writes them alone."""
    arguments = dict(stops=STOPS, targets=BOTH, steps=9, seed=1) | changes
    sampling = dataclasses.replace(sampling, draft=draft)
    teacher, student = map(Reader, models)
    return answers.sample(
        teacher, mesh, TEACHERS, sampling=sampling, student=answers.Student(student, students), **arguments
    )


def verdicts(rollouts):
    return np.concatenate([rollout.verdicts for rollout in rollouts])


# --- the distribution -----------------------------------------------------------------------------------------------

FIVE = dataclasses.replace(TINY, vocab=5, layers=1)
END = 4


def probabilities(logits, choice):
    """The distribution of a choice over [V] logits, all different, in numpy: a reference."""
    order = np.argsort(-logits)[: choice.top_k or None]
    weights = np.exp(logits[order] / choice.temperature - logits.max() / choice.temperature)
    weights[1:][np.cumsum(weights)[:-1] >= choice.top_p * weights.sum()] = 0
    kept_probabilities = np.zeros_like(logits)
    kept_probabilities[order] = weights / weights.sum()
    return kept_probabilities


def all_answers(model, mesh, prompt, choice):
    """Every answer of at most 3 tokens that ends with END, and its probability, from the whole forward pass."""
    pairs = np.array(list(itertools.product(range(5), repeat=2)), np.int32)
    tokens = np.concatenate([np.tile(prompt, (25, 1)), pairs], 1)
    real = np.ones(tokens.shape, bool)

    def logits(model, tokens, real):
        return model.logits(model(tokens, decoder.row_positions(real, None), real)[0])

    with jax.set_mesh(mesh):
        last = np.asarray(jax.jit(logits)(model, tokens, real), np.float64)[:, -3:]
    after = {
        tuple(pair[:n]): probabilities(row[n], choice) for pair, row in zip(pairs, last, strict=True) for n in range(3)
    }
    probability_of = {}
    for answer in itertools.product(range(5), repeat=3):
        answer = answer[: answer.index(END) + 1] if END in answer else answer
        probability_of[answer] = np.prod([after[answer[:n]][token] for n, token in enumerate(answer)])
    assert abs(sum(probability_of.values()) - 1) < 1e-6
    return probability_of


def excess(seen, expected):
    """How many sigma the counts of outcomes are off their probabilities, by a chi-square test; rare ones together."""
    count = sum(seen.values())
    assert not any(seen.get(outcome, 0) for outcome, p in expected.items() if p == 0)
    often = {outcome: count * p for outcome, p in expected.items() if count * p >= 5}
    rare = count - sum(often.values()), count - sum(seen.get(outcome, 0) for outcome in often)
    terms = [(seen.get(outcome, 0) - n) ** 2 / n for outcome, n in often.items()]
    terms += [(rare[1] - rare[0]) ** 2 / rare[0]] if rare[0] >= 5 else []
    freedom = len(terms) - 1
    return (sum(terms) - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("draft", "choice"), [(1, Choice()), (2, Choice()), (2, Choice(0.8, top_k=4, top_p=0.9))], ids=str
)
def test_answers_are_distributed_as_the_teachers_own(mesh, draft, choice):
    first, second = (sharper(decoder.create(FIVE, mesh, seed=seed), 3.0) for seed in (2, 3))
    views = [Prompts(("x",), np.zeros(0, np.int32), (np.array(ids, np.int32),)) for ids in ([1, 2, 0, 3], [2, 2])]
    rollouts = answers.sample(
        Reader(first),
        mesh,
        views[0],
        stops=np.array([END], np.int32),
        sampling=config.Sampling(
            choice.temperature, choice.top_k, choice.top_p, per_input=20_000, batch=2048, draft=draft
        ),
        targets=config.Labels(),
        steps=3,
        seed=0,
        student=answers.Student(Reader(second), views[1]),
    )
    seen = Counter(tuple(rollout.ids.tolist()) for rollout in rollouts)
    assert abs(excess(seen, all_answers(first, mesh, views[0].suffixes[0], choice))) < 4
    assert 0.2 < np.mean(verdicts(rollouts) > 0) < 0.8


def as_it_is(verdict):
    return speculate.accept, verdict


def swapped(verdict):
    """The ratio upside down."""

    def rule(drafts, of_student, of_teacher, *numbers):
        both = of_teacher[:, :-1], jnp.concatenate([of_student, of_teacher[:, -1:]], 1)
        return speculate.accept(drafts, *both, *numbers)

    return rule, verdict


def always(verdict):
    """Every draft stands."""
    return speculate.accept, -jnp.ones_like(verdict)


def never(verdict):
    """No draft stands, but the token is still what q lacks of p."""
    return speculate.accept, verdict + 1e9


def from_p(verdict):
    """After a refusal the token is drawn from p whole."""

    def rule(drafts, of_student, of_teacher, verdict, uniforms):
        kept, _ = speculate.accept(drafts, of_student, of_teacher, verdict, uniforms)
        rows = jnp.arange(len(kept))
        return kept, choose.draw(of_teacher[rows, kept], uniforms[rows, kept][:, None])[:, 0]

    return rule, verdict


@pytest.mark.parametrize("rule", [as_it_is, swapped, always, never, from_p])
def test_the_rule_gives_the_teachers_distribution_and_others_do_not(rule):
    """The first token of a step, and the second of those that have one, which differ from the first."""
    count, draft = 20_000, 2
    logits = RNG.normal(size=(2, 3, 6))
    p, q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p, q = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), (count, *x.shape)) for x in (p, q[:draft]))
    numbers = jax.random.uniform(jax.random.key(3), (count, 3, 3))
    drafts = jax.vmap(lambda q, u: choose.draw(q, u[:, None])[:, 0], 1, 1)(q, numbers[:, :2, 0])
    right = rule is as_it_is
    rule, verdict = rule(numbers[..., 1])
    kept, chosen = (np.asarray(x) for x in rule(drafts, q, p, verdict, numbers[..., 2]))
    worst = 0.0
    for place in range(3):
        there = kept >= place
        ids = np.where(kept > place, drafts[:, min(place, 1)], chosen)[there]
        if len(ids):
            worst = max(worst, abs(excess(Counter(ids.tolist()), dict(enumerate(np.asarray(p[0, place], float))))))
    assert worst < 4 if right else worst > 20


# --- what is the same with and without drafts -----------------------------------------------------------------------


@pytest.mark.parametrize("draft", [1, 4])
def test_greedy_answers_are_the_same(sides, mesh, draft):
    greedy = config.Sampling(temperature=0.0, batch=3)
    plain, drafted = (ask(sides, mesh, draft=n, sampling=greedy, targets=config.TopK(5)) for n in (0, draft))
    blank = [dataclasses.replace(rollout, verdicts=rollout.ids * 0) for rollout in drafted]
    assert_same(plain, blank, atol=2e-5)
    of_drafted = verdicts(drafted)
    assert not verdicts(plain).any() and (of_drafted > 0).any() and (of_drafted < 0).any()


def test_scoring_reproduces_what_was_recorded(sides, mesh):
    @jax.jit
    def score(model, *rows):
        hidden = read.completion_hidden(Reader(model), *rows)
        return read.logprobs(Reader(model), *rows), jax.nn.log_softmax(model.logits(hidden) / BOTH.top_k.temperature)

    for row, rollout in enumerate(ask(sides, mesh)[:4]):
        prompt = TEACHERS.whole[row]
        rows = [jnp.asarray(x)[None] for x in (prompt, prompt >= 0, rollout.ids, rollout.ids >= 0)]
        with jax.set_mesh(mesh):
            scored, soft = (np.asarray(output[0]) for output in score(sides[0], *rows))
        np.testing.assert_allclose(scored, rollout.logprobs, atol=2e-4)
        expected = np.take_along_axis(soft, rollout.targets["top_k.ids"], -1)
        np.testing.assert_allclose(expected, rollout.targets["top_k.logprobs"], atol=2e-4)
        np.testing.assert_allclose(expected, -np.sort(-soft, -1)[:, :5], atol=2e-4)
        assert (np.take_along_axis(soft, rollout.targets["draws.ids"], -1) > -20).all()


def test_an_answer_ends_with_its_first_stop_token(sides, mesh):
    rollouts = ask(sides, mesh, draft=5, sampling=config.Sampling(per_input=16, batch=28))
    for rollout in rollouts:
        assert not set(rollout.ids[:-1].tolist()) & set(STOPS.tolist())
        assert rollout.stopped == (rollout.ids[-1] in STOPS) and (rollout.stopped or len(rollout.ids) == 9)
    inside = [rollout for rollout in rollouts if rollout.stopped and rollout.verdicts[-1] > 0]
    assert inside and any(not rollout.stopped for rollout in rollouts)


def test_the_student_itself_would_be_followed_everywhere(sides, mesh):
    """Equal models with equal prompts: q is p."""
    rollouts = ask((sides[0], sides[0]), mesh, students=TEACHERS, sampling=config.Sampling(per_input=16, batch=28))
    assert (verdicts(rollouts) >= 0).all()
    for rollout in rollouts:
        assert [place for place, verdict in enumerate(rollout.verdicts) if verdict == 0] == list(
            range(3, len(rollout.ids), 4)
        )


# --- what an answer depends on --------------------------------------------------------------------------------------


def test_answers_do_not_depend_on_batch_or_mesh(sides, sides8, mesh, mesh8, capfd):
    eight, threes, spread = (
        ask(models, where, sampling=config.Sampling(per_input=2, batch=batch))
        for models, where, batch in ((sides, mesh, 8), (sides, mesh, 3), (sides8, mesh8, 8))
    )
    assert len({tuple(rollout.ids.tolist()) for rollout in eight}) > 10
    assert_same(eight, threes, atol=1e-4)
    assert_same(eight, spread, atol=1e-4)
    assert "rematerialization" not in capfd.readouterr().err


def test_killed_and_resumed_equals_never_killed(sides, mesh, tmp_path):
    arguments = dict(sampling=config.Sampling(per_input=2, batch=3))
    never = ask(sides, mesh, **arguments)

    def kill(count):
        if len(list(tmp_path.glob("*.npz"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(sides, mesh, **arguments, store=Store(tmp_path), progress=kill)
    assert_same(ask(sides, mesh, **arguments, store=Store(tmp_path)), never)


def test_a_store_of_another_student_is_refused(sides, mesh, tmp_path):
    ask(sides, mesh, store=Store(tmp_path))
    for change, what in (
        ({"models": (sides[0], sides[0])}, "student was"),
        ({"students": TEACHERS}, "student_prompts"),
    ):
        with pytest.raises(config.UserError, match=what):
            ask(**dict(models=sides, mesh=mesh, store=Store(tmp_path)) | change)


def test_drafts_need_a_student(sides, mesh):
    with pytest.raises(config.UserError, match="sampling.draft=2 needs a student"):
        how = {"sampling": config.Sampling(draft=2), "targets": BOTH, "steps": 4, "seed": 0}
        answers.sample(Reader(sides[0]), mesh, TEACHERS, stops=STOPS, student=None, **how)
