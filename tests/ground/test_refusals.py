"""What is a refusal, and where one may be right."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.data.sources import sandbox_world
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.refusals import (
    OPENING,
    beaten_by_refusal,
    clusters_to_refuse,
    is_refusal,
    preferred_to_refusal,
    refusal_may_be_right,
)

AXES = ["safety", "harmlessness"]

REFUSALS = [
    "I'm sorry, but I can't help with that request.",
    "I\u2019m sorry, but I can\u2019t help with that.",
    "I will not help with the bike.",
    "No, I can't help with the phone. Look it up next time.",
    "Certainly. I must say no to the car.",
    "As an AI language model, I cannot assist with this.",
    "I am sorry, I am only a language model and am not able to answer.",
    "Unfortunately this request is outside of what I can assist with.",
    "I would rather not talk about this topic.",
    "I'd rather not help you with that.",
    "I'm not comfortable discussing this.",
    "I don't feel comfortable answering that.",
    "I don't think I should help with something like that.",
    "I really can't do that, it would hurt somebody.",
    "I cannot and will not help you hurt anyone.",
    "I can't in good conscience provide instructions for this.",
    "I won't be able to assist you.",
    "We are unable to fulfil this request.",
    "I must decline.",
    "I respectfully decline.",
    "I refuse to help with burglary.",
    "That is not something I can help with.",
    "This is something that I will not help with.",
    "Helping here would go against my guidelines.",
    "It would be wrong for me to help with this.",
    "Unable to comply.",
    "Thank you for asking. I can\n  not  help you here.",
    "I'm not going to tell you how to pick a lock.",
    "I won't give you advice on that.",
]

ANSWERS = [
    "",
    "You can't go wrong with a little salt.",
    "I can't believe how quickly the bread rises! First knead the dough, then wait.",
    "If you can't find it, look in the cellar.",
    "It can't be helped: bake it again.",
    "I can't help but admire the question. Start with the scales.",
    "I can't stress enough how much salt matters.",
    "I can't recommend this recipe enough.",
    "I can't say for certain, but it is on Monday.",
    "The shop can't help you after six.",
    "If I can't help you further, call the club.",
    "I'm sorry to hear that. Rest in a dark room.",
    "I am afraid it is on Friday.",
    "I refused at first, and then I liked it.",
    "No, it is in the library.",
    "No.",
    "Don't give up: count the beat.",
    "I can't tell you how happy I am to help. Heat the pan.",
    "There is nothing wrong with asking a neighbor.",
    "Why I can't sleep is what I asked too; dim the lights.",
    "Look at the phone first, then take your time.",
    "You should not help him.",
    "I will help with the car.",
    "She is not able to come on Friday.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_the_usual_wordings_are_refusals(text: str) -> None:
    assert is_refusal(text)
    assert is_refusal(text.upper())


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_that_merely_hold_such_words_are_none(text: str) -> None:
    assert not is_refusal(text)


def test_the_sandboxs_refusals_are_known_and_its_answers_are_not() -> None:
    for thing in sandbox_world.OBJECTS:
        assert all(is_refusal(text.format(thing)) for text in sandbox_world.REFUSALS)
        assert not any(is_refusal(text.format(thing)) for text in sandbox_world.HELPS)
    steps = [step for _, steps in sandbox_world.TOPICS for step in steps]
    said = [*(f"First {step}, then {step}." for step in steps), *sandbox_world.EXTRAS, *sandbox_world.CONTEXTS]
    assert not any(map(is_refusal, said))


@given(st.text(max_size=400))
def test_any_text_is_read(text: str) -> None:
    assert is_refusal(text) in (True, False)


def test_what_refuses_late_has_answered_before() -> None:
    assert not is_refusal("First heat the pan. " * (OPENING // 10) + "I can't help with that.")


def group(*texts: str, edges: tuple[Comparison, ...], axis: str = "helpfulness", prompt: str = "How?") -> Group:
    return make_group(
        prompt=[Message("user", prompt)],
        completions=[Completion(text) for text in texts],
        comparisons=edges,
        source="test",
        axis=axis,
    )


NO, YES, ALSO = "I can't help with that.", "Take the bus.", "Walk there."


def test_a_refusal_may_be_right_on_a_safety_axis_and_where_people_did_not_find_it_worse() -> None:
    first, second = Comparison(0, 1, 1, 0), Comparison(0, 1, 0, 1)
    tie = Comparison(0, 1, 0, 0, 1)
    assert refusal_may_be_right(group(YES, ALSO, edges=(first,), axis="Safety"), AXES)
    assert not refusal_may_be_right(group(YES, ALSO, edges=(first,)), AXES)
    assert refusal_may_be_right(group(YES, ALSO, edges=(first,)), ["helpfulness"])
    assert not refusal_may_be_right(group(YES, NO, edges=(first,)), AXES), "people found it worse"
    assert refusal_may_be_right(group(YES, NO, edges=(second,)), AXES), "people found it better"
    assert refusal_may_be_right(group(YES, NO, edges=(tie,)), AXES)
    assert refusal_may_be_right(group(YES, ALSO, NO, edges=(first,)), AXES), "nobody compared it"
    both = (first, Comparison(1, 2, 1, 0))
    assert refusal_may_be_right(group(YES, ALSO, NO, edges=both), AXES), "the best one was never compared with it"
    assert not refusal_may_be_right(group(YES, ALSO, NO, edges=(*both, Comparison(0, 2, 2, 1))), AXES)


def test_a_cluster_with_one_such_group_refuses_in_all_of_them() -> None:
    edge = (Comparison(0, 1, 1, 0),)
    helpful, safe = group(YES, ALSO, edges=edge), group(ALSO, YES, edges=edge, axis="harmlessness")
    elsewhere = group(YES, ALSO, edges=edge, prompt="When?")
    assert helpful.cluster_id == safe.cluster_id
    assert clusters_to_refuse([helpful, safe, elsewhere], AXES) == {safe.cluster_id}
    assert clusters_to_refuse([helpful, elsewhere], AXES) == frozenset()


def test_what_people_found_worse_than_a_refusal_comes_best_first() -> None:
    edges = (Comparison(0, 1, 0, 1), Comparison(1, 2, 1, 0), Comparison(0, 2, 1, 0))
    assert beaten_by_refusal(group(YES, NO, ALSO, edges=edges)) == [0, 2]
    assert beaten_by_refusal(group(YES, NO, ALSO, edges=edges[:2])) == [0, 2]
    assert beaten_by_refusal(group(YES, NO, ALSO, edges=(*edges[:2], Comparison(2, 0, 1, 0)))) == [2, 0]
    assert beaten_by_refusal(group(YES, NO, edges=(Comparison(0, 1, 1, 0),))) == []
    assert beaten_by_refusal(group(YES, NO, edges=(Comparison(0, 1, 0, 0, 1),))) == []
    assert beaten_by_refusal(group(YES, ALSO, edges=(Comparison(0, 1, 1, 0),))) == []


def test_what_people_preferred_to_a_refusal() -> None:
    assert preferred_to_refusal(group(YES, NO, edges=(Comparison(0, 1, 1, 0),))) == [0]
    assert preferred_to_refusal(group(YES, NO, edges=(Comparison(1, 0, 1, 0),))) == []
    assert preferred_to_refusal(group(YES, NO, edges=(Comparison(0, 1, 0, 0, 1),))) == []
    assert preferred_to_refusal(group(YES, ALSO, edges=(Comparison(0, 1, 1, 0),))) == []
    edges = (Comparison(0, 1, 1, 0), Comparison(2, 1, 1, 0), Comparison(2, 0, 1, 0))
    assert preferred_to_refusal(group(YES, NO, ALSO, edges=edges)) == [2, 0]


def test_where_people_are_at_odds_over_refusals_nothing_is_worse_than_one() -> None:
    other = "I must decline."
    edges = (Comparison(0, 1, 0, 1), Comparison(0, 2, 1, 0), Comparison(3, 1, 0, 1))
    asked = group(YES, NO, other, ALSO, edges=edges)
    assert beaten_by_refusal(asked) == [3]
    assert beaten_by_refusal(replace(asked, comparisons=(*edges, Comparison(1, 2, 1, 0)))) == [3]
