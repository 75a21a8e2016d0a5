"""The plan of steps against its promises: nothing lost, nothing twice, whoever computes it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.places import CONFIGS
from tests.worlds.comparisons import compared, encode, group_of, random_groups
from touchstone.errors import TrainingError
from touchstone.groups import Comparison, Group, judged_pairs
from touchstone.model.templating import EncodedGroup
from touchstone.settings import Settings, compose
from touchstone.training.plan import make_steps, micro_batches, share_of, used_pairs
from touchstone.training.ranking import RankList, rank_lists

SETTINGS = {
    stem: compose([f"objective={stem}"], CONFIGS)
    for stem in (
        *("bradley_terry", "instructgpt", "agreement", "curriculum", "filter", "hard_negatives"),
        *("soft_labels", "davidson", "plackett_luce"),
    )
}
"""Composed once: that takes a tenth of a second each."""

MANY = hypothesis_settings(max_examples=40, deadline=None)


def settings_for(objective: str, comparisons_per_step: int = 16, **train: int) -> Settings:
    settings = SETTINGS[objective]
    changes = {"comparisons_per_step": comparisons_per_step, **train}
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


@pytest.mark.parametrize("objective", SETTINGS)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 3))
@MANY
def test_every_comparison_is_in_one_step_of_each_epoch(objective: str, seed: int, size: int, epochs: int) -> None:
    groups = [*random_groups(12, seed), group_of("pair", 2, [Comparison(0, 1, 1, 0)])]
    settings = settings_for(objective, size, epochs=epochs)
    steps = make_steps(groups, settings.objective, settings.train)
    every = [(n, p.chosen, p.rejected) for n, g in enumerate(groups) for p in used_pairs(g, settings.objective)]
    assert compared(steps) == sorted(every * epochs)
    for step in steps:
        assert step.comparisons == sum(len(chunk.pairs) for chunk in step.chunks)
        assert step.weight == pytest.approx(sum(chunk.weight for chunk in step.chunks))
        if settings.objective.weighting == "comparison":
            assert step.comparisons <= size
            assert step.divisor == step.weight


def parts(groups: Sequence[Group], settings: Settings) -> dict[int, float]:
    """What each group contributes to the sum of all steps' losses."""
    found: dict[int, float] = {}
    for step in make_steps(groups, settings.objective, settings.train):
        for chunk in step.chunks:
            found[chunk.group] = found.get(chunk.group, 0.0) + chunk.weight / step.divisor
    return found


def complete(name: object, size: int) -> Group:
    return group_of(name, size, [Comparison(i, j, 1, 0) for j in range(size) for i in range(j)])


@pytest.mark.parametrize("objective", ["instructgpt", "plackett_luce"])
@given(
    st.lists(st.sampled_from([2, 2, 2, 3, 4, 9, 15]), min_size=1, max_size=60), st.integers(1, 64), st.integers(0, 99)
)
@MANY
def test_a_group_has_the_same_part_in_training_whatever_its_size(
    objective: str, sizes: list[int], comparisons: int, seed: int
) -> None:
    groups = [complete(number, size) for number, size in enumerate(sizes)]
    found = parts(groups, settings_for(objective, comparisons, seed=seed, epochs=2))
    assert sorted(found) == list(range(len(groups)))
    assert min(found.values()) == pytest.approx(max(found.values()))


@pytest.mark.parametrize("objective", ["instructgpt", "plackett_luce"])
@pytest.mark.parametrize("large", [1, 30, 300])
def test_steps_are_alike_so_that_a_limit_on_gradients_treats_groups_alike_too(objective: str, large: int) -> None:
    """Each step's mean counts the same once its gradient's norm is limited: a group of nine must not fill one alone
    that sixteen pairs share otherwise (it had ten times a pair's part)."""
    groups = [complete(number, 9 if number < large else 2) for number in range(300)]
    part_of_steps: dict[int, float] = {}
    seeds = range(30 if large < len(groups) else 2)
    for seed in seeds:
        settings = settings_for(objective, seed=seed)
        steps = make_steps(groups, settings.objective, settings.train)
        assert max(step.weight for step in steps) <= 2.5 * min(step.weight for step in steps)
        for step in steps:
            for chunk in step.chunks:
                share = chunk.weight / step.weight
                part_of_steps[chunk.group] = part_of_steps.get(chunk.group, 0.0) + share / len(seeds)
    means = [sum(part_of_steps[k] for k in range(*ends)) / (ends[1] - ends[0]) for ends in ((0, large), (large, 300))
             if ends[0] < ends[1]]  # fmt: skip
    assert max(means) <= 1.15 * min(means)


