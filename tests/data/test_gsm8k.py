"""GSM8K's example solutions: what is read, what is set aside, and what the labels imply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.places import REAL_DATA, ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import import_source
from touchstone.data.outcomes import as_learnt
from touchstone.data.sources import Quarantined, gsm8k
from touchstone.data.validation.run import validate
from touchstone.errors import SourceError, SuspicionError, ValidationError
from touchstone.groups import Comparison, Completion, Group, Message, make_group, read_parquet, to_line
from touchstone.settings.checks import Import, Validation
from touchstone.settings.data import Gsm8kData

REAL = REAL_DATA / "gsm8k"
CORRECT = dict(zip(gsm8k.POLICIES, (True, False, True, False), strict=True))
GOOD: dict[str, Any] = {
    "question": " How many? ",
    "ground_truth": "A: 4",
    **{
        policy: {"is_correct": correct, "solution": f"2+2=<<2+2=4>>4 by {policy}\nA: 4"}
        for policy, correct in CORRECT.items()
    },
}


def read(root: Path, *rows: dict[str, Any], path: str = "solutions.jsonl") -> list[Group | Quarantined]:
    (root / "solutions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(gsm8k.read(Gsm8kData(source="gsm8k", name="gsm8k", path=path), root))


def test_solutions_carry_their_label_and_nobody_compares_them(tmp_path: Path) -> None:
    (group,) = read(tmp_path, GOOD)
    assert isinstance(group, Group)
    assert group.prompt == (Message("user", "How many?"),)
    assert {text.policy: text.outcome for text in group.completions} == {p: float(c) for p, c in CORRECT.items()}
    assert group.completions[0].text == "2+2=4 by 6b_finetuning\nA: 4"
    assert group.comparisons == ()


def test_labels_imply_that_correct_beats_wrong() -> None:
    labels = [1.0, 0.0, None, 1.0, 0.25]
    texts = [Completion(str(place), outcome=label) for place, label in enumerate(labels)]
    edges = [Comparison(0, 1, 0.0, 1.0, annotator="ann")]
    plain = make_group(prompt=[Message("user", "?")], completions=texts, comparisons=edges, source="test")
    implied = as_learnt(plain, "outcome")
    assert [(edge.i, edge.j, edge.wins_i) for edge in implied.comparisons] == [
        (0, 1, 1.0), (0, 4, 1.0), (1, 3, 0.0), (1, 4, 0.0), (3, 4, 1.0),
    ]  # fmt: skip
    assert implied.id == plain.id
    assert as_learnt(plain, "comparisons") is plain


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": 3}, "'question' is not text"),
        ({"6b_finetuning": None}, "'6b_finetuning' holds no solution"),
        ({"6b_finetuning": {"is_correct": 1, "solution": "4"}}, "true or false"),
        ({"175b_verification": {"is_correct": True, "solution": "<<1+1=2>>"}}, "says nothing"),
        ({"6b_verification": {**GOOD["6b_finetuning"], "is_correct": False}}, "and another label"),
    ],
)
def test_a_bad_problem_is_set_aside(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    good, bad = read(tmp_path, GOOD, {**GOOD, **change})
    assert isinstance(good, Group)
    assert isinstance(bad, Quarantined)
    assert reason in bad.reason


def test_a_solution_that_comes_twice_is_one(tmp_path: Path) -> None:
    (group,) = read(tmp_path, {**GOOD, "175b_finetuning": GOOD["6b_finetuning"]})
    assert isinstance(group, Group)
    assert len(group.completions) == 3


def test_of_the_publishers_folder_the_labelled_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no example_model_solutions"):
        read(tmp_path, GOOD, path=".")
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / gsm8k.FILE).write_text(json.dumps(GOOD) + "\n")
    assert len(read(tmp_path, GOOD, path=".")) == 1


def test_labels_alone_are_no_alarm_and_nothing_at_all_is(tmp_path: Path) -> None:
    rows = [{**GOOD, "question": f"How many, {number}?"} for number in range(30)]
    read(tmp_path, *rows)
    values = settings_module.compose(
        ["objective=outcome", "data=gsm8k", "data.path=solutions.jsonl"], ROOT / "configs"
    )
    summary = import_source(values, tmp_path, tmp_path / "data")
    assert (summary.groups, summary.comparisons, summary.alarms) == (30, 0, [])
    assert "120 completions, 60 correct" in summary.render()
    table = ["data=table", "data.path=solutions.jsonl", "data.prompt=question", "data.completions=[ground_truth]"]
    assert values.importing == Import(max_quarantine_share=0.005)
    unlabelled = settings_module.compose(table, ROOT / "configs")
    with pytest.raises((SuspicionError, SourceError)):
        import_source(unlabelled, tmp_path, tmp_path / "other")


CHECKS = Validation(
    min_groups=5, min_comparisons=20, max_quarantine_share=0.2, max_contradiction_share=0.1, personal_data="report"
)


def _validated(
    root: Path, labels: list[float | None], *, learns: Any = "outcome"
) -> tuple[list[Group], dict[str, Any]]:
    groups = [
        make_group(
            prompt=[Message("user", f"Question {number}?")],
            completions=[Completion(f"answer {place}", outcome=label) for place, label in enumerate(labels)],
            comparisons=[],
            source="test",
        )
        for number in range(30)
    ]
    path = root / "groups.jsonl"
    path.write_text("".join(map(to_line, groups)))
    outcome = validate(path, root / "kept.parquet", CHECKS, learns=learns)
    return read_parquet(root / "kept.parquet"), outcome.report["totals"]


def test_validation_keeps_groups_of_labels_with_the_comparisons_that_they_imply(tmp_path: Path) -> None:
    kept, totals = _validated(tmp_path, [1.0, 0.0, 0.0])
    assert (len(kept), totals["labelled_completions"], totals["correct_share"]) == (30, 90, 0.333333)
    assert totals["decided_pairs"] == 60
    assert all(len(group.comparisons) == 2 for group in kept)


def test_validation_stops_without_labels_and_sets_aside_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="enough_labels"):
        _validated(tmp_path, [None, None])
    with pytest.raises(ValidationError, match="few_groups_set_aside"):
        _validated(tmp_path, [1.0, 0.0, 1.5])
    with pytest.raises(ValidationError, match="objective=outcome"):
        _validated(tmp_path, [1.0, 0.0], learns="comparisons")


@pytest.mark.skipif(not REAL.is_dir(), reason="real data is not at ../shared/data")
def test_the_real_file() -> None:
    settings = settings_module.compose(["data=gsm8k", f"data.path={REAL}"], ROOT / "configs")
    rows = list(gsm8k.read(settings.data, ROOT))
    groups = [row for row in rows if isinstance(row, Group)]
    assert (len(rows), len(groups), len({group.cluster_id for group in groups})) == (642, 642, 642)
    labels = [text.outcome for group in groups for text in group.completions]
    assert (len(labels), sum(label or 0 for label in labels)) == (2567, 975)
    assert sum(bool(as_learnt(group, "outcome").comparisons) for group in groups) == 357
