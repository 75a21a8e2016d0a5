"""Baselines: they read completions only, learn what can be read there, and give the same numbers every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from touchstone.evaluation.baselines import LinearBaseline, bayes_optimal, longer_wins
from touchstone.groups import Comparison, Completion, Group, Message, make_group


def make_pair(first: str, second: str, *, wins: tuple[float, float] = (1.0, 0.0), prompt: str = "Which?") -> Group:
    """A group of two completions, the first one preferred unless said otherwise."""
    return make_group(
        prompt=[Message("user", prompt)],
        completions=[Completion(first), Completion(second)],
        comparisons=[Comparison(0, 1, *wins, ties=float(wins == (0.0, 0.0)))],
        source="test",
    )


def make_polite_world(size: int = 60) -> list[Group]:
    """ "please" wins over "never", whichever comes first."""
    words = ["tea", "rice", "salt", "milk", "bread"]
    groups = []
    for number in range(size):
        kind, gruff = f"please take {words[number % 5]} {number}", f"never take {words[number % 5]} {number}"
        flipped = number % 2 == 1
        groups.append(make_pair(gruff, kind, wins=(0.0, 1.0)) if flipped else make_pair(kind, gruff))
    return groups


def count_right(groups: Sequence[Group], scores: Sequence[Sequence[float]]) -> int:
    """Two-completion groups whose preferred completion scores higher."""
    return sum(
        (rewards[0] > rewards[1]) == (group.comparisons[0].wins_i > 0)
        for group, rewards in zip(groups, scores, strict=True)
    )


def test_longer_wins_where_longer_won() -> None:
    calibration = [make_pair("a long answer", "short")]
    assert longer_wins([make_pair("ab", "abcd")], calibration) == [[2.0, 4.0]]


def test_shorter_wins_where_shorter_won() -> None:
    calibration = [make_pair("short", "a long answer")]
    assert longer_wins([make_pair("ab", "abcd")], calibration) == [[-2.0, -4.0]]


def test_ties_and_equal_lengths_say_nothing_about_the_direction() -> None:
    calibration = [make_pair("ab", "abcd", wins=(0.0, 0.0)), make_pair("abcd", "efgh")]
    assert longer_wins([make_pair("ab", "abcd")], calibration) == [[2.0, 4.0]]


def test_the_linear_baseline_learns_words() -> None:
    groups = make_polite_world()
    baseline = LinearBaseline.fit(groups[:40])
    assert count_right(groups[40:], baseline.score(groups[40:])) == 20


def test_the_linear_baseline_learns_length() -> None:
    groups = [make_pair("w " * (number + 9), "w " * (number % 5 + 1)) for number in range(40)]
    assert count_right(groups, LinearBaseline.fit(groups).score(groups)) == 40


def test_the_linear_baseline_does_not_see_the_prompt() -> None:
    baseline = LinearBaseline.fit(make_polite_world())
    one, other = make_pair("please", "never", prompt="One?"), make_pair("please", "never", prompt="Other?")
    scores = baseline.score([one, other])
    assert scores[0] == scores[1]


def test_two_fits_give_the_same_scores() -> None:
    groups = make_polite_world()
    assert LinearBaseline.fit(groups).score(groups) == LinearBaseline.fit(groups).score(groups)


def test_the_order_inside_a_pair_does_not_matter() -> None:
    """Without intercept there is no side to prefer: swapping both completions of every pair changes nothing."""
    groups = make_polite_world()
    swapped = []
    for group in groups:
        edge = group.comparisons[0]
        wins = (edge.wins_j, edge.wins_i)
        swapped.append(make_pair(group.completions[1].text, group.completions[0].text, wins=wins))
    mirrored = [rewards[::-1] for rewards in LinearBaseline.fit(swapped).score(swapped)]
    np.testing.assert_allclose(LinearBaseline.fit(groups).score(groups), mirrored, atol=1e-4)


def test_scores_stand_in_the_order_of_groups_and_completions() -> None:
    baseline = LinearBaseline.fit(make_polite_world())
    group = make_pair("please take tea", "never take tea")
    ranked = make_group(
        prompt=group.prompt,
        completions=[*group.completions, Completion("please take tea")],
        comparisons=[],
        source="test",
    )
    [[a, b], [c, d, e]] = baseline.score([group, ranked])
    assert (a, b, a) == pytest.approx((c, d, e))


def test_the_optimum_is_the_gold_rating_where_every_completion_has_one() -> None:
    rated = make_group(
        prompt=[Message("user", "Which?")],
        completions=[Completion("a", ratings={"gold": 2.0}), Completion("b", ratings={"gold": -1.0, "other": 5.0})],
        comparisons=[],
        source="test",
    )
    assert bayes_optimal([rated]) == [[2.0, -1.0]]
    assert bayes_optimal([rated, make_pair("a", "b")]) is None
    assert bayes_optimal([]) is None