def test_pairs_weighted_by_group_make_steps_of_the_usual_size() -> None:
    settings, usual = settings_for("instructgpt"), settings_for("bradley_terry")
    groups = [complete(number, 2) for number in range(100)]
    steps = make_steps(groups, settings.objective, settings.train)
    assert sorted(step.comparisons for step in steps) == [14] * 5 + [15] * 2
    assert len(steps) == len(make_steps(groups, usual.objective, usual.train)) == 7


def test_the_plan_follows_from_the_seed() -> None:
    groups = random_groups(60)
    settings, other = settings_for("bradley_terry", epochs=2), settings_for("bradley_terry", epochs=2, seed=1)
    steps = make_steps(groups, settings.objective, settings.train)
    assert steps == make_steps(groups, settings.objective, settings.train)
    assert steps != make_steps(groups, settings.objective, other.train)


@pytest.mark.parametrize("objective", SETTINGS)
@pytest.mark.parametrize("shared", [True, False])
@given(st.integers(0, 1000), st.integers(1, 8), st.sampled_from([40, 300, 5000]))
@hypothesis_settings(max_examples=15, deadline=None)
def test_ranks_and_micro_batches_share_a_step_exactly(
    objective: str, shared: bool, seed: int, ranks: int, budget: int
) -> None:
    groups = [*random_groups(10, seed), group_of("pair", 2, [Comparison(0, 1, 1, 0)])]
    encoded = encode(groups, seed)
    settings = settings_for(objective)
    for step in make_steps(groups, settings.objective, settings.train):
        weight, seen, ranked = 0.0, [], []
        for rank in range(ranks):
            chunks, counts = share_of(step, encoded, rank, ranks)
            micros = micro_batches(chunks, encoded, budget, shared=shared, counts=counts)
            assert micros, "every rank takes part"
            for micro in micros:
                assert micro.counts == counts
                assert len(micro.batches) == 1 or len(set(micro.groups)) == 1
                ends = [
                    int(batch.input_ids[row, column]) - 10
                    for batch in micro.batches
                    for row, column in zip(batch.rows, batch.columns, strict=True)
                ]
                assert len(set(ends)) == len(ends), "a completion is computed once"
                sides = zip(micro.chosen.tolist(), micro.rejected.tolist(), micro.groups, strict=True)
                pairs = [(group, ends[a] - 1000 * group, ends[b] - 1000 * group) for a, b, group in sides]
                lists = [
                    (sorted(ends[k] for k in ranking.positions.tolist()), ranking.weight) for ranking in micro.rankings
                ]
                weights = [weight for _, weight in lists] or micro.weights.tolist()
                assert (micro.wins + micro.losses + micro.ties).tolist() == pytest.approx([1.0] * len(pairs))
                if counts:
                    weight += sum(weights)
                    seen += pairs
                    ranked += [members for members, _ in lists]
                else:
                    assert set(weights) == set(micro.weights.tolist()) == {0.0}
        assert weight == pytest.approx(step.weight)
        assert sorted(seen) == compared([step])
        expected = [
            [1000 * chunk.group + completion for completion in ranking.completions]
            for chunk in step.chunks
            for ranking in chunk.rankings
        ]
        assert sorted(ranked) == sorted(expected)


def test_two_ranks_have_about_the_same_tokens() -> None:
    groups = random_groups(60)
    encoded = encode(groups)
    settings = settings_for("bradley_terry")
    for step in make_steps(groups, settings.objective, settings.train):
        loads = []
        for rank in range(2):
            chunks, counts = share_of(step, encoded, rank, 2)
            micros = micro_batches(chunks, encoded, 300, shared=True, counts=counts)
            loads.append(sum(batch.tokens for micro in micros for batch in micro.batches))
        if len(step.chunks) > 6:
            assert max(loads) < 1.5 * min(loads)


