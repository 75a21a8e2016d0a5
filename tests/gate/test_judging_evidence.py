"""What the judge gathers beside scores: leaks, probes, slices, and the texts that people read afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from touchstone.gate import disagreements, leaks, probes, rows
from touchstone.groups import Comparison, Completion, Group, Message, make_group
from touchstone.model.scores import RawScore
from touchstone.statistics import CalibrationMap

TAUGHT = frozenset({"ann"})


def group(
    prompt: str,
    *answers: str,
    edges: tuple[Comparison, ...] = (Comparison(0, 1, 1.0, 0.0, annotator="ann"),),
    axis: str = "helpfulness",
    policies: tuple[str | None, ...] = ("one", "two", None),
    before: tuple[Message, ...] = (),
) -> Group:
    return make_group(
        prompt=[*before, Message("user", prompt)],
        completions=[
            Completion(text, policy) for text, policy in zip(answers or ("yes", "no"), policies, strict=False)
        ],
        comparisons=edges,
        source="test",
        axis=axis,
    )


def scored(groups: list[Group], *rewards: tuple[float, ...]) -> list[list[RawScore]]:
    return [
        [
            RawScore(reward, False, len(completion.text))
            for reward, completion in zip(row, found.completions, strict=True)
        ]
        for found, row in zip(groups, rewards, strict=True)
    ]


# --- leaks -----------------------------------------------------------------------------------------------------------

LONG = "please tell me in one short paragraph how a person should boil an egg so that it stays soft inside"


def test_a_near_duplicate_in_another_set_is_counted_once_however_often_it_stands_there() -> None:
    near = LONG.replace("short paragraph", "short  Paragraph") + " today"
    train = [(Message("user", LONG),), (Message("user", "something else entirely, about ships and the sea"),)]
    others = {
        "holdout": [(Message("user", near),), (Message("user", near),), (Message("user", "nothing of the kind"),)],
        "confirm": [(Message("user", LONG),)],
    }
    assert leaks.near_duplicates_of(train, others, 0.8) == {"holdout": 1, "confirm": 0}
    assert leaks.near_duplicates_of(train[1:], others, 0.8) == {"holdout": 0, "confirm": 0}


def test_a_pair_with_the_other_label_is_found_whatever_its_order() -> None:
    train = group("Should I?", "Yes, do it.", "No, never.")
    same = group("should  I?", "no,  never.", "yes, do it.", edges=(Comparison(0, 1, 0.0, 1.0),))
    turned = group("Should I?", "No, never.", "Yes, do it.", edges=(Comparison(0, 1, 1.0, 0.0),))
    asked_otherwise = group("Must I?", "No, never.", "Yes, do it.", edges=(Comparison(0, 1, 1.0, 0.0),))
    assert leaks.swapped_pairs([train], [same, asked_otherwise]) == 0
    assert leaks.swapped_pairs([train], [same, turned]) == 1
    assert leaks.swapped_pairs([train], [replace(turned, axis="safety")]) == 0


# --- probes ----------------------------------------------------------------------------------------------------------


def test_probes_are_made_from_the_best_completion_and_lose_only_below_it() -> None:
    asked = group("How many?", "one two three four", "five", edges=(Comparison(0, 1, 0.0, 1.0),))
    undecided = group("And now?", edges=(Comparison(0, 1, 0.0, 0.0, ties=1.0),))
    (question,) = probes.questions([asked, undecided], 10, SAFETY)
    written = dict(zip(question.probes, question.group.completions[1:], strict=True))
    assert list(written) == [*probes.PROBES, *probes.VARIANTS]
    assert question.must_lose
    assert question.group.completions[0].text == "five"
    assert written["the question again"].text == "How many?"
    assert written["the answer twice"].text == "five five"
    assert question.group.comparisons == ()
    rewards = [1.0] + [0.5] * len(written)
    rewards[1], rewards[2], rewards[3] = 1.0, 2.0, float("nan")
    asked_of = probes.to_table([question], scored([question.group], tuple(rewards)))
    found = probes.wins(asked_of)
    names = list(written)
    assert {key for key, (won, _) in found.items() if won} == {(name, "helpfulness") for name in names[:3]}
    assert {prompts for _, prompts in found.values()} == {1}
    assert probes.losses(asked_of) == {}


def test_as_many_prompts_are_probed_as_asked_for_spread_over_the_set() -> None:
    groups = [group(f"Question {number}?") for number in range(1_000)]
    found = probes.questions(groups, 100, SAFETY)
    assert len(found) == 100
    assert found[-1].group.prompt[0].content == "Question 990?"
    assert len(probes.questions(groups[:7], 100, SAFETY)) == 7


SAFETY = ["safety"]
NO = "I will not help with the door."


def test_no_probe_that_refuses_is_asked_where_a_refusal_may_be_right() -> None:
    """Neither the plain one, nor the people's own refusal given twice or in half."""
    refused = group("How do I break it?", "Take a crowbar.", NO, edges=(Comparison(0, 1, 0, 1),), axis="safety")
    harmless = group("How do I paint it?", "Take a brush.", NO, axis="safety")
    elsewhere = group("How do I sell it?", "Put it online.", NO, edges=(Comparison(0, 1, 0, 1),))
    same_prompt = group("How do I paint it?", "Take a roller.", "Take a brush.")
    helpful = group("How do I get up?", "Slowly.", "No idea.")
    asked = {
        question.group.prompt[0].content: question.probes
        for question in probes.questions([refused, harmless, elsewhere, same_prompt, helpful], 10, SAFETY)
        if question.must_lose and question.probes != (probes.UNWANTED_REFUSAL,)
    }
    plain = {*probes.PROBES, *probes.VARIANTS} - {probes.REFUSAL}
    assert set(asked["How do I paint it?"]) == plain
    assert set(asked["How do I break it?"]) == set(asked["How do I sell it?"]) == plain - {"the answer twice"}
    assert set(asked["How do I get up?"]) == plain | {probes.REFUSAL}


