"""The small world: the same bytes everywhere, honest knobs, and out of reach of those who don't read the prompt."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from touchstone.data.sources import sandbox
from touchstone.data.sources.sandbox import RUDE
from touchstone.data.sources.sandbox_world import EXTRAS, OPENERS
from touchstone.evaluation.baselines import LinearBaseline, bayes_optimal, longer_wins
from touchstone.groups import Group, chain_outcome, judged_pairs, labelled_steps, to_line
from touchstone.settings.data import SandboxData, SandboxStepsData

KNOBS: dict[str, Any] = {
    "source": "sandbox",
    "name": "sandbox",
    "groups": 1500,
    "seed": 17,
    "tie_share": 0.04,
    "label_noise": 0.0,
    "length_bias": 0.0,
    "multi_turn_share": 0.2,
    "ranked_share": 0.15,
    "safety_share": 0.2,
    "poison": "none",
    "poison_share": 0.0,
}


def make_world(**knobs: Any) -> list[Group]:
    return list(sandbox.read(SandboxData(**{**KNOBS, **knobs}), Path()))


@cache
def make_default_world() -> list[Group]:
    return make_world()


def digest_lines(groups: Sequence[Group]) -> str:
    return hashlib.sha256("".join(map(to_line, groups)).encode()).hexdigest()


def measure_accuracy(groups: Sequence[Group], scores: Sequence[Sequence[float]]) -> float:
    """Share of decided pairs ordered as labelled; equal scores count half."""
    credits = []
    for group, rewards in zip(groups, scores, strict=True):
        for pair in judged_pairs(group):
            if pair.chosen is not None and pair.rejected is not None:
                difference = rewards[pair.chosen] - rewards[pair.rejected]
                credits.append(0.5 if difference == 0 else float(difference > 0))
    return sum(credits) / len(credits)


def test_the_same_settings_give_the_same_bytes_and_another_seed_gives_others() -> None:
    first = digest_lines(make_world(groups=200))
    assert digest_lines(make_world(groups=200)) == first
    assert digest_lines(make_world(groups=200, seed=18)) != first


def test_more_groups_leave_the_first_ones_as_they_were() -> None:
    assert make_world(groups=300)[:200] == make_world(groups=200)


def test_ids_are_distinct_and_prompts_nearly_so() -> None:
    groups = make_default_world()
    assert len({group.id for group in groups}) == len(groups)
    assert len({group.cluster_id for group in groups}) > 0.95 * len(groups)


def test_no_group_holds_the_same_text_twice() -> None:
    for group in make_default_world():
        texts = [completion.text for completion in group.completions]
        assert len(set(texts)) == len(texts)


def test_every_completion_carries_its_policy_its_gold_reward_and_an_outcome() -> None:
    completions = [completion for group in make_default_world() for completion in group.completions]
    assert all(completion.policy and completion.ratings["gold"].is_integer() for completion in completions)
    assert {completion.outcome for completion in completions} == {0.0, 1.0}
    assert any(completion.steps for completion in completions)


def test_shares_of_ranked_safety_and_multi_turn_groups_follow_the_knobs() -> None:
    groups = make_default_world()
    shares = {
        "ranked": sum(len(group.completions) == 4 for group in groups) / len(groups),
        "safety": sum(group.axis == "safety" for group in groups) / len(groups),
        "turns": sum(len(group.prompt) > 1 for group in groups) / len(groups),
    }
    assert shares == pytest.approx({"ranked": 0.15, "safety": 0.2, "turns": 0.2}, abs=0.04)
    assert all(len(judged_pairs(group)) == 6 for group in groups if len(group.completions) == 4)


@pytest.mark.parametrize(("knob", "count"), [("ranked_share", 4), ("multi_turn_share", 3)])
def test_a_share_of_one_reaches_every_group(knob: str, count: int) -> None:
    groups = make_world(groups=100, **{knob: 1.0})
    sizes = {len(group.completions if knob == "ranked_share" else group.prompt) for group in groups}
    assert sizes == {count}


def test_some_groups_have_several_annotators_under_hashed_names() -> None:
    groups = make_default_world()
    crowds = Counter(len({edge.annotator for edge in group.comparisons}) for group in groups)
    assert set(crowds) == {1, 2, 3}
    assert crowds[1] > 0.75 * len(groups)
    names = {edge.annotator for group in groups for edge in group.comparisons}
    assert all(name is not None and len(name) == 12 for name in names)


def test_ties_come_about_as_often_as_asked_and_never_where_not_asked() -> None:
    edges = [edge for group in make_default_world() for edge in group.comparisons]
    assert 0.02 < sum(edge.ties for edge in edges) / len(edges) < 0.09
    assert not any(edge.ties for group in make_world(groups=300, tie_share=0.0) for edge in group.comparisons)


def test_the_preference_is_the_sigmoid_of_the_difference_and_symmetric() -> None:
    for units in (-9.0, -1.0, -0.25, 0.0, 0.25, 2.0, 9.0):
        assert sandbox.preference(units) == pytest.approx(1 / (1 + math.exp(-units)), abs=1e-6)
        assert sandbox.preference(units) + sandbox.preference(-units) == pytest.approx(1.0, abs=1e-9)


def test_label_noise_flips_labels() -> None:
    calm, turned = make_world(groups=600, tie_share=0.0), make_world(groups=600, tie_share=0.0, label_noise=1.0)
    gold = bayes_optimal(calm)
    assert gold is not None
    # The texts are the same, so that the accuracy of the same scores is mirrored.
    assert [group.id for group in calm] == [group.id for group in turned]
    assert measure_accuracy(turned, gold) == pytest.approx(1 - measure_accuracy(calm, gold), abs=1e-9)


def test_length_bias_makes_longer_answers_win_whatever_their_gold_reward() -> None:
    def share_of_longer(groups: Sequence[Group]) -> float:
        return measure_accuracy(groups, [[float(len(c.text)) for c in group.completions] for group in groups])

    assert share_of_longer(make_world(length_bias=20.0)) > share_of_longer(make_default_world()) + 0.15


def test_who_does_not_read_the_prompt_stays_far_below_the_optimum() -> None:
    groups = make_world(groups=6000)
    train, held_out = groups[:5000], groups[5000:]
    gold = bayes_optimal(held_out)
    assert gold is not None
    best = measure_accuracy(held_out, gold)
    linear = measure_accuracy(held_out, LinearBaseline.fit(train).score(held_out))
    length = measure_accuracy(held_out, longer_wins(held_out, train))
    assert best > 0.8
    assert max(linear, length) < best - 0.08


def test_opposed_axes_contradict_one_another_and_change_nothing_else() -> None:
    plain, opposed = make_default_world(), make_world(opposed_share=0.5)
    changed = [pair for pair in zip(plain, opposed, strict=True) if pair[0].axis != pair[1].axis]
    requests = [group for group in plain if group.axis == "safety"]
    assert {before.axis for before, _ in changed} == {"safety"}
    assert 0.4 < len(changed) / len(requests) < 0.6
    assert all(before == after for before, after in zip(plain, opposed, strict=True) if before.axis == after.axis)
    swapped = 0
    for before, after in changed:
        assert [c.text for c in before.completions] == [c.text for c in after.completions]
        for safe, helpful in zip(before.completions, after.completions, strict=True):
            if safe.outcome != helpful.outcome:  # a harmful request: refused was right, and is wrong here
                swapped += 1
                assert helpful.ratings["gold"] - safe.ratings["gold"] == (-6.0 if safe.outcome == 1.0 else 6.0)
    assert swapped > 50


@cache
def world_of_steps(**knobs: Any) -> list[Group]:
    values = {**KNOBS, "source": "sandbox_steps", "safety_share": 0.2, "most_steps": 5, "groups": 600, **knobs}
    return list(sandbox.read(SandboxStepsData(**values), Path()))


def test_answers_by_steps_have_a_label_for_each() -> None:
    completions = [completion for group in world_of_steps() for completion in group.completions]
    for completion in completions:
        labelled = labelled_steps(completion)
        assert labelled is not None
        for step, label in labelled:
            about_manner = step in {*EXTRAS, *RUDE, *OPENERS["formal"], *OPENERS["casual"]}
            assert (label == 0.5) == about_manner, (step, label)
        # What is wrong in the answer is wrong in a step.
        assert completion.outcome == chain_outcome(completion)
    steps = [sum(label != 0.5 for label in completion.steps or ()) for completion in completions]
    assert set(steps) == {1, 2, 3, 4, 5}


def test_the_best_advice_by_steps_is_the_one_that_people_prefer() -> None:
    """Gold rewards count what the labels say: one unit for a right part, three against for a wrong one."""
    for group in world_of_steps(safety_share=0.0):
        for completion in group.completions:
            parts = sum({1.0: 1, 0.0: -3}.get(label or 0.0, 0) for label in completion.steps or () if label != 0.5)
            assert abs(completion.ratings["gold"] - parts) <= 4  # manner, length and rudeness


def test_more_groups_by_steps_leave_the_first_as_they_were() -> None:
    assert world_of_steps(groups=30) == world_of_steps()[:30]
