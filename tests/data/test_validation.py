"""Validation: what stops, what is set aside, and that nothing is lost on the way."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.places import ROOT
from touchstone.data.validation.__main__ import main
from touchstone.data.validation.expectations import Check, Suites
from touchstone.data.validation.facts import has_cycle, normal_form
from touchstone.data.validation.run import SetAside
from touchstone.data.validation.run import validate as validate_file
from touchstone.errors import DataError, ValidationError
from touchstone.groups import (
    Comparison,
    Completion,
    Group,
    Message,
    judged_pairs,
    make_group,
    read_parquet,
    to_line,
    to_record,
)
from touchstone.runtime.files import digest_folder
from touchstone.settings.checks import Validation

SETTINGS = Validation(
    min_groups=20, min_comparisons=20, max_quarantine_share=0.2, max_contradiction_share=0.1, personal_data="report"
)
WIN = Comparison(0, 1, 1.0, 0.0)


def group(
    number: int, texts: tuple[str, ...] = ("Yes.", "No."), edges: tuple[Comparison, ...] = (WIN,), role: str = "user"
) -> Group:
    return make_group(
        prompt=[Message(role, f"Question {number}?")],
        completions=[Completion(text) for text in texts],
        comparisons=edges,
        source="test",
    )


GOOD = [group(number) for number in range(30)]


@dataclass
class Outcome:
    kept: list[Group]
    set_aside: list[SetAside]
    report: dict[str, Any]


def validate(groups: list[Group], settings: Validation = SETTINGS) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        # Not to_line: votes and margins may be NaN here.
        lines = "".join(json.dumps(to_record(item)) + "\n" for item in groups)
        Path(folder, "groups.jsonl").write_text(lines)
        kept = Path(folder, "kept.parquet")
        outcome = validate_file(Path(folder, "groups.jsonl"), kept, settings)
        assert not list(Path(folder).glob(".parts*"))
        return Outcome(read_parquet(kept), outcome.set_aside, outcome.report)


def test_good_groups_pass_in_their_order() -> None:
    outcome = validate(GOOD)
    assert outcome.kept == GOOD
    assert outcome.set_aside == []
    assert all(check["success"] for check in outcome.report["checks"] if check["severity"] == "critical")


BAD = [
    (replace(GOOD[0], prompt=()), "prompt_has_content"),
    (replace(GOOD[0], prompt=(Message("user", " \u200b"),)), "prompt_has_content"),
    (group(99, ("Yes.", " \u200b\n")), "completions_have_content"),
    (group(99, role="wizard"), "known_roles"),
    (group(99, role="assistant"), "known_roles"),
    (replace(GOOD[0], prompt=(Message("assistant", "Hello."), Message("user", "Hello?"))), "known_roles"),
    (replace(GOOD[0], prompt=(Message("user", "Hello."), Message("user", "Hello?"))), "known_roles"),
    (group(99, edges=(Comparison(0, 2, 1.0, 0.0),)), "index_in_range"),
    (group(99, edges=(Comparison(-1, 0, 1.0, 0.0),)), "index_in_range"),
    (group(99, edges=(Comparison(1, 1, 1.0, 0.0),)), "not_with_itself"),
    (group(99, ("Fine words", "\uff26ine  wo\u200brds")), "texts_differ"),
    (group(99, edges=(Comparison(0, 1, math.nan, 0.0),)), "votes_are_counts"),
    (group(99, edges=(Comparison(0, 1, 1.0, -1.0),)), "votes_are_counts"),
    (group(99, edges=(Comparison(0, 1, 0.0, 0.0),)), "votes_are_counts"),
    (group(99, edges=(replace(WIN, margin=math.inf),)), "margin_is_finite"),
    (group(99, edges=(replace(WIN, margin=-0.5),)), "margin_is_finite"),
]


def test_a_bad_group_is_set_aside_with_the_reason() -> None:
    groups = [
        *[group(number) for number in range(200)],
        *[replace(bad, id=f"bad {n}") for n, (bad, _) in enumerate(BAD)],
    ]
    outcome = validate(groups)
    assert len(outcome.kept) == 200
    for n, (_, check) in enumerate(BAD):
        rows = [row for row in outcome.set_aside if row.group_id == f"bad {n}"]
        assert {(row.source_file, row.line) for row in rows} == {("groups.jsonl", 201 + n)}
        assert check in {row.check for row in rows}, check
        assert sum(row.comparison is None for row in rows) == 1
    totals = outcome.report["totals"]
    assert totals["groups"] == totals["groups_kept"] + totals["groups_set_aside"] == 200 + len(BAD)
    assert totals["comparisons"] == totals["comparisons_kept"] + totals["comparisons_set_aside"] == 200 + len(BAD)


def test_a_bad_comparison_goes_alone_when_others_are_good() -> None:
    edges = (WIN, Comparison(2, 2, 1.0, 0.0), Comparison(1, 2, 0.0, 1.0))
    outcome = validate([*GOOD, group(99, ("a", "b", "c"), edges)])
    (kept,) = [item for item in outcome.kept if len(item.completions) == 3]
    assert kept.comparisons == (edges[0], edges[2])
    assert [(row.comparison, row.check) for row in outcome.set_aside] == [(1, "not_with_itself")]


def test_a_group_that_nobody_judged_is_kept() -> None:
    best_of = group(99, ("a", "b", "c"), ())
    assert best_of in validate([*GOOD, best_of]).kept


def test_of_duplicates_the_first_usable_one_is_kept() -> None:
    unusable = replace(GOOD[4], comparisons=(Comparison(0, 0, 1.0, 0.0),))
    outcome = validate([unusable, *GOOD, GOOD[3]])
    assert outcome.kept == GOOD
    aside = {(row.line, row.check) for row in outcome.set_aside if row.comparison is None}
    assert aside == {(1, "no_duplicate"), (32, "no_duplicate")}


def test_many_blocks_in_processes_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [*[group(number) for number in range(400)], group(7), group(500, ("same", "same"))]
    alone = validate(groups)
    monkeypatch.setattr("touchstone.data.validation.run.PARQUET_BATCH", 20)
    together = validate(groups)
    assert together.kept == alone.kept
    assert together.set_aside == alone.set_aside
    assert together.report == alone.report


def test_personal_data_is_counted_redacted_or_set_aside() -> None:
    told = group(99, ("Write to jane.doe@example.org.", "No."))
    report = validate([*GOOD, told]).report
    assert report["personal_data"] == {"policy": "report", "found": {"email": 1}}
    redacted = validate([*GOOD, told], SETTINGS.model_copy(update={"personal_data": "redact"}))
    assert "jane" not in redacted.kept[-1].completions[0].text
    aside = validate([*GOOD, told], SETTINGS.model_copy(update={"personal_data": "quarantine"}))
    assert aside.kept == GOOD
    assert [row.check for row in aside.set_aside] == ["no_personal_data"]


def test_texts_that_were_read_wrongly_or_repeat_one_character() -> None:
    half, endless = group(98, ("Yes \ud800.", "No.")), group(99, ("a" * 5000, "No."))
    outcome = validate([*GOOD, half, endless])
    assert outcome.kept == GOOD
    assert [(row.line, row.check) for row in outcome.set_aside] == [
        (31, "texts_are_unicode"),
        (32, "texts_are_varied"),
    ]


def test_contradictions_in_separate_groups_are_counted_and_stop_above_the_share() -> None:
    swapped = [
        make_group(prompt=item.prompt, completions=item.completions[::-1], comparisons=[WIN], source="test")
        for item in GOOD[:3]
    ]
    report = validate([*GOOD, swapped[0]]).report
    assert report["totals"]["contradicted_pairs"] == 2
    with pytest.raises(
        ValidationError, match=r"few_contradictions: contradiction_share is 0\.18.*at most 0\.1 wanted"
    ):
        validate([*GOOD, *swapped])


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "is empty"),
        (GOOD[:3], "enough_groups: groups_kept is 3, at least 20 wanted"),
        ([group(n, ("", "")) for n in range(30)], "enough_groups: groups_kept is 0"),
        ([replace(item, prompt=()) for item in GOOD], "enough_groups"),
        ([replace(item, comparisons=()) for item in GOOD], "enough_pairs: decided_pairs is 0"),
        ([replace(item, comparisons=(Comparison(0, 1, 0, 0, 1),)) for item in GOOD], "enough_pairs"),
        ([*GOOD, *[group(n, ("same", "same")) for n in range(40, 60)]], "few_groups_set_aside"),
        ([*GOOD, replace(GOOD[0], id="other", cluster_id="")], "ids_present: 1 groups fail"),
    ],
)
def test_what_can_not_be_trained_on_stops(groups: list[Group], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        validate(groups)


def test_a_check_that_does_not_run_is_an_error_not_a_pass() -> None:
    table = pl.DataFrame({"present": [1, 2]})
    typo = Check("typo", "info", "presnt", 0, None, "")
    with pytest.raises(ValidationError, match="these did not: typo"):
        Suites().run("table", table, [Check("fine", "info", "present", 0, None, ""), typo])
    with pytest.raises(ValidationError, match="empty"):
        Suites().run("table", table.clear(), [])


def test_a_null_never_passes() -> None:
    table = pl.DataFrame({"facts": [None, None, 1]}, schema={"facts": pl.Int64})
    (result,) = Suites().run("table", table, [Check("bounded", "warning", "facts", 0, None, "")])
    assert result.failed == (0, 1)


def test_cycles_and_equal_texts() -> None:
    circle = (WIN, Comparison(1, 2, 1.0, 0.0), Comparison(0, 2, 0.0, 1.0))
    whole, open_ended = group(1, ("a", "b", "c"), circle), group(1, ("a", "b", "c"), circle[:2])
    assert has_cycle(judged_pairs(whole))
    assert not has_cycle(judged_pairs(open_ended))
    assert normal_form("caf\u0065\u0301  \n au lait") == normal_form("caf\u00e9 au lait")


def test_the_stage_writes_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    with pytest.raises(DataError, match="import the data first"):
        main()
    rows = [*GOOD, group(50, ("same", "same"))]
    Path("data").mkdir()
    Path("data/groups.jsonl").write_text("".join(map(to_line, rows)))
    Path("data/quarantine.jsonl").write_text('{"file": "a.jsonl", "line": 7, "reason": "not valid JSON"}\n')
    main()
    outputs = [Path("build") / name for name in ("groups.parquet", "quarantine.parquet", "validation.json")]
    first = [path.read_bytes() for path in outputs]
    assert (Path("build/data_docs/index.html")).is_file()
    pages = [page.read_text() for page in Path("build/data_docs").rglob("*.html")]
    assert not any("Question 1?" in page for page in pages)
    main()
    assert [path.read_bytes() for path in outputs] == first
    assert digest_folder(Path("build")).keys() >= {"groups.parquet", "quarantine.parquet", "validation.json"}
    assert len(read_parquet(outputs[0])) == 30
    quarantine = pl.read_parquet(outputs[1])
    assert quarantine.columns == ["source_file", "line", "group_id", "comparison", "check", "reason"]
    assert quarantine.row(0) == ("a.jsonl", 7, None, None, "import", "not valid JSON")
    assert set(quarantine["check"]) == {"import", "texts_differ", "has_good_comparison"}
    assert SetAside(*quarantine.row(1)).line == 31
