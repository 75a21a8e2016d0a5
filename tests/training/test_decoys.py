"""Decoys: every group's best completion beats them, none contradicts a person, and none is a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.places import CONFIGS
from touchstone import settings
from touchstone.data.sources import sandbox, sandbox_world
from touchstone.gate.probes import PROBES, VARIANTS, questions
from touchstone.groups import Comparison, Completion, Group, Message, best_completion, judged_pairs, make_group
from touchstone.refusals import is_refusal
from touchstone.training.decoys import (
    LESSONS,
    MADE_FROM_ANSWER,
    POLICY,
    PREFERRED_REFUSAL,
    REFUSALS,
    REPEATED,
    UNWANTED_REFUSAL,
    WEIGHTS,
    WITHOUT_ANSWER,
    count_decoys,
    is_decoy,
    with_decoys,
)

AXES = ["safety"]
WORLD = settings.compose([], CONFIGS).data


def group(number: int, *, decided: bool = True) -> Group:
    wins = (0.0, 1.0) if decided else (0.0, 0.0)
    return make_group(
        prompt=[Message("user", f"What is {number} plus two?")],
        completions=[Completion("No idea at all, sorry."), Completion(f"It is {number + 2}, as you can count.")],
        comparisons=[Comparison(0, 1, *wins, ties=float(not decided), annotator="a")],
        source="test",
    )


def asked(*texts: str, winner: int = 0, axis: str = "helpfulness", prompt: str = "How do I get in?") -> Group:
    edges = [Comparison(winner, place, 1.0, 0.0) for place in range(len(texts)) if place != winner]
    return make_group(
        prompt=[Message("user", prompt)],
        completions=[Completion(text) for text in texts],
        comparisons=edges,
        source="test",
        axis=axis,
    )


def decoys_of(groups: Sequence[Group]) -> list[tuple[Group, Completion]]:
    return [(group, text) for group in groups for text in group.completions if is_decoy(text)]


def asks_for_harm(group: Group) -> bool:
    return any(f" {verb} the " in group.prompt[-1].content for verb in sandbox_world.HARMFUL)


def sandbox_groups(count: int) -> list[Group]:
    return [sandbox.make(WORLD, index) for index in range(count)]


def test_each_decoy_loses_to_the_best_completion_and_the_rest_stays_as_it_was() -> None:
    groups = [group(number) for number in range(200)]
    found = with_decoys(groups, 1.5, 17, AXES)
    added = 0
    for before, after in zip(groups, found, strict=True):
        assert after.completions[:2] == before.completions
        assert after.comparisons[:1] == before.comparisons
        assert (after.id, after.prompt, after.cluster_id) == (before.id, before.prompt, before.cluster_id)
        decoys = range(2, len(after.completions))
        added += len(decoys)
        assert all(is_decoy(after.completions[k]) for k in decoys)
        assert not any(map(is_decoy, before.completions))
        assert len({completion.text for completion in after.completions}) == len(after.completions)
        assert {(pair.chosen, pair.rejected) for pair in judged_pairs(after)} == {(1, 0), *((1, k) for k in decoys)}
        assert best_completion(after) == 1
    assert added / len(groups) == pytest.approx(1.5, abs=0.12)


def test_a_groups_decoys_depend_on_its_content_and_the_seed_alone() -> None:
    groups = [group(number) for number in range(50)]
    found = with_decoys(groups, 1.0, 17, AXES)
    assert with_decoys(groups[::-1], 1.0, 17, AXES)[::-1] == found
    assert with_decoys(groups, 1.0, 18, AXES) != found


def test_without_a_preference_or_a_rate_nothing_is_added() -> None:
    assert with_decoys([group(1, decided=False)], 2.0, 17, AXES) == [group(1, decided=False)]
    assert with_decoys([group(1)], 0.0, 17, AXES) == [group(1)]


def test_every_kind_comes_and_the_harder_ones_more_often() -> None:
    (counts,) = count_decoys(with_decoys([group(number) for number in range(2000)], 1.0, 17, AXES)).values()
    assert sorted(counts) == sorted([*WITHOUT_ANSWER, *MADE_FROM_ANSWER])
    for kind, weight in WEIGHTS.items():
        assert counts[kind] / sum(counts.values()) == pytest.approx(weight / sum(WEIGHTS.values()), abs=0.03)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_no_refusal_loses_where_one_may_be_right() -> None:
    """On the sandbox's safety axis, where it is known which prompts ask for harm, and on the others as before."""
    found = with_decoys(sandbox_groups(600), 4.0, 17, AXES)
    losers = Counter(
        (group.axis, is_refusal(text.text))
        for group, text in decoys_of(found)
        if text.policy not in (POLICY + PREFERRED_REFUSAL, POLICY + UNWANTED_REFUSAL, POLICY + REPEATED)
    )
    assert losers["safety", True] == 0
    assert losers["helpfulness", True] > 60
    assert losers["safety", False] > 200


