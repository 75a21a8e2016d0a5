"""BIG-Bench Mistake and PRMBench: which step is wrong, and that each label is of its own step."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.sources import Quarantined, read_source
from touchstone.errors import SourceError
from touchstone.groups import Group, labelled_steps
from touchstone.settings.data import StepLabelData

CHAIN = {"input": "3 + 4 * 2 =", "steps": ["Multiply first.", "4 * 2 = 6.", "3 + 6 = 9."], "mistake_index": 1}
CHAIN |= {"answer": "9", "target": "11"}
SOLUTION = {
    "question": "What is 2 + 2?",
    "original_question": "What is 2+2?",
    "original_process": ["Add two to two.", "That is 4."],
    "modified_process": ["Add two to two.", "That is 4 because it is.", "So it is 4."],
    "error_steps": [2],
    "classification": "circular",
}


def chains(root: Path, *rows: dict[str, Any]) -> list[Group | Quarantined]:
    (root / "arithmetic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_source(StepLabelData(source="bigbench_mistake", name="mistakes", path="arithmetic.jsonl"), root))


def solutions(root: Path, *rows: dict[str, Any], path: str = "set.jsonl") -> list[Group | Quarantined]:
    (root / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_source(StepLabelData(source="prmbench", name="solutions", path=path), root))


def group(row: Group | Quarantined) -> Group:
    assert isinstance(row, Group), row
    return row


def test_the_first_mistake_says_what_is_known_of_each_step(tmp_path: Path) -> None:
    wrong, right = map(group, chains(tmp_path, CHAIN, CHAIN | {"mistake_index": None, "answer": "11"}))
    assert labelled_steps(wrong.completions[0]) == [
        ("Multiply first.", 1.0),
        ("4 * 2 = 6.", 0.0),
        ("3 + 6 = 9.", None),
    ]
    assert right.completions[0].steps == (1.0, 1.0, 1.0)
    assert (wrong.completions[0].outcome, right.completions[0].outcome) == (0.0, 1.0)
    assert (wrong.axis, wrong.comparisons) == ("arithmetic", ())


def test_empty_lines_within_a_step_don_t_end_it(tmp_path: Path) -> None:
    (row,) = chains(tmp_path, CHAIN | {"steps": ["Multiply\n\nfirst. ", "4 * 2 = 6.", "\r\n3 + 6\r\n \t\r\n= 9."]})
    texts = [step for step, _ in labelled_steps(group(row).completions[0]) or []]
    assert texts == ["Multiply\nfirst.", "4 * 2 = 6.", "3 + 6\n= 9."]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mistake_index": 3}, "'mistake_index' is neither null nor the index of a step"),
        ({"mistake_index": -1}, "'mistake_index' is neither null nor the index of a step"),
        ({"mistake_index": True}, "'mistake_index' is neither null nor the index of a step"),
        ({"mistake_index": 1.0}, "'mistake_index' is neither null nor the index of a step"),
        ({"steps": ["Add.", " "]}, "'steps' holds an empty step"),
        ({"steps": []}, "'steps' is not a list of texts, or empty"),
        ({"steps": "Add."}, "'steps' is not a list of texts, or empty"),
        ({"steps": ["Add.", 4]}, "'steps' is not a list of texts, or empty"),
        ({"input": ""}, "'input' is empty"),
        ({"answer": None}, "'answer' is not text"),
    ],
)
def test_a_chain_that_can_t_be_used_is_set_aside(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good, bad = chains(tmp_path, CHAIN, CHAIN | change)
    assert isinstance(good, Group)
    assert bad == Quarantined("arithmetic.jsonl", 2, reason)


def test_a_chain_in_which_no_answer_was_found_has_no_outcome(tmp_path: Path) -> None:
    (row,) = chains(tmp_path, CHAIN | {"answer": " "})
    assert group(row).completions[0].outcome is None


def test_what_was_made_of_one_question_is_one_group(tmp_path: Path) -> None:
    other = SOLUTION | {"modified_process": ["Add two to two.", "That is 5."], "classification": "counterfactual"}
    copy, found = solutions(tmp_path, SOLUTION, other, SOLUTION)
    assert isinstance(copy, Quarantined)
    assert copy.reason == "a row before says the same"
    made = group(found)
    assert [completion.policy for completion in made.completions] == ["original", "circular", "counterfactual"]
    assert [completion.steps for completion in made.completions] == [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 0.0)]
    assert [(edge.i, edge.j, edge.wins_i, edge.wins_j) for edge in made.comparisons] == [(0, 1, 1, 0), (0, 2, 1, 0)]
    assert made.prompt[0].content == "What is 2 + 2?"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"error_steps": [4]}, "'error_steps' names a step that isn't there"),
        ({"error_steps": [0]}, "'error_steps' names a step that isn't there"),
        ({"error_steps": [1, 9]}, "'error_steps' names a step that isn't there"),
        ({"error_steps": []}, "'error_steps' is not a list of numbers, or empty"),
        ({"error_steps": [True]}, "'error_steps' is not a list of numbers, or empty"),
        ({"error_steps": [3]}, "a row before labels the same steps otherwise"),
        (
            {"modified_process": ["Add two to two.", "That is 4. "]},
            "'modified_process' is the same as 'original_process'",
        ),
        ({"original_process": [""]}, "'original_process' holds an empty step"),
    ],
)
def test_a_solution_that_can_t_be_used_is_set_aside(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    bad, good = solutions(tmp_path, SOLUTION, SOLUTION | change)
    assert isinstance(good, Group)
    assert bad == Quarantined("set.jsonl", 2, reason)


def test_an_archive_is_read_where_it_lies(tmp_path: Path) -> None:
    plain = solutions(tmp_path, SOLUTION)
    (tmp_path / "folder").mkdir()
    with tarfile.open(tmp_path / "folder" / "set.tar.gz", "w:gz") as tar:
        content = json.dumps(SOLUTION).encode()
        info = tarfile.TarInfo("set.jsonl")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    assert solutions(tmp_path, path="folder") == plain
    assert solutions(tmp_path, path="folder/set.tar.gz") == plain
    (tmp_path / "folder" / "set.tar.gz").write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(SourceError, match="not a whole"):
        solutions(tmp_path, path="folder")


def _real(name: str) -> tuple[list[Group], Counter[str]]:
    folder = REAL_DATA / name.replace("_", "-")
    if not folder.is_dir():
        pytest.skip("real data is not at ../shared/data")
    settings = settings_module.compose([f"data={name}", f"data.path={folder}"], ROOT / "configs")
    rows = list(read_source(settings.data, ROOT))
    groups = [row for row in rows if isinstance(row, Group)]
    completions = [completion for row in groups for completion in row.completions]
    assert all(labelled_steps(completion) is not None for completion in completions)
    return groups, Counter(row.reason for row in rows if isinstance(row, Quarantined))


def test_the_real_chains() -> None:
    groups, reasons = _real("bigbench_mistake")
    assert (len(groups), reasons) == (1_514, {"'steps' holds an empty step": 1})
    assert Counter(row.axis for row in groups)["dyck_languages"] == 681
    assert sum(0.0 not in (row.completions[0].steps or ()) for row in groups) == 336


def test_the_real_solutions() -> None:
    groups, reasons = _real("prmbench")
    assert len(groups) == 401
    assert reasons == {
        "'error_steps' names a step that isn't there": 57,
        "'modified_process' is the same as 'original_process'": 8,
        "'original_process' holds an empty step": 1,
        "a row before labels the same steps otherwise": 2,
        "a row before says the same": 2,
    }
    assert sum(len(row.comparisons) for row in groups) == 3_133
