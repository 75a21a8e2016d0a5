"""Labels that a model made by principles: read strictly, and marked as a model's for good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from touchstone.data.sources import Quarantined, read_source
from touchstone.groups import Group, by_model, judged_pairs
from touchstone.settings.data import PrinciplesData

JUDGE = "judge:0123456789abcdef"
ROW: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "Tea?"}],
    "completions": [
        {"text": "Yes.", "policy": "v1"},
        {"text": "No.", "policy": None},
        {"text": "Maybe.", "policy": None},
    ],
    "axis": "safety",
    "cluster_id": "tea",
    "judge": JUDGE,
    "verdicts": [
        {"i": 0, "j": 1, "wins_i": 0.75, "wins_j": 0.25, "ties": 0.0},
        {"i": 0, "j": 2, "wins_i": 0.0, "wins_j": 0.0, "ties": 1.0},
        {"i": 1, "j": 2, "reason": "the answer was cut at llm_judge.max_answer_tokens"},
    ],
}


def read(tmp_path: Path, *rows: dict[str, Any]) -> list[Group | Quarantined]:
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_source(PrinciplesData(source="principles", name="principles", path="labelled.jsonl"), tmp_path))


def test_a_row_becomes_a_group_whose_comparisons_are_a_models(tmp_path: Path) -> None:
    group, missing = read(tmp_path, ROW)
    assert isinstance(group, Group)
    assert (group.axis, group.source, group.cluster_id) == ("safety", "principles", "tea")
    assert all(by_model(edge) and edge.annotator == JUDGE for edge in group.comparisons)
    strong, tie = judged_pairs(group)
    assert (strong.strength, tie.chosen) == (0.75, None)
    assert missing == Quarantined("labelled.jsonl", 1, "the judge gave no verdict: the answer was cut")


def test_a_row_without_any_verdict_is_set_aside_with_its_reasons(tmp_path: Path) -> None:
    rows = read(tmp_path, {**ROW, "verdicts": [{"i": 0, "j": 1, "reason": "a secret of the text"}]})
    assert [row.reason for row in rows if isinstance(row, Quarantined)] == [
        "a row without any verdict",
        "the judge gave no verdict: for another reason",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"judge": "ada"}, "'judge' is no name of a judge"),
        ({"judge": None}, "'judge' is no name of a judge"),
        ({"verdicts": []}, "'verdicts' is no list of objects"),
        ({"verdicts": [{"i": 0, "j": 3, "wins_i": 1, "wins_j": 0, "ties": 0}]}, "names a pair that is not there"),
        ({"verdicts": [{"i": 1, "j": 0, "wins_i": 1, "wins_j": 0, "ties": 0}]}, "names a pair that is not there"),
        ({"verdicts": [ROW["verdicts"][0], ROW["verdicts"][0]]}, "or one twice"),
        ({"verdicts": [{"i": 0, "j": 1, "wins_i": 1, "wins_j": 1, "ties": 0}]}, "don't add up to 1"),
        ({"verdicts": [{"i": 0, "j": 1, "wins_i": 2, "wins_j": -1, "ties": 0}]}, "don't add up to 1"),
        ({"verdicts": [{"i": 0, "j": 1, "wins_i": 1}]}, "'wins_j' is not a number"),
        ({"axis": ""}, "'axis' is empty"),
        ({"completions": [{"text": "Yes."}]}, "'completions' is no list of 2"),
        ({"completions": ["Yes.", "No."]}, "something else than objects"),
    ],
)
def test_what_is_no_label_is_quarantined(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (row,) = read(tmp_path, {**ROW, **changes})
    assert isinstance(row, Quarantined)
    assert reason in row.reason