def test_a_prompt_that_stands_on_a_safety_axis_elsewhere_has_no_refusal_that_loses() -> None:
    helpful, safe = (asked("Use the door.", "Break it.", axis=axis) for axis in ("helpfulness", "safety"))
    for seed in range(200):
        found = with_decoys([helpful, safe], 4.0, seed, AXES)
        assert not any(is_refusal(text.text) for _, text in decoys_of(found))
    alone = [with_decoys([helpful], 4.0, seed, AXES) for seed in range(200)]
    assert any(is_refusal(text.text) for found in alone for _, text in decoys_of(found))


def test_a_refusal_given_several_times_loses_to_that_refusal_alone() -> None:
    """Without these the answer given twice won on the axes where most best answers refuse."""
    refused = asked("Take a crowbar.", "I will not help with the door.", winner=1, axis="safety")
    repeated = 0
    for seed in range(100):
        (found,) = with_decoys([refused], 1.0, seed, AXES)
        several = {k for k, text in enumerate(found.completions) if text.policy == POLICY + REPEATED}
        assert {pair.chosen for pair in judged_pairs(found) if pair.rejected in several} <= {1}
        assert all(found.completions[k].text.count("I will not help") >= 2 for k in several)
        repeated += len(several)
    assert repeated > 15


def test_where_people_preferred_a_refusal_plain_ones_beat_what_they_preferred_it_to() -> None:
    refused = asked("Take a crowbar.", "I will not help with the door.", winner=1, axis="safety")
    wordings = set()
    for seed in range(300):
        (found,) = with_decoys([refused], 1.0, seed, AXES)
        winners = [k for k, text in enumerate(found.completions) if text.policy == POLICY + PREFERRED_REFUSAL]
        assert len(winners) == LESSONS
        assert {(pair.chosen, pair.rejected) for pair in judged_pairs(found)} >= {(1, 0), *((k, 0) for k in winners)}
        texts = {found.completions[k].text for k in winners}
        assert len(texts) == LESSONS
        wordings |= texts
    assert wordings == set(REFUSALS)
    assert all(map(is_refusal, REFUSALS))


def test_where_people_preferred_an_answer_to_a_refusal_plain_ones_lose_to_it_as_often() -> None:
    """Also where both were said of one prompt: better than a refusal, worse than one."""
    harmless = asked("Use the door.", "I will not help with the door.", axis="safety")
    both = replace(
        asked("Use the door.", "Take a crowbar.", "I will not help.", axis="safety"),
        comparisons=(Comparison(0, 2, 1.0, 0.0), Comparison(2, 1, 1.0, 0.0)),
    )
    for seed in range(50):
        found = with_decoys([harmless, both], 1.0, seed, AXES)
        for group in found:
            plain = [k for k, text in enumerate(group.completions) if is_decoy(text) and text.text in REFUSALS]
            assert len(plain) == LESSONS
            lost = {pair.rejected: pair.chosen for pair in judged_pairs(group) if pair.rejected in plain}
            assert lost == dict.fromkeys(plain, 0)
        won = [pair.rejected for pair in judged_pairs(found[1]) if is_decoy(found[1].completions[pair.chosen or 0])]
        assert won == [1] * LESSONS
    assert not any(PREFERRED_REFUSAL in text.policy for _, text in decoys_of(found[:1]) if text.policy)


def test_no_lesson_is_invented_where_people_said_nothing_of_a_refusal() -> None:
    lesser_evil = asked("Use the door.", "Take a crowbar.", axis="safety")
    for seed in range(100):
        assert not decoys_of(with_decoys([lesser_evil], 3.0, seed, AXES))


def test_nothing_loses_to_a_compliance_of_which_nobody_said_that_it_is_harmless() -> None:
    lesser_evil = asked("Use the door.", "Take a crowbar.", axis="safety")
    elsewhere = asked("Use the door.", "Take a crowbar.")
    for seed in range(20):
        assert with_decoys([lesser_evil], 2.0, seed, AXES) == [lesser_evil]
        assert with_decoys([elsewhere], 2.0, seed, AXES) != [elsewhere]
    assert not questions([lesser_evil], 10, AXES)
    assert len(questions([elsewhere], 10, AXES)) == 1


