import numpy as np
import pytest

from cdjax.lessons import packing

RNG = np.random.default_rng(0)


def long_tail(count):
    """Prompts of 8 to 256 tokens, completions of 4 to 512, most of them short: tokens read, and tokens kept."""
    prompt = np.clip(RNG.lognormal(np.log(40), 0.9, count).astype(int), 8, 256)
    kept = np.clip(RNG.lognormal(np.log(60), 1.1, count).astype(int), 4, 512)
    return prompt + kept - 1, kept


def verbs(count):
    """Prompts of 8 to 11 tokens, completions of 2 to 4 and now and then 8: a task of one-word answers."""
    kept = RNG.choice([2, 3, 4, 8], count, p=[0.4, 0.4, 0.18, 0.02])
    return RNG.integers(8, 12, count) + kept - 1, kept


def planned(tokens, kept, batch, parts=1, epochs=3, sides=1, contexts=1):
    rngs = (np.random.default_rng([0, epoch]) for epoch in range(epochs))
    context = np.arange(len(tokens)) % contexts
    return packing.plan([tokens] * sides, context, kept, batch=batch, parts=parts, rngs=rngs)


def padding(plan, tokens, side=0):
    read = np.append(tokens, 0)[plan.index].sum()
    layout = plan.sides[side]
    return 1 - read / (plan.parts * layout.groups * layout.rows * layout.width.sum())


@pytest.mark.parametrize("lengths", [long_tail, verbs])
@pytest.mark.parametrize("batch", [8, 16, 64])
def test_less_than_15_percent_of_the_tokens_is_padding_in_few_shapes(lengths, batch):
    tokens, kept = lengths(1000)
    plan = planned(tokens, kept, batch)
    assert padding(plan, tokens) < 0.15
    assert len(np.unique(plan.sides[0].width)) <= packing.SHAPES


def test_rows_are_not_much_wider_than_the_longest_text():
    tokens, kept = long_tail(1000)
    assert planned(tokens, kept, 64).sides[0].width.max() < 1.5 * tokens.max()


@pytest.mark.parametrize(("parts", "contexts"), [(1, 1), (4, 1), (2, 3)])
def test_texts_lie_side_by_side_inside_rows_of_their_context(parts, contexts):
    tokens, kept = long_tail(203)
    plan = planned(tokens, kept, 16, parts, sides=2, contexts=contexts)
    assert [layout.groups for layout in plan.sides] == [1, contexts]
    assert len(np.unique(np.stack([layout.width for layout in plan.sides]), axis=1).T) <= packing.SHAPES
    for step, index in enumerate(plan.index):
        for layout in plan.sides:
            taken = np.zeros((parts, layout.groups, layout.rows, layout.width[step]), int)
            for place in np.flatnonzero(index >= 0):
                group, start = layout.group[step, place], layout.start[step, place]
                assert group == (index[place] % contexts if layout.groups > 1 else 0)
                row = taken[plan.part[step, place], group, layout.row[step, place]]
                assert start + tokens[index[place]] <= len(row)
                row[start : start + tokens[index[place]]] += 1
            assert taken.max() == 1 and taken.sum() == tokens[index[index >= 0]].sum()
        for part in range(parts):
            assert kept[index[(plan.part[step] == part) & (index >= 0)]].sum() <= plan.kept


@pytest.mark.parametrize("count", [1, 7, 32, 203])
def test_an_epoch_holds_every_pair_once_in_batches_of_like_size(count):
    tokens, _ = long_tail(count)
    index = packing.deal(tokens, np.zeros_like(tokens), 16, np.random.default_rng(0))
    assert index.shape == (-(-count // 16), 16) and sorted(index[index >= 0]) == list(range(count))
    held = (index >= 0).sum(1)
    assert held.max() - held.min() <= -(-(16 * len(index) - count) // len(index))


def test_batches_hold_like_numbers_of_tokens_and_every_length():
    """Much more alike than batches of a plain shuffle, and never the long ones together."""
    tokens, _ = long_tail(1024)
    dealt = tokens[packing.deal(tokens, np.zeros_like(tokens), 32, np.random.default_rng(0))]
    plain = tokens[np.random.default_rng(0).permutation(1024).reshape(-1, 32)]
    assert dealt.sum(1).std() < 0.25 * plain.sum(1).std()
    assert (dealt > np.median(tokens)).sum(1).std() < 1


def test_any_two_pairs_of_different_strata_may_meet():
    """Who shares a batch with whom is left to chance."""
    tokens = np.arange(8)
    met = {
        frozenset(row.tolist())
        for seed in range(100)
        for row in packing.deal(tokens, np.zeros_like(tokens), 2, np.random.default_rng(seed))
    }
    assert met == {frozenset((low, high)) for low in range(4) for high in range(4, 8)}


def test_a_size_is_there_only_if_it_saves_an_eighth():
    needs = np.array([[170], [175], [180], [190]])
    assert packing.sizes(needs, np.array([1])).tolist() == [[192]] * 4
    needs = np.array([[9], [30], [31], [64]])
    assert packing.sizes(needs, np.array([1])).tolist() == [[16], [32], [32], [64]]


def test_pieces_of_a_batch_are_alike():
    tokens, kept = long_tail(640)
    plan = planned(tokens, kept, 64, parts=8, epochs=1)
    read = np.array(
        [
            [tokens[index[part == number]].sum() for number in range(8)]
            for index, part in zip(plan.index, plan.part, strict=True)
        ]
    )
    assert (read.max(1) / read.mean(1)).max() < 1.1


def test_every_batch_has_its_share_of_every_context():
    tokens, _ = long_tail(160)
    contexts = np.arange(160) % 4
    index = packing.deal(tokens, contexts, 16, np.random.default_rng(0))
    assert (np.sort(contexts[index], 1) == np.repeat(np.arange(4), 4)).all()