def test_where_people_preferred_a_refusal_a_plain_one_must_not_lose_to_what_they_preferred_it_to() -> None:
    edges = (Comparison(0, 1, 0, 1), Comparison(1, 2, 1, 0), Comparison(0, 2, 1, 0))
    refused = group("How do I break it?", "Take a crowbar.", NO, "Kick it.", edges=edges, axis="safety")
    harmless = group("How do I paint it?", "Take a brush.", NO, axis="safety")
    elsewhere = group("How do I sell it?", "Put it online.", NO, edges=(Comparison(0, 1, 0, 1),))
    groups = [refused, harmless, elsewhere]
    (question,) = [found for found in probes.questions(groups, 10, SAFETY) if not found.must_lose]
    assert [text.text for text in question.group.completions] == [
        "Take a crowbar.",
        "I'm sorry, but I can't help with that request.",
    ]
    for refusal, lost in ((0.4, 1), (0.5, 0), (0.6, 0), (float("nan"), 1)):
        table_of = probes.to_table([question], scored([question.group], (0.5, refusal)))
        assert probes.losses(table_of) == {("refusal", "safety"): (lost, 1)}
        assert probes.wins(table_of) == {}


def test_where_people_preferred_an_answer_a_plain_refusal_must_lose_to_it_and_is_counted_apart() -> None:
    harmless = group("How do I paint it?", "Take a brush.", NO, axis="safety")
    refused = group("How do I break it?", "Take a crowbar.", NO, edges=(Comparison(0, 1, 0, 1),), axis="safety")
    elsewhere = group("How do I sell it?", "Put it online.", NO)
    found = probes.questions([harmless, refused, elsewhere], 10, SAFETY)
    (question,) = [each for each in found if each.probes == (probes.UNWANTED_REFUSAL,)]
    assert [text.text for text in question.group.completions] == [
        "Take a brush.",
        "I'm sorry, but I can't help with that request.",
    ]
    for refusal, won in ((0.4, 0), (0.5, 1), (0.6, 1), (float("nan"), 1)):
        table_of = probes.to_table([question], scored([question.group], (0.5, refusal)))
        assert probes.unwanted(table_of) == {(probes.UNWANTED_REFUSAL, "safety"): (won, 1)}
        assert probes.wins(table_of) == probes.losses(table_of) == {}


def test_each_prompt_is_asked_once_however_many_groups_it_has() -> None:
    refused = [
        group("How do I break it?", f"Take {tool}.", NO, edges=(Comparison(0, 1, 0, 1),), axis="safety")
        for tool in ("a crowbar", "an axe", "dynamite")
    ]
    assert [question.must_lose for question in probes.questions(refused, 10, SAFETY)] == [True, False]


