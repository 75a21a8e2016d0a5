"""Rated completions: groups by prompt, margins and ties from ratings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.sources import Quarantined, read_source, table
from touchstone.groups import Comparison, Group, Message, judged_pairs
from touchstone.settings.table import TableData

REAL = REAL_DATA / "topical-chat"


def row(text: Any, overall: Any = 3.0, prompt: Any = "Name a colour.", **more: Any) -> dict[str, Any]:
    scores = {"overall": overall, "naturalness": 2, "unrated": None}
    return {"fact": "The sea is blue.", "talk": prompt, "said": text, "scores": scores, "who": "small-1b", **more}


def read(root: Path, *rows: Any, judgement: Any = None, **more: Any) -> list[Group | Quarantined]:
    (root / "rated.jsonl").write_text(
        "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows)
    )
    usual = {"kind": "ratings", "field": "scores.overall", "aspects": {"scores": "scores"}}
    fields = {
        "rows": "completion",
        "prompt": ["fact", "talk"],
        "completions": ["said"],
        "policies": ["who"],
        "judgements": {"helpfulness": {**usual, **(judgement or {})}},
        **more,
    }
    where = {"source": "table", "name": "mine", "path": "rated.jsonl"}
    return list(read_source(TableData.model_validate({**where, **fields}), root))


def test_rows_with_one_prompt_are_one_group_wherever_they_stand(tmp_path: Path) -> None:
    blue, shape = read(
        tmp_path, row("Blue.", 5), row("Round.", 4, "Name a shape. \n\n"), row("Seven.", 1), row("Red.", 4.5)
    )
    assert isinstance(blue, Group)
    assert isinstance(shape, Group)
    assert blue.prompt == (Message("user", "The sea is blue.\n\nName a colour."),)
    assert shape.prompt == (Message("user", "The sea is blue.\n\nName a shape."),)
    assert [completion.text for completion in blue.completions] == ["Blue.", "Seven.", "Red."]
    assert blue.comparisons == (
        Comparison(0, 1, 1.0, 0.0, margin=4.0),
        Comparison(0, 2, 1.0, 0.0, margin=0.5),
        Comparison(1, 2, 0.0, 1.0, margin=3.5),
    )
    assert shape.comparisons == ()


def test_ratings_and_policies_stay_with_the_completion(tmp_path: Path) -> None:
    other = row("Red.", 4)
    (full,) = read(tmp_path, row("Blue."), other)
    unnamed = {"judgement": {"field": "stars", "aspects": None}, "policies": None}
    stars = [{"talk": "Hi", "said": text, "stars": number} for text, number in (("Blue.", 4), ("Red.", 2))]
    (bare,) = read(tmp_path, *stars, prompt=["talk"], **unnamed)
    (unknown,) = read(tmp_path, row("Blue.", who=None), other)
    assert isinstance(full, Group)
    assert isinstance(bare, Group)
    assert isinstance(unknown, Group)
    assert full.completions[0].ratings == {
        "overall": 3.0,
        "scores.overall": 3.0,
        "scores.naturalness": 2.0,
    }
    assert full.completions[0].policy == "small-1b"
    assert bare.completions[0].ratings == {"stars": 4.0}
    assert bare.completions[0].policy is None
    assert unknown.completions[0].policy is None


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 5), min_size=2, max_size=6), st.floats(0, 2))
def test_comparisons_follow_the_ratings(
    tmp_path_factory: pytest.TempPathFactory, ratings: list[float], tie_below: float
) -> None:
    rows = [row(f"Answer {number}.", rating) for number, rating in enumerate(ratings)]
    (group,) = read(tmp_path_factory.mktemp("rated"), *rows, judgement={"tie_below": tie_below})
    assert isinstance(group, Group)
    pairs = judged_pairs(group)
    assert len(pairs) == len(ratings) * (len(ratings) - 1) // 2
    for pair in pairs:
        difference = ratings[pair.first] - ratings[pair.second]
        if difference == 0 or abs(difference) < tie_below:
            assert (pair.chosen, pair.ties, pair.margin) == (None, 1.0, None)
        else:
            assert pair.chosen == (pair.first if difference > 0 else pair.second)
            assert pair.margin == abs(difference)


def test_an_empty_part_of_the_prompt_is_left_out(tmp_path: Path) -> None:
    bad, group = read(tmp_path, row("Blue.", fact=" "), row("Blue.", prompt="", fact=""), row("Red.", 4, fact=""))
    assert isinstance(group, Group)
    assert group.prompt == (Message("user", "Name a colour."),)
    assert bad == Quarantined("rated.jsonl", 2, "the prompt is empty")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row(" "), "'said' is empty"),
        (row(True), "'said' is neither text nor messages"),
        (row("Red.", prompt=7), "'talk' is not text"),
        (row("Red.", "four"), "'scores.overall' is not a number"),
        (row("Red.", [4]), "'scores.overall' is no single number"),
        (row("Red.", 10**400), "'scores.overall' is not finite"),
        (json.dumps(row("Red.", 77)).replace("77", "1e999"), "'scores.overall' is not finite"),
        (row("Red.", scores={"overall": 4, "naturalness": "good"}), "'scores' is not a number"),
        (row("Red.", who=7), "'who' is not text"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line(tmp_path: Path, line: Any, reason: str) -> None:
    bad, group = read(tmp_path, row("Blue."), line, row("Green.", 1))
    assert isinstance(bad, Quarantined)
    assert isinstance(group, Group)
    assert (bad.file, bad.line) == ("rated.jsonl", 2)
    assert reason in bad.reason
    assert len(group.completions) == 2


def test_what_nobody_rated_is_kept_and_compared_with_nothing(tmp_path: Path) -> None:
    (group,) = read(tmp_path, row("Blue.", 5), row("Red.", None), row("Green.", "4"), row("Seven.", float("nan")))
    assert isinstance(group, Group)
    assert [completion.text for completion in group.completions] == ["Blue.", "Red.", "Green.", "Seven."]
    assert group.comparisons == (Comparison(0, 2, 1.0, 0.0, margin=1.0),)


def test_a_prompt_without_end_costs_its_later_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_COMPLETIONS", 3)
    late, group = read(tmp_path, *(row(f"Answer {number}.") for number in range(4)))
    assert late == Quarantined("rated.jsonl", 4, "its prompt has more than 3 completions")
    assert isinstance(group, Group)
    assert len(group.completions) == 3


@pytest.mark.skipif(not REAL.is_dir(), reason="real data is not at ../shared/data")
def test_the_real_file() -> None:
    settings = settings_module.compose(["data=topical_chat", f"data.path={REAL}"], ROOT / "configs")
    rows = list(read_source(settings.data, ROOT))
    groups = [row for row in rows if isinstance(row, Group)]
    assert (len(rows), len(groups)) == (60, 60)
    assert {len(group.completions) for group in groups} == {6}
    assert {completion.policy is None for group in groups for completion in group.completions} == {False}
    assert sum(edge.ties for group in groups for edge in group.comparisons) == 66
    assert max(edge.margin or 0 for group in groups for edge in group.comparisons) == 4.0