def test_every_lesson_rests_on_a_judgement_and_agrees_with_the_sandboxs_gold_reward() -> None:
    """Plain refusals beat only what people found worse than a refusal; where people erred, so does the lesson."""
    harmful = lessons = 0
    for group in with_decoys(sandbox_groups(2000), 2.0, 3, AXES):
        pairs = judged_pairs(group)
        lost_to_refusal = {
            pair.rejected
            for pair in pairs
            if pair.chosen is not None
            and is_refusal(group.completions[pair.chosen].text)
            and not is_decoy(group.completions[pair.chosen])
        }
        for pair in pairs:
            if pair.chosen is not None and is_decoy(group.completions[pair.chosen]):
                assert pair.rejected in lost_to_refusal
                lessons += 1
                harmful += asks_for_harm(group)
    assert lessons > 100
    assert harmful / lessons > 0.95, "the other ones are where judges did not pay attention"


def test_decoys_are_counted_by_axis_and_kind() -> None:
    groups = [asked("Take a crowbar.", "I will not help with the door.", winner=1, axis="safety"), group(1)]
    counts = count_decoys(with_decoys(groups, 1.0, 17, AXES))
    assert sorted(counts) == ["helpfulness", "safety"]
    assert counts["safety"][PREFERRED_REFUSAL] == LESSONS
    assert sum(counts["safety"].values()) == LESSONS + 2, "two losers where a refusal may be right"
    assert sum(counts["helpfulness"].values()) == 1
    assert count_decoys(groups) == {}


# --- apart from the gate's probes ------------------------------------------------------------------------------------


def same_words(text: str) -> str:
    return " ".join(text.split())


def probes_of(group: Group) -> set[str]:
    best = best_completion(group)
    assert best is not None
    return {same_words(write(group, group.completions[best].text)) for write in {**PROBES, **VARIANTS}.values()}


FIXED = [write(group(1), "") for name, write in PROBES.items() if name != "the question again"]
PIECES = st.sampled_from(["a", "b", "First", "stir", "the", "\n", *FIXED])
TEXTS = st.lists(PIECES, max_size=12).map(" ".join) | st.sampled_from(FIXED)


@given(TEXTS, TEXTS, TEXTS, st.integers(0, 10_000), st.sampled_from(["safety", "helpfulness"]))
@example("", "", "a", 1, "helpfulness")
@example("How many?", "How many? Four of them, I think, or five.", "a", 5, "helpfulness")
@example("b", "Solution a b a b a b", "a", 5, "helpfulness")
@example("b", "Thought process: a b a b", "a", 5, "helpfulness")
@example("b", ".", "a", 0, "helpfulness")
@example("b", "ok. b", "a", 0, "helpfulness")
@example("ok.", "b", "a", 0, "helpfulness")
@hypothesis_settings(max_examples=150, deadline=None)
def test_no_decoy_of_a_group_is_a_probe_of_that_group(
    prompt: str, best: str, other: str, seed: int, axis: str
) -> None:
    """Whatever the group: a model that knows the decoys by heart must not pass for that reason.

    But where an answer begins with a whole probe of several words, which no person's answer does.
    """
    assume(not any(len(text.split()) > 2 and same_words(best).startswith(same_words(text)) for text in FIXED))
    made = asked(best, other, axis=axis, prompt=prompt)
    (found,) = with_decoys([made], 4.0, seed, AXES)
    texts = {same_words(text.text) for _, text in decoys_of([found])}
    assert not texts & probes_of(made)
    assert len(texts) == len(decoys_of([found])), "no two decoys are alike"
    assert not texts & {same_words(best), same_words(other)}


def test_no_decoy_of_the_sandboxs_groups_is_a_probe_of_theirs() -> None:
    groups = [group for group in sandbox_groups(400) if best_completion(group) is not None]
    for seed in range(10):
        for before, after in zip(groups, with_decoys(groups, 4.0, seed, AXES), strict=True):
            assert not {same_words(text.text) for _, text in decoys_of([after])} & probes_of(before)


@pytest.mark.parametrize("choice", [{"use_margin": True}, {"name": "plackett_luce", "weighting": "group"}])
def test_objectives_that_need_a_margin_or_a_rank_refuse_decoys(choice: dict[str, object]) -> None:
    defaults = settings.compose([], settings.project_root() / "configs").objective
    with pytest.raises(ValidationError, match="set decoys to 0"):
        type(defaults).model_validate({**defaults.model_dump(), **choice})
