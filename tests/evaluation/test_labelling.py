"""Which pairs of a policy's completions are worth a label."""

from __future__ import annotations

import numpy as np
import pytest

from touchstone.evaluation.labelling import choose_pairs, shortlist
from touchstone.groups import Completion, Group, Message, make_group

TEXTS = ("boil the water", "call a friend", "sleep for an hour", "paint it green")


def make(number: int, texts: tuple[str, ...] = TEXTS) -> Group:
    return make_group(
        prompt=[Message("user", f"question {number}")], completions=map(Completion, texts), comparisons=(), source="t"
    )


def test_where_models_disagree_comes_first() -> None:
    groups = [make(number) for number in range(20)]
    sure = np.array([[4.0, 3.0, 2.0, 1.0]] * 3)
    torn = np.array([[4.0, 3.9, 2.0, 1.0], [3.9, 4.0, 2.0, 1.0], [4.0, 3.9, 2.0, 1.0]])
    rewards = [torn if number < 5 else sure for number in range(20)]
    chosen = choose_pairs(groups, rewards, 5, seed=1, random_share=0.0)
    assert chosen == [[(0, 1)]] * 5 + [[]] * 15


def test_with_one_model_small_margins_come_first() -> None:
    groups = [make(number) for number in range(4)]
    rewards = [np.array([[0.0, 10.0, 20.0 + number, 21.0]]) for number in range(4)]
    chosen = choose_pairs(groups, rewards, 2, seed=1, random_share=0.0)
    assert [bool(pairs) for pairs in chosen] == [True, False, False, True] or chosen[0] == [(2, 3)]
    assert sum(map(len, chosen)) == 2
    assert all(pair == (2, 3) for pairs in chosen for pair in pairs)


def test_every_prompt_is_asked_about_before_any_is_twice() -> None:
    groups = [make(number) for number in range(10)]
    rewards = [np.arange(4.0)[None] * (number + 1) for number in range(10)]
    assert [len(pairs) for pairs in choose_pairs(groups, rewards, 10, seed=1)] == [1] * 10
    several = choose_pairs(groups, rewards, 25, seed=1)
    assert {len(pairs) for pairs in several} == {2, 3}
    assert all(len(set(pairs)) == len(pairs) for pairs in several)
    assert sum(map(len, choose_pairs(groups, rewards, 10_000, seed=1))) <= 3 * 10


def test_texts_that_read_alike_are_never_compared() -> None:
    groups = [make(0, ("boil the water now", "Boil  THE water now", "now boil the water"))]
    assert choose_pairs(groups, [np.array([[1.0, 2.0, 3.0]])], 3, seed=1) == [[]]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_chooses_the_same_and_chance_has_its_share(seed: int) -> None:
    groups = [make(number) for number in range(50)]
    rewards = [np.random.default_rng(number).normal(size=(3, 4)) for number in range(50)]
    assert choose_pairs(groups, rewards, 40, seed=seed) == choose_pairs(groups, rewards, 40, seed=seed)
    doubtful = choose_pairs(groups, rewards, 40, seed=seed, random_share=0.0)
    mixed = choose_pairs(groups, rewards, 40, seed=seed, random_share=0.5)
    assert sum(map(len, mixed)) == 40
    assert doubtful != mixed


def test_a_shortlist_holds_what_the_models_like_most_and_others() -> None:
    texts = tuple(f"answer number {number} of many" for number in range(30))
    groups = [make(number, texts) for number in range(3)]
    rewards = [np.stack([np.arange(30.0), 100 * np.arange(30.0)]) for _ in groups]
    few, scores = shortlist(groups, rewards, seed=1)
    for group, row in zip(few, scores, strict=True):
        assert len(group.completions) == 8
        assert {completion.text for completion in group.completions} >= set(texts[-4:])
        assert row.shape == (2, 8)
        assert [texts[int(value)] for value in row[0]] == [completion.text for completion in group.completions]
    assert len({tuple(c.text for c in group.completions) for group in few}) > 1
    short, _ = shortlist([make(0)], [np.arange(4.0)[None]], seed=1)
    assert short[0].completions == make(0).completions