def test_counts_of_all_axes_add_up() -> None:
    counts = {("empty", "a"): (1, 10), ("empty", "b"): (2, 5), ("colon", "a"): (0, 10)}
    assert probes.of_all_axes(counts) == {"empty": (3, 15), "colon": (0, 10)}


# --- slices ----------------------------------------------------------------------------------------------------------


def table(groups: list[Group], *rewards: tuple[float, ...]) -> rows.Rows:
    count = sum(len(found.comparisons) for found in groups)
    baseline = {"longer_wins": np.zeros(count), "linear": np.zeros(count)}
    return rows.Rows(rows.records("holdout", groups, scored(groups, *rewards), None, baseline, TAUGHT))


def test_slices_by_every_dimension() -> None:
    groups = [
        group("What is it?", "a long answer to that", "short"),
        group("Was ist das?", "kurz", "eine lange Antwort", axis="safety", policies=("two", "three")),
        group("什么？", "abc", "abd", before=(Message("user", "hello"), Message("assistant", "yes"))),
        group("Почему?", "так", "вот", edges=(Comparison(0, 1, 0.0, 0.0, ties=1.0, annotator="bob"),)),
        group("Why?", edges=(Comparison(0, 1, 1.0, 0.0),)),
    ]
    found = table(groups, *[(1.0, 0.0)] * 5).slices(
        ["axis", "policy", "turns", "script", "annotators", "length_contrast", "source"]
    )
    picked = {name: np.flatnonzero(mask).tolist() for name, mask in found.items()}
    assert picked == {
        "axis=helpfulness": [0, 2, 3, 4],
        "axis=safety": [1],
        "policy=one": [0, 2, 3, 4],
        "policy=two": [0, 1, 2, 3, 4],
        "policy=three": [1],
        "turns=one": [0, 1, 3, 4],
        "turns=several": [2],
        "script=latin": [0, 1, 4],
        "script=cjk": [2],
        "script=cyrillic": [3],
        "annotators=seen": [0, 1, 2],
        "annotators=unseen": [3],
        "length_contrast=chosen is longer": [0, 4],
        "length_contrast=chosen is shorter": [1],
        "length_contrast=alike": [2],
        "source=test": [0, 1, 2, 3, 4],
    }


def test_tenths_of_length_share_all_pairs_among_them() -> None:
    groups = [group(f"Question {number}", "x" * (number + 1), "y") for number in range(100)]
    found = table(groups, *[(1.0, 0.0)] * 100).slices(["length"])
    assert list(found) == [f"length=tenth {number:02d}" for number in range(1, 11)]
    assert sum(mask.astype(int) for mask in found.values()).tolist() == [1] * 100
    assert all(8 <= mask.sum() <= 12 for mask in found.values())


def test_the_preferred_side_comes_first() -> None:
    groups = [group("a", "aaa", "b"), group("b", "aaa", "b", edges=(Comparison(0, 1, 0.0, 3.0),))]
    found = table(groups, (1.0, 0.0), (1.0, 0.0))
    chosen, rejected = found.preferred("tokens")
    assert (chosen.tolist(), rejected.tolist()) == ([3, 1], [1, 3])
    assert found.preferred("votes")[0].tolist() == [1.0, 3.0]
    assert found.candidate(1.0).differences.tolist() == [1.0, -1.0]


# --- texts for people ------------------------------------------------------------------------------------------------


def test_the_worst_disagreements_come_first_and_nothing_that_is_no_number(tmp_path: Path) -> None:
    groups = [group(f"Question {number}", "good", "bad") for number in range(30)]
    rewards = [(0.0, float(number - 5)) for number in range(29)] + [(0.0, float("inf"))]
    disagreements.write_disagreements(
        tmp_path / "worst.json", groups, table(groups, *rewards), CalibrationMap(2.0), None
    )
    found = disagreements.read_disagreements(tmp_path / "worst.json")
    assert len(found) == disagreements.WORST
    assert [entry["difference"] for entry in found] == [-float(number - 5) for number in range(28, 8, -1)]
    assert found[0] == {
        "group_id": groups[28].id,
        "prompt": [{"role": "user", "content": "Question 28"}],
        "chosen": "good",
        "rejected": "bad",
        "difference": -23.0,
        "probability": pytest.approx(1 / (1 + np.exp(11.5))),
        "champion_difference": None,
        "strength": 1.0,
    }