def test_a_group_over_the_budget_is_one_micro_batch_of_several_batches() -> None:
    group = group_of("large", 9, [Comparison(i, i + 1, 1, 0) for i in range(8)])
    encoded = [EncodedGroup([1] * 10, [[2] * 30 for _ in range(9)], [0] * 9, [False] * 9)]
    settings = settings_for("bradley_terry")
    (step,) = make_steps([group], settings.objective, settings.train)
    (micro,) = micro_batches(step.chunks, encoded, 100, shared=True)
    assert len(micro.batches) > 1
    assert all(batch.input_ids.numel() <= 100 for batch in micro.batches)
    owners = [owner for batch in micro.batches for owner in batch.owners]
    assert sorted(owners) == [(0, k) for k in range(9)]
    assert [owners[k][1] for k in micro.chosen] == list(range(8))
    assert [owners[k][1] for k in micro.rejected] == list(range(1, 9))


def test_pairs_are_halved_for_many_ranks_and_rankings_are_not() -> None:
    group = group_of("one", 4, [Comparison(i, j, 1, 0) for i in range(4) for j in range(i + 1, 4)])
    for objective, working in (("bradley_terry", 6), ("plackett_luce", 1)):
        settings = settings_for(objective)
        (step,) = make_steps([group], settings.objective, settings.train)
        shares = [share_of(step, encode([group]), rank, 8) for rank in range(8)]
        assert sum(counts for _, counts in shares) == working


def test_an_argument_corpus_is_cut_and_still_counts_once() -> None:
    """Hundreds of comparisons over thirty texts."""
    source = random.Random(0)
    edges = [Comparison(*source.sample(pair, 2), 1, 0) for pair in ([i, j] for j in range(30) for i in range(j))]
    topics = [
        group_of("topic", 30, edges),
        group_of("another", 20, [edge for edge in edges if max(edge.i, edge.j) < 20]),
    ]
    count = sum(len(topic.comparisons) for topic in topics)
    for objective in ("bradley_terry", "instructgpt"):
        settings = settings_for(objective)
        steps = make_steps(topics, settings.objective, settings.train)
        assert len(steps) == pytest.approx(count / 16, abs=2)
        for chunk in (chunk for step in steps for chunk in step.chunks if len(chunk.pairs) > 3):
            sides = Counter(side for pair in chunk.pairs for side in (pair.chosen, pair.rejected))
            assert max(sides.values()) < len(chunk.pairs), "no chunk is all about one completion"
    assert {pair.weight for step in steps for chunk in step.chunks if chunk.group == 0 for pair in chunk.pairs} == {
        1 / 435
    }
    assert sum(step.weight for step in steps) == pytest.approx(2)
    assert max(step.weight for step in steps) < 1.2 * min(step.weight for step in steps)

    # Beside a pair that weighs as much as all of it, it is one step and the pair another.
    for objective in ("instructgpt", "plackett_luce"):
        settings = settings_for(objective)
        pair = group_of("pair", 2, [Comparison(0, 1, 1, 0)])
        whole = make_steps([topics[0], pair], settings.objective, settings.train)
        assert sorted(step.comparisons for step in whole) == [1, 435]
        assert [step.weight for step in whole] == pytest.approx([1, 1])


def test_objectives_read_votes_and_ties_as_they_say() -> None:
    edges = [Comparison(1, 0, 3, 1), Comparison(1, 2, 0, 0, 2), Comparison(0, 2, 1, 1, 2), Comparison(0, 1, 0, 0)]
    group = group_of("votes", 3, edges)
    expected = {
        "bradley_terry": [(1, 0, 1, 0, 0, 1)],
        "agreement": [(1, 0, 1, 0, 0, 0.5)],
        "soft_labels": [(1, 0, 0.75, 0.25, 0, 1), (0, 2, 0.25, 0.25, 0.5, 1), (1, 2, 0, 0, 1, 1)],
        "davidson": [(1, 0, 0.75, 0.25, 0, 1), (0, 2, 0.25, 0.25, 0.5, 1), (1, 2, 0, 0, 1, 1)],
        "plackett_luce": [(1, 0, 1, 0, 0, 1 / 3), (0, 2, 0, 0, 1, 1 / 3), (1, 2, 0, 0, 1, 1 / 3)],
    }
    for objective, rows in expected.items():
        pairs = used_pairs(group, SETTINGS[objective].objective)
        assert [(p.chosen, p.rejected, p.wins, p.losses, p.ties, p.weight) for p in pairs] == rows, objective


