"""PandaLM: three annotators per pair, and responses that aren't text."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.sources import Quarantined, pandalm
from touchstone.groups import Group, Message, judged_pairs
from touchstone.settings.data import PandalmData

REAL = REAL_DATA / "pandalm"
GOOD = {
    "idx": 4,
    "motivation_app": "Garden",
    "cmp_key": "small-1b_large-7.5B",
    "instruction": "Name a colour.",
    "input": "",
    "response1": "Blue.",
    "response2": "Seven.",
    "annotator1": 1,
    "annotator2": 0,
    "annotator3": 2,
}


def read(root: Path, *rows: dict[str, Any]) -> list[Group | Quarantined]:
    (root / "set.json").write_text(json.dumps(rows))
    return list(pandalm.read(PandalmData(source="pandalm", name="panda", path="set.json"), root))


def test_each_annotator_is_one_comparison_under_a_hashed_name(tmp_path: Path) -> None:
    first, second = read(tmp_path, GOOD, {**GOOD, "instruction": "Name a number.", "annotator1": 2})
    assert isinstance(first, Group)
    assert isinstance(second, Group)
    labels = [(edge.wins_i, edge.wins_j, edge.ties) for edge in first.comparisons]
    assert labels == [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)]
    names = [edge.annotator for edge in first.comparisons]
    assert len(set(names)) == 3
    assert names == [edge.annotator for edge in second.comparisons]
    assert all(name is not None and len(name) == 12 and "annotator" not in name for name in names)
    assert judged_pairs(first)[0].chosen is None
    assert judged_pairs(second)[0].chosen == 1


def test_an_input_stands_below_the_instruction_where_there_is_one(tmp_path: Path) -> None:
    without, blank, below = read(tmp_path, GOOD, {**GOOD, "input": " \n"}, {**GOOD, "input": "Think of the sea."})
    assert isinstance(without, Group)
    assert isinstance(blank, Group)
    assert isinstance(below, Group)
    assert without.prompt == blank.prompt == (Message("user", "Name a colour."),)
    assert below.prompt == (Message("user", "Name a colour.\n\nThink of the sea."),)
    assert below.cluster_id != without.cluster_id


@pytest.mark.parametrize(
    ("key", "policies"),
    [
        ("small-1b_large-7.5B", ["small-1b", "large-7.5B"]),
        ("small_1b_large", [None, None]),
        ("small", [None, None]),
        ("_large", [None, None]),
        (None, [None, None]),
    ],
)
def test_models_are_named_only_where_the_key_is_two_names(tmp_path: Path, key: Any, policies: list[Any]) -> None:
    (group,) = read(tmp_path, {**GOOD, "cmp_key": key})
    assert isinstance(group, Group)
    assert [completion.policy for completion in group.completions] == policies


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"response1": True}, "'response1' is not text"),
        ({"response2": False, "response1": ""}, "'response1' is empty"),
        ({"response2": " \n"}, "'response2' is empty"),
        ({"response2": None}, "'response2' is not text"),
        ({"instruction": ""}, "'instruction' is empty"),
        ({"input": 7}, "'input' is not text"),
        ({"annotator2": True}, "'annotator2' is none of 0, 1, 2"),
        ({"annotator2": 3}, "'annotator2' is none of 0, 1, 2"),
        ({"annotator3": None}, "'annotator3' is none of 0, 1, 2"),
        ({"annotator3": "1"}, "'annotator3' is none of 0, 1, 2"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_number(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good, bad = read(tmp_path, GOOD, {**GOOD, **change})
    assert isinstance(good, Group)
    assert bad == Quarantined("set.json", 2, reason)


def test_repeats_and_equal_responses_are_left_to_validation(tmp_path: Path) -> None:
    first, again, equal = read(tmp_path, GOOD, GOOD, {**GOOD, "response2": "Blue."})
    assert first == again
    assert isinstance(equal, Group)
    assert [completion.text for completion in equal.completions] == ["Blue.", "Blue."]


@pytest.mark.skipif(not REAL.is_dir(), reason="real data is not at ../shared/data")
def test_the_real_file() -> None:
    settings = settings_module.compose(["data=pandalm", f"data.path={REAL}"], ROOT / "configs")
    rows = list(pandalm.read(settings.data, ROOT))
    groups = [row for row in rows if isinstance(row, Group)]
    reasons = [row.reason for row in rows if isinstance(row, Quarantined)]
    assert (len(rows), len(groups)) == (646, 604)
    assert (sum("is not text" in reason for reason in reasons), sum("is empty" in reason for reason in reasons)) == (
        6,
        36,
    )
    assert {len(group.comparisons) for group in groups} == {3}
    # What the models' names rest on: a model's response to a prompt is the same in every row.
    written: dict[tuple[str, str | None], set[str]] = defaultdict(set)
    for group in groups:
        for completion in group.completions:
            written[group.cluster_id, completion.policy].add(completion.text)
    assert len({policy for _, policy in written}) == 5
    assert {len(texts) for texts in written.values()} == {1}
