"""Ranked lists: the pairs that they imply, histories, equal texts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.sources import Quarantined, read_source
from touchstone.errors import SettingsError
from touchstone.groups import Group, Message, judged_pairs, prompt_digest
from touchstone.settings.table import TableData

REAL = REAL_DATA / "oasst-rank-zh"
GOOD: dict[str, Any] = {
    "instruction": "And a warm one?",
    "input": "",
    "output": ["Red.", "Orange, perhaps.", "Seven."],
    "history": [["Name a colour.", "Blue."]],
}


def read(root: Path, *rows: Any, **more: Any) -> list[Group | Quarantined]:
    (root / "ranked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"prompt": "instruction", "input": "input", "history": "history", "completions": ["output[]"], **more}
    judgements = {"helpfulness": {"kind": "order"}}
    where = {"source": "table", "name": "mine", "path": "ranked.jsonl", "judgements": judgements}
    return list(read_source(TableData.model_validate({**where, **fields}), root))


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(2, 12))
def test_a_list_implies_that_each_beats_all_later_ones(tmp_path_factory: pytest.TempPathFactory, count: int) -> None:
    texts = [f"Answer {number}." for number in range(count)]
    (group,) = read(tmp_path_factory.mktemp("ranked"), {**GOOD, "output": texts})
    assert isinstance(group, Group)
    assert [completion.text for completion in group.completions] == texts
    pairs = judged_pairs(group)
    assert len(pairs) == count * (count - 1) // 2
    assert all(pair.chosen == pair.first and pair.strength == 1.0 and pair.margin is None for pair in pairs)


def test_history_and_input_become_the_prompt(tmp_path: Path) -> None:
    full, plain, ignored = read(
        tmp_path,
        {**GOOD, "input": "Like fire."},
        {"instruction": "Name a colour.", "output": ["Blue.", "Seven."]},
        {**GOOD, "history": None, "input": None},
    )
    assert isinstance(full, Group)
    assert isinstance(plain, Group)
    assert isinstance(ignored, Group)
    assert full.prompt == (
        Message("user", "Name a colour."),
        Message("assistant", "Blue."),
        Message("user", "And a warm one?\n\nLike fire."),
    )
    assert plain.prompt == (Message("user", "Name a colour."),)
    assert ignored.prompt == (Message("user", "And a warm one?"),)
    (unread,) = read(tmp_path, {**GOOD, "history": 7, "input": 7}, history=None, input=None)
    assert isinstance(unread, Group)
    assert len(unread.prompt) == 1


def test_rows_of_one_dialogue_are_one_cluster_even_where_they_differ_in_dirt(tmp_path: Path) -> None:
    opening, later, other = read(
        tmp_path,
        {"instruction": "Name a\ncolour.", "output": ["Blue.", "Seven."]},
        {**GOOD, "history": [["Name a\r\ncolour.\u200b", "Blue."]]},
        {**GOOD, "history": [["Name a shape.", "Round."]]},
    )
    assert isinstance(opening, Group)
    assert isinstance(later, Group)
    assert isinstance(other, Group)
    assert opening.cluster_id == later.cluster_id == prompt_digest(opening.prompt)
    assert other.cluster_id != later.cluster_id


def test_equal_texts_stay_and_contradict_only_what_lies_between(tmp_path: Path) -> None:
    (group,) = read(tmp_path, {**GOOD, "output": ["Red.", "Orange.", "Red."]})
    assert isinstance(group, Group)
    assert [completion.text for completion in group.completions] == ["Red.", "Orange.", "Red."]
    winners = Counter((edge.i, edge.j) for edge in group.comparisons)
    assert winners == {(0, 1): 1, (0, 2): 1, (1, 2): 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"output": "Red."}, "'output[]' holds no valid JSON"),
        ({"output": None}, "no field 'output[]'"),
        ({"output": ["Red."] * 1001}, "more than 1,000"),
        ({"output": ["Red.", " "]}, "'output[]' is empty"),
        ({"output": ["Red.", True]}, "'output[]' is neither text nor messages"),
        ({"instruction": " "}, "'instruction' is empty"),
        ({"input": ["x"]}, "'input' is not text"),
        ({"history": "Name a colour."}, "'history' holds no valid JSON"),
        ({"history": [["Name a colour."]]}, "'history' is not a list of [user, assistant]"),
        ({"history": [["Name a colour.", None]]}, "'history' is not text"),
        ({"history": [["Name a colour.", ""]]}, "'history' is empty"),
    ],
)
def test_a_bad_list_is_set_aside_whole(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good, bad = read(tmp_path, GOOD, {**GOOD, **change})
    assert isinstance(good, Group)
    assert isinstance(bad, Quarantined)
    assert (bad.file, bad.line) == ("ranked.jsonl", 2)
    assert reason in bad.reason


def test_a_list_of_one_is_a_group_that_nobody_judged(tmp_path: Path) -> None:
    _, group = read(tmp_path, GOOD, {**GOOD, "output": ["Red."]})
    assert isinstance(group, Group)
    assert group.comparisons == ()


def test_the_settings_of_old_are_refused_with_what_to_write_instead() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    old = {"source": "ranked", "name": "mine", "path": "x", "prompt_field": "instruction"}
    with pytest.raises(
        SettingsError, match=r"^settings are wrong: data: .*data=ranked, with data.prompt for prompt_field"
    ):
        settings_module.parse({**values, "data": old})
    with pytest.raises(
        SettingsError, match=r"of data.judgements.helpfulness for rating_field, aspects_field and tie_below"
    ):
        settings_module.parse({**values, "data": {**old, "source": "rated"}})


def test_a_limit_counts_lists(tmp_path: Path) -> None:
    assert len(read(tmp_path, GOOD, GOOD, GOOD, limit=2)) == 2


@pytest.mark.skipif(not REAL.is_dir(), reason="real data is not at ../shared/data")
def test_the_real_file() -> None:
    settings = settings_module.compose(["data=oasst_rank_zh", f"data.path={REAL}"], ROOT / "configs")
    rows = list(read_source(settings.data, ROOT))
    groups = [row for row in rows if isinstance(row, Group)]
    assert (len(rows), len(groups)) == (775, 775)
    assert sum(len(group.prompt) > 1 for group in groups) == 392
    assert len({group.cluster_id for group in groups}) == 362
    assert sum(len(group.comparisons) for group in groups) == 1809
