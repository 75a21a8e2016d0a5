"""Votes on the same texts that come in rows of their own: each counts once, and none is lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from touchstone.data.validation.run import SetAside
from touchstone.data.validation.run import validate as validate_file
from touchstone.groups import Comparison, Completion, Group, Message, judged_pairs, make_group, read_parquet, to_record
from touchstone.settings.checks import Validation

SETTINGS = Validation(
    min_groups=1, min_comparisons=1, max_quarantine_share=0.9, max_contradiction_share=1.0, personal_data="report"
)
TEXTS = ("Boil it.", "Fry it.")


@dataclass
class Outcome:
    kept: list[Group]
    set_aside: list[SetAside]
    totals: dict[str, Any]


def validate(groups: list[Group], folder: Path, settings: Validation = SETTINGS) -> Outcome:
    lines = "".join(json.dumps(to_record(item)) + "\n" for item in groups)
    (folder / "groups.jsonl").write_text(lines)
    outcome = validate_file(folder / "groups.jsonl", folder / "kept.parquet", settings)
    totals = outcome.report["totals"]
    assert totals["groups"] == totals["groups_kept"] + totals["groups_merged"] + totals["groups_set_aside"]
    assert totals["comparisons"] == totals["comparisons_kept"] + totals["comparisons_set_aside"]
    return Outcome(read_parquet(folder / "kept.parquet"), outcome.set_aside, totals)


def row(*edges: Comparison, texts: tuple[str, ...] = TEXTS, prompt: str = "Eggs?") -> Group:
    return make_group(
        prompt=[Message("user", prompt)],
        completions=[Completion(text) for text in texts],
        comparisons=edges,
        source="test",
    )


def first(annotator: str | None = None, **more: Any) -> Comparison:
    return Comparison(0, 1, 1.0, 0.0, annotator=annotator, **more)


def second(annotator: str | None = None, **more: Any) -> Comparison:
    return Comparison(0, 1, 0.0, 1.0, annotator=annotator, **more)


DECIDED = row(first(), prompt="Why?")
"""The checks ask for a decided pair."""


def votes(group: Group) -> tuple[float, float, float]:
    (pair,) = judged_pairs(group)
    return pair.wins_first, pair.wins_second, pair.ties


def test_votes_of_several_annotators_in_rows_of_their_own_are_one_group(tmp_path: Path) -> None:
    other = row(first("ada"), prompt="Tea?")
    outcome = validate([row(first("ada")), other, row(second("bob")), row(first("cyd"))], tmp_path)
    merged, alone = outcome.kept
    assert alone == other
    assert merged.comparisons == (first("ada"), second("bob"), first("cyd"))
    assert outcome.set_aside == []
    assert (outcome.totals["groups_merged"], outcome.totals["comparisons_kept"]) == (2, 4)
    assert (outcome.totals["pairs"], outcome.totals["decided_pairs"]) == (2, 2)


def test_votes_by_name_are_no_contradictions_and_nameless_ones_are(tmp_path: Path) -> None:
    assert validate([row(first("ada")), row(second("bob")), DECIDED], tmp_path).totals["contradicted_pairs"] == 0
    assert validate([row(first()), row(second()), DECIDED], tmp_path).totals["contradicted_pairs"] == 2


def test_what_is_said_again_is_a_copy_and_named(tmp_path: Path) -> None:
    outcome = validate([row(first("ada")), row(first("ada")), row(first(), prompt="Tea?")] * 2, tmp_path)
    assert [group.comparisons for group in outcome.kept] == [(first("ada"),), (first(),)]
    assert [(aside.line, aside.comparison, aside.check) for aside in outcome.set_aside] == [
        (line, None, "no_duplicate") for line in (2, 4, 5, 6)
    ]


def test_nameless_judgements_that_differ_are_votes_copies_too(tmp_path: Path) -> None:
    outcome = validate([row(first()), row(first()), row(second())], tmp_path)
    (group,) = outcome.kept
    assert votes(group) == (2, 1, 0)
    assert outcome.set_aside == []


def test_the_completions_may_stand_in_another_order(tmp_path: Path) -> None:
    turned = row(first("bob"), texts=TEXTS[::-1])
    outcome = validate([row(first("ada")), turned, row(first(), texts=TEXTS[::-1])], tmp_path)
    (group,) = outcome.kept
    assert votes(group) == (1, 2, 0)
    # Who judges which place stays to be seen: the edge begins with what was shown first.
    assert group.comparisons[1] == Comparison(1, 0, 1.0, 0.0, annotator="bob")


def test_the_same_annotator_asked_in_another_order_has_judged_twice(tmp_path: Path) -> None:
    outcome = validate([row(first("ada")), row(second("ada"), texts=TEXTS[::-1])], tmp_path)
    assert votes(outcome.kept[0]) == (2, 0, 0)


def test_of_a_row_only_the_repeated_judgements_go(tmp_path: Path) -> None:
    broken = Comparison(0, 0, 1.0, 0.0)
    outcome = validate([row(first("ada")), row(broken, first("ada"), second("bob")), DECIDED], tmp_path)
    assert outcome.kept[0].comparisons == (first("ada"), second("bob"))
    assert [(aside.line, aside.comparison, aside.check) for aside in outcome.set_aside] == [
        (2, 0, "not_with_itself"),
        (2, 1, "judged_once"),
    ]


def test_a_judgement_of_what_nobody_had_judged_is_not_lost(tmp_path: Path) -> None:
    outcome = validate([row(), row(second("bob")), row()], tmp_path)
    assert [group.comparisons for group in outcome.kept] == [(second("bob"),)]
    assert [(aside.line, aside.check) for aside in outcome.set_aside] == [(3, "no_duplicate")]


def test_rankings_keep_which_text_is_which(tmp_path: Path) -> None:
    texts = ("a", "b", "b", "c")

    def ranking(who: str, order: list[int]) -> Group:
        edges = [Comparison(i, j, 1.0, 0.0, annotator=who) for i in range(4) for j in range(i + 1, 4)]
        return row(*edges, texts=tuple(texts[place] for place in order))

    outcome = validate([ranking("ada", [0, 1, 2, 3]), ranking("bob", [3, 2, 1, 0]), DECIDED], tmp_path)
    group, _ = outcome.kept
    wins = {(pair.first, pair.second): (pair.wins_first, pair.wins_second) for pair in judged_pairs(group)}
    # b against b says nothing and has gone; every other pair has one vote for either side.
    assert set(wins) == {(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)}
    assert set(wins.values()) == {(1.0, 1.0)}


@pytest.mark.parametrize("seed", range(3))
def test_random_votes_come_out_as_they_went_in_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random = Random(seed)
    rows, counted = [], dict[str, list[float]]()
    for number in range(150):
        prompt, texts = f"Question {random.randrange(20)}?", random.choice([TEXTS, TEXTS[::-1]])
        edge = random.choice([first, second])(f"annotator {number}")
        rows.append(row(edge, texts=texts, prompt=prompt))
        winner = texts[0 if edge.wins_i else 1]
        counted.setdefault(prompt, [0.0, 0.0])[TEXTS.index(winner)] += 1
    alone = validate(rows, tmp_path)
    monkeypatch.setattr("touchstone.data.validation.run.PARQUET_BATCH", 7)
    assert validate(rows, tmp_path).kept == alone.kept
    merged = {}
    for group in alone.kept:
        by_text = dict(zip((completion.text for completion in group.completions), votes(group)[:2], strict=True))
        merged[group.prompt[0].content] = [by_text[text] for text in TEXTS]
    assert merged == counted
    assert alone.set_aside == []


def test_a_group_that_is_set_aside_takes_its_votes_along(tmp_path: Path) -> None:
    told = [row(edge, texts=("Write to jane.doe@example.org.", "No.")) for edge in (first("ada"), second("bob"))]
    quarantine = SETTINGS.model_copy(update={"personal_data": "quarantine"})
    outcome = validate([row(first()), *told], tmp_path, quarantine)
    assert [group.comparisons for group in outcome.kept] == [(first(),)]
    assert [(aside.line, aside.check) for aside in outcome.set_aside] == [
        (2, "no_personal_data"),
        (3, "no_personal_data"),
    ]


def test_other_margins_are_another_judgement(tmp_path: Path) -> None:
    rows = [row(first("ada", margin=2.0)), row(first("ada", margin=1.0)), row(replace(first("ada"), margin=2.0))]
    (group,) = validate(rows, tmp_path).kept
    assert [edge.margin for edge in group.comparisons] == [2.0, 1.0, 2.0]