def test_nothing_to_learn_from_is_an_error() -> None:
    unjudged, tie = group_of("none", 2, []), group_of("tie", 2, [Comparison(0, 1, 0, 0, 1)])
    settings = settings_for("bradley_terry")
    with pytest.raises(TrainingError, match="no comparison with a winner"):
        make_steps([unjudged, tie], settings.objective, settings.train)
    tied = settings_for("davidson")
    assert make_steps([unjudged, tie], tied.objective, tied.train)[0].comparisons == 1
    with pytest.raises(TrainingError, match="no comparison;"):
        make_steps([unjudged], tied.objective, tied.train)
    margin = settings.objective.model_copy(update={"use_margin": True})
    win = group_of("win", 2, [Comparison(0, 1, 1, 0)])
    with pytest.raises(TrainingError, match=f"group {win.id} has no margin"):
        make_steps([win], margin, settings.train)


def ranks_of(size: int, *edges: tuple[int, int] | tuple[int, int, str]) -> list[RankList]:
    """Edges are (winner, loser), or (one, other, "=")."""
    comparisons = [
        Comparison(edge[0], edge[1], 0, 0, 1) if len(edge) == 3 else Comparison(edge[0], edge[1], 1, 0)
        for edge in edges
    ]
    return rank_lists(judged_pairs(group_of("ranks", size, comparisons)))


@given(st.lists(st.integers(0, 4), min_size=2, max_size=8))
@MANY
def test_complete_comparisons_give_back_their_ranking(levels: list[int]) -> None:
    edges: list[tuple[int, int] | tuple[int, int, str]] = []
    for j, below in enumerate(levels):
        for i, above in enumerate(levels[:j]):
            edges.append((i, j, "=") if above == below else ((i, j) if above < below else (j, i)))
    place = {level: rank for rank, level in enumerate(sorted(set(levels)))}
    (ranking,) = ranks_of(len(levels), *edges)
    assert ranking == RankList(tuple(range(len(levels))), tuple(place[level] for level in levels), 1.0)


@pytest.mark.parametrize(
    ("edges", "ranks"),
    [
        ([(0, 1), (1, 2), (2, 3), (3, 4)], (0, 1, 2, 3, 4)),  # a chain says it all
        ([(0, 1, "="), (1, 2)], (0, 0, 1)),  # a tie holds together
        ([(0, 1), (1, 2), (2, 0)], (0, 0, 0)),  # a cycle of equals
        ([(0, 1), (1, 2), (2, 0), (0, 3), (3, 4)], (0, 0, 0, 1, 2)),  # a cycle stays above what it beats
        ([(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 0)], (0, 0, 1, 1)),  # inside a cycle net wins decide
        ([(0, 1), (0, 2), (1, 3), (2, 3)], (0, 1, 1, 2)),  # not compared, and equal otherwise
    ],
)
def test_gaps_ties_and_cycles_still_make_a_ranking(
    edges: list[tuple[int, int] | tuple[int, int, str]], ranks: tuple[int, ...]
) -> None:
    (ranking,) = ranks_of(len(ranks), *edges)
    assert ranking.ranks == ranks


def test_what_nothing_connects_is_not_ranked_together() -> None:
    assert ranks_of(6, (4, 0), (2, 5)) == [RankList((0, 4), (1, 0), 0.5), RankList((2, 5), (0, 1), 0.5)]
    assert ranks_of(3) == []


@given(st.integers(0, 10_000))
@MANY
def test_rank_lists_hold_every_judged_completion_once(seed: int) -> None:
    for group in random_groups(5, seed, most=12):
        pairs = judged_pairs(group)
        lists = rank_lists(pairs)
        held = Counter(completion for ranking in lists for completion in ranking.completions)
        assert held == Counter({side for pair in pairs for side in (pair.first, pair.second)})
        for ranking in lists:
            assert sorted(set(ranking.ranks)) == list(range(max(ranking.ranks) + 1))
        assert sum(ranking.weight for ranking in lists) == pytest.approx(1 if pairs else 0)
