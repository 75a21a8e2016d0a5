"""Fine-grained question answering: six pairs of four answers, passages, marked errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.sources import Quarantined, finegrained_qa
from touchstone.groups import Group, judged_pairs
from touchstone.settings.data import FinegrainedQaData

REAL = REAL_DATA / "finegrained-qa"
GOOD: dict[str, Any] = {
    "question": "Who built the tower?",
    "passages": [["Tower", "A tower. ", "Ann built it."], ["Ann", "Ann is a mason."]],
    "gold": "Ann.",
    "prediction 1": "Ann did.",
    "prediction 2": "Bob did.",
    "prediction 3": "Nobody.",
    "prediction 4": "Towers grow.",
    "feedback": {
        "errors": [
            {"error type": "Irrelevant", "explanation": "", "start": 0, "end": 3},
            {"error type": "Irrelevant", "explanation": "", "start": 4, "end": 7},
        ],
        "missing-info": [{"error type": "Missing-Answer", "passage_id": 1, "sentence_id": [1]}],
        "corrected-prediction": "Ann.",
    },
    "preference": [1, 2, 0, 1, 0, 2],
}


def read(root: Path, *rows: dict[str, Any]) -> list[Group | Quarantined]:
    (root / "qa.json").write_text(json.dumps(rows))
    return list(finegrained_qa.read(FinegrainedQaData(source="finegrained_qa", name="qa", path="qa.json"), root))


def test_six_labels_are_the_six_pairs_in_their_order(tmp_path: Path) -> None:
    (group,) = read(tmp_path, GOOD)
    assert isinstance(group, Group)
    assert [completion.text for completion in group.completions] == ["Ann did.", "Bob did.", "Nobody.", "Towers grow."]
    chosen = {(pair.first, pair.second): pair.chosen for pair in judged_pairs(group)}
    assert chosen == {(0, 1): 0, (0, 2): 2, (0, 3): None, (1, 2): 1, (1, 3): None, (2, 3): 3}
    assert [edge.ties for edge in group.comparisons] == [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]


def test_the_question_stands_below_its_passages(tmp_path: Path) -> None:
    group, bare = read(tmp_path, GOOD, {**GOOD, "passages": []})
    assert isinstance(group, Group)
    assert isinstance(bare, Group)
    (message,) = group.prompt
    assert message.role == "user"
    assert message.content == (
        "wikipage: Tower\ntext: A tower.  Ann built it.\n\nwikipage: Ann\ntext: Ann is a mason.\n\n"
        "question: Who built the tower?"
    )
    assert bare.prompt[0].content == "question: Who built the tower?"


def test_marked_errors_are_counted_on_the_first_answer_alone(tmp_path: Path) -> None:
    (group,) = read(tmp_path, GOOD)
    assert isinstance(group, Group)
    first, *others = group.completions
    assert {name: count for name, count in first.ratings.items() if count} == {
        "errors.Irrelevant": 2.0,
        "missing-info.Missing-Answer": 1.0,
    }
    assert len(first.ratings) == 8
    assert all(not other.ratings for other in others)


def test_equal_answers_and_circles_are_kept(tmp_path: Path) -> None:
    (group,) = read(tmp_path, {**GOOD, "prediction 2": "Ann did.", "preference": [1, 2, 1, 1, 1, 1]})
    assert isinstance(group, Group)
    assert len(group.comparisons) == 6
    # 1 over 2, 2 over 3, 3 over 1.
    chosen = {(pair.first, pair.second): pair.chosen for pair in judged_pairs(group)}
    assert (chosen[0, 1], chosen[1, 2], chosen[0, 2]) == (0, 1, 2)
    assert group.completions[0].ratings
    assert not group.completions[1].ratings


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prediction 3": " "}, "'prediction 3' is empty"),
        ({"prediction 4": True}, "'prediction 4' is not text"),
        ({"question": None}, "'question' is not text"),
        ({"passages": "Tower"}, "'passages' is not a list"),
        ({"passages": [["Tower", 7]]}, "something else than a title with sentences"),
        ({"passages": [[]]}, "something else than a title with sentences"),
        ({"preference": [1, 2, 0]}, "another number of labels than 6"),
        ({"preference": [1, 2, 0, 1, 0, 3]}, "not a list of 0, 1, 2"),
        ({"preference": [1, 2, 0, 1, 0, True]}, "not a list of 0, 1, 2"),
        ({"preference": None}, "not a list of 0, 1, 2"),
        ({"feedback": None}, "'feedback' has no list 'errors'"),
        ({"feedback": {"errors": [], "missing-info": 3}}, "'feedback' has no list 'missing-info'"),
        ({"feedback": {"errors": [{"error type": ["Rude"]}], "missing-info": []}}, "an error of an unknown kind"),
        ({"feedback": {"errors": ["Rude"], "missing-info": []}}, "an error of an unknown kind"),
    ],
)
def test_a_bad_question_is_set_aside_whole(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good, bad = read(tmp_path, GOOD, {**GOOD, **change})
    assert isinstance(good, Group)
    assert isinstance(bad, Quarantined)
    assert (bad.file, bad.line) == ("qa.json", 2)
    assert reason in bad.reason
    assert "Rude" not in bad.reason


@pytest.mark.skipif(not REAL.is_dir(), reason="real data is not at ../shared/data")
def test_the_real_file() -> None:
    settings = settings_module.compose(["data=finegrained_qa", f"data.path={REAL}"], ROOT / "configs")
    rows = list(finegrained_qa.read(settings.data, ROOT))
    groups = [row for row in rows if isinstance(row, Group)]
    assert (len(rows), len(groups), len({group.cluster_id for group in groups})) == (347, 347, 347)
    assert sum(edge.ties for group in groups for edge in group.comparisons) == 281
    marked = sum(sum(group.completions[0].ratings.values()) for group in groups)
    assert marked == 1521
