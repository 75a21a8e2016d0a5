"""Importing again: what is known, new, corrected and gone, and that every way into data/ reads the same."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.cli import main
from touchstone.data.difference import compare
from touchstone.data.importing import ImportSummary, import_source
from touchstone.groups import Group, read_jsonl, write_parquet
from touchstone.pipeline import data as pipeline_data
from touchstone.pipeline import dvc, runs, workspace
from touchstone.runtime.files import digest_folder
from touchstone.settings import Settings

Pair = dict[str, Any]


def pair(number: int, better: str = "dry", worse: str = "wet") -> Pair:
    return {"prompt": f"How to store item {number}?", "chosen": f"Keep {better}.", "rejected": f"Keep {worse}."}


def turned(row: Pair) -> Pair:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def lay(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def chosen_settings(data: dict[str, Any], **importing: Any) -> Settings:
    values = settings_module.load(ROOT / "params.yaml").model_dump(mode="json")
    values["data"] = {"name": "mine", **data}
    values["importing"] |= {"max_quarantine_share": 1.0, **importing}
    return settings_module.parse(values)


def pairs_in(root: Path, rows: Sequence[Any], name: str = "pairs.jsonl", **importing: Any) -> ImportSummary:
    """Import rows as a file of chosen and rejected texts into root/data."""
    lay(root / name, rows)
    data = {"source": "preference", "path": name, "limit": importing.pop("limit", None)}
    return import_source(chosen_settings(data, **importing), root, root / "data")


def held(root: Path) -> list[tuple[str, str]]:
    """(prompt, preferred text) of every group."""
    return [
        (group.prompt[0].content, group.completions[0].text) for group in read_jsonl(root / "data" / "groups.jsonl")
    ]


def counts(summary: ImportSummary) -> tuple[int, int, int, int, int]:
    again = summary.again
    assert again is not None
    assert again.read == again.known + again.new + again.corrected
    return again.read, again.known, again.new, again.corrected, again.gone


def recorded(root: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((root / "data" / "source.json").read_text())
    return record


def test_an_import_again_says_what_is_known_new_and_no_longer_in_the_file(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(60)]
    first = pairs_in(tmp_path, rows)
    assert first.again is None
    assert "imported_again" not in recorded(tmp_path)
    summary = pairs_in(tmp_path, [*rows[1:], pair(99)])
    assert counts(summary) == (60, 59, 1, 0, 1)
    assert "60 read, 59 known, 1 new, 1 no longer in the file" in summary.render()
    assert held(tmp_path)[0][0] == "How to store item 0?", "what the file no longer has stays"
    assert summary.groups == len(held(tmp_path)) == 61
    assert recorded(tmp_path)["imported_again"] == [
        {"path": "pairs.jsonl", "read": 60, "known": 59, "new": 1, "corrected": 0, "gone": 1, "replaced": False}
    ]


def test_a_corrected_label_takes_the_place_of_what_it_corrects(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(40)]
    pairs_in(tmp_path, [*(turned(row) for row in rows[:3]), *rows[3:]])
    summary = pairs_in(tmp_path, rows, "pairs_fixed.jsonl")
    assert counts(summary) == (40, 37, 0, 3, 0)
    assert "3 corrected" in summary.render()
    assert sorted(held(tmp_path)) == sorted((row["prompt"], row["chosen"]) for row in rows)
    assert (summary.groups, summary.comparisons, summary.pairs) == (40, 40, 40)
    assert recorded(tmp_path)["counts"]["groups"] == 40


def test_importing_the_same_again_changes_no_byte(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(9)]
    pairs_in(tmp_path, rows[:5])
    pairs_in(tmp_path, [turned(rows[0]), *rows[2:]])
    before = digest_folder(tmp_path / "data")
    assert counts(pairs_in(tmp_path, [turned(rows[0]), *rows[2:]])) == (8, 8, 0, 0, 1)
    assert digest_folder(tmp_path / "data") == before


def test_replace_makes_the_file_the_whole_truth(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(20)]
    pairs_in(tmp_path, rows)
    changed = [pair(30), turned(rows[5]), *rows[8:], "not json\n"]
    summary = pairs_in(tmp_path, changed, replace=True)
    assert counts(summary) == (14, 12, 1, 1, 7)
    assert str(summary.again).endswith("7 no longer in the file (removed)")
    pairs_in(tmp_path / "fresh", changed)
    for name in ("groups.jsonl", "quarantine.jsonl"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "fresh" / "data" / name).read_bytes()
    assert recorded(tmp_path)["counts"] == recorded(tmp_path / "fresh")["counts"]
    assert summary.groups == 14


def test_twins_and_both_labels_of_a_pair_in_one_file_all_stay(tmp_path: Path) -> None:
    row = pair(1)
    pairs_in(tmp_path, [row, row])
    assert counts(pairs_in(tmp_path, [row, turned(row), row])) == (3, 2, 1, 0, 0)
    assert len(held(tmp_path)) == 3
    assert counts(pairs_in(tmp_path, [row, turned(row)])) == (2, 2, 0, 0, 1)
    assert counts(pairs_in(tmp_path, [turned(row), turned(row)])) == (2, 1, 0, 1, 0), "both of the other label go"
    assert held(tmp_path) == [(row["prompt"], row["rejected"])] * 2


def test_a_row_that_was_mended_is_no_longer_set_aside(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(3)]
    summary = pairs_in(tmp_path, [*rows, {**pair(4), "chosen": ""}])
    assert summary.quarantined == {"'chosen' is empty": 1}
    summary = pairs_in(tmp_path, [*rows, pair(4)])
    assert (summary.quarantined, counts(summary)) == ({}, (4, 3, 1, 0, 0))
    assert (tmp_path / "data" / "quarantine.jsonl").read_text() == ""
    pairs_in(tmp_path, ["not json\n", *rows])
    summary = pairs_in(tmp_path, [pair(7), "not json\n"], "others.jsonl")
    assert sum(summary.quarantined.values()) == 2, "another file's rows stay set aside"


def test_less_of_the_same_file_takes_the_place_of_more(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(20)]
    pairs_in(tmp_path, rows)
    summary = pairs_in(tmp_path, rows, limit=5)
    assert (summary.again, summary.groups, len(held(tmp_path))) == (None, 5, 5)
    assert "20 groups of mine" in summary.render()
    assert counts(pairs_in(tmp_path, rows, limit=12)) == (12, 5, 7, 0, 0)


def test_the_sandbox_is_made_anew(tmp_path: Path) -> None:
    values = settings_module.load(ROOT / "params.yaml").model_dump(mode="json")
    for number in (30, 60, 40):
        values["data"]["groups"] = number
        assert import_source(settings_module.parse(values), tmp_path, tmp_path / "data").groups == number
    assert "imported_again" not in recorded(tmp_path)


def record(number: int, **answers: str) -> dict[str, Any]:
    """A record of Argilla with a label of each annotator."""
    fields = {"prompt": f"Question {number}?", "response-1": "Yes.", "response-2": "No."}
    return {
        "fields": fields,
        "responses": {"best": [{"user_id": user, "value": label} for user, label in answers.items()]},
    }


def records_in(root: Path, *records: dict[str, Any]) -> ImportSummary:
    (root / "records.json").write_text(json.dumps(records))
    data = {
        "source": "argilla",
        "path": "records.json",
        "prompt_field": "prompt",
        "completion_fields": ["response-1", "response-2"],
        "question": None,
    }
    return import_source(chosen_settings(data, suspicion="off"), root, root / "data")


def votes(root: Path) -> Counter[tuple[float, float]]:
    groups = read_jsonl(root / "data" / "groups.jsonl")
    return Counter((edge.wins_i, edge.wins_j) for group in groups for edge in group.comparisons)


FIRST, SECOND = (1.0, 0.0), (0.0, 1.0)


def test_an_annotator_corrects_nobody_else(tmp_path: Path) -> None:
    records_in(tmp_path, record(1, ann="response-1"))
    summary = records_in(tmp_path, record(1, bob="response-2"))
    assert counts(summary) == (1, 0, 1, 0, 1)
    assert votes(tmp_path) == {FIRST: 1, SECOND: 1}
    summary = records_in(tmp_path, record(1, bob="response-1"))
    assert counts(summary) == (1, 0, 0, 1, 1)
    assert votes(tmp_path) == {FIRST: 2}


def test_one_more_annotator_of_a_record_takes_the_record_s_place(tmp_path: Path) -> None:
    records_in(tmp_path, record(1, ann="response-1"), record(2))
    summary = records_in(tmp_path, record(1, ann="response-1", bob="response-2"), record(2, ann="response-2"))
    assert counts(summary) == (2, 0, 0, 2, 0)
    assert (summary.groups, summary.comparisons, votes(tmp_path)) == (2, 3, {FIRST: 1, SECOND: 2})


def test_what_one_annotator_judged_anew_leaves_the_other_s_judgement(tmp_path: Path) -> None:
    records_in(tmp_path, record(1, ann="response-1", bob="response-1"))
    summary = records_in(tmp_path, record(1, ann="response-2"))
    assert counts(summary) == (1, 0, 0, 1, 1)
    assert (summary.groups, summary.comparisons, votes(tmp_path)) == (2, 2, {FIRST: 1, SECOND: 1})
    rest, corrected = read_jsonl(tmp_path / "data" / "groups.jsonl")
    assert (rest.comparisons[0].wins_i, corrected.comparisons[0].wins_j) == (1, 1), "what stays keeps its place"
    before = digest_folder(tmp_path / "data")
    assert counts(records_in(tmp_path, record(1, ann="response-2"))) == (1, 1, 0, 0, 1)
    assert digest_folder(tmp_path / "data") == before


NUMBERED = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=8)


@given(first=NUMBERED, second=NUMBERED, replace=st.booleans())
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_import_the_file_s_labels_hold(
    first: list[tuple[int, bool]], second: list[tuple[int, bool]], replace: bool, tmp_path: Path
) -> None:
    """Against the definition: what the file says of a pair is what data/ says of it, and other pairs are as before."""
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    files = [[turned(pair(number)) if wet else pair(number) for number, wet in rows] for rows in (first, second)]
    pairs_in(tmp_path, files[0])
    summary = pairs_in(tmp_path, files[1], "again.jsonl", replace=replace)
    before, now = (Counter((row["prompt"], row["chosen"]) for row in rows) for rows in files)
    # A label that is there already stays as often as it was; one that only the file turned takes its place.
    expected = Counter(now)
    for label, count in (before - now).items():
        is_corrected = any(new[0] == label[0] for new in now - before)
        expected[label] += 0 if replace or is_corrected else count
    assert Counter(held(tmp_path)) == expected
    assert counts(summary)[:2] == (len(second), (before & now).total())
    assert summary.groups == summary.comparisons == expected.total()


def test_a_corrected_label_is_a_turned_label_in_the_difference(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(10)]

    def version(name: str) -> Path:
        write_parquet(tmp_path / name / "groups.parquet", read_jsonl(tmp_path / "data" / "groups.jsonl"))
        return tmp_path / name

    pairs_in(tmp_path, [*(turned(row) for row in rows[:3]), *rows[3:]])
    before = version("before")
    pairs_in(tmp_path, [*rows[:9], pair(99)])
    difference = compare(before, version("after"))
    assert (difference.added, difference.removed, difference.changed) == (1, 0, 3)
    assert (difference.flipped, difference.pairs) == (3, 10)
    groups = {group.prompt[0].content: group.id for group in read_jsonl(tmp_path / "data" / "groups.jsonl")}
    assert set(difference.flipped_groups) == {groups[row["prompt"]] for row in rows[:3]}
    assert "3  of 10 pairs decided in both: the label was turned" in difference.render()


def test_an_import_again_holds_digests_and_no_texts(tmp_path: Path) -> None:
    rows = [{**pair(number), "chosen": f"{number} " + "dry " * 500} for number in range(2_000)]
    pairs_in(tmp_path, rows)
    lay(tmp_path / "pairs.jsonl", [turned(row) for row in rows])
    settings = chosen_settings({"source": "preference", "path": "pairs.jsonl"})
    tracemalloc.start()
    assert counts(import_source(settings, tmp_path, tmp_path / "data")) == (2_000, 0, 0, 2_000, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (tmp_path / "pairs.jsonl").stat().st_size / 2


# The ways into data/.


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed project with an import of pairs.jsonl in data/."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in ("params.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    (root / "dvc.yaml").write_text("stages:\n  first: {cmd: 'true', deps: [data]}\n")
    lay(tmp_path / "pairs.jsonl", [pair(number) for number in range(10)])
    workspace.git(root, "init", "--quiet")
    pipeline_data.import_data(chosen_settings({"source": "preference", "path": "../pairs.jsonl"}), root)
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "start")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_a_run_s_overrides_read_what_an_import_reads(
    clean: bool, replace: bool, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path / "more.jsonl", [turned(pair(0)), *(pair(number) for number in range(4, 12))])
    words = ["data=preference", "data.name=mine", "data.path=../more.jsonl"]
    words += ["importing.replace=true"] if replace else []
    with runs.drafted(project, words, clean=clean) as draft:
        of_the_run = dvc.pointer_hash(draft.workspace / "data.dvc")
        groups: list[Group] = list(read_jsonl(draft.workspace / "data" / "groups.jsonl"))
    assert len(groups) == (9 if replace else 12)
    monkeypatch.chdir(project)
    arguments = ["data", "import", "preference", "data.name=mine", "data.path=../more.jsonl"]
    answer = CliRunner().invoke(main.app, [*arguments, *(["--replace"] if replace else [])], catch_exceptions=False)
    assert "9 read, 6 known, 2 new, 1 corrected, 3 no longer in the file" in answer.output
    assert "importing.replace" not in answer.output
    assert dvc.pointer_hash(project / "data.dvc") == of_the_run


def test_a_run_that_names_its_data_reads_the_file_as_it_is_now(project: Path, tmp_path: Path) -> None:
    """Also where params.yaml says the same: who names a file means what it holds."""
    settings = chosen_settings({"source": "preference", "path": "../pairs.jsonl"})
    (project / "params.yaml").write_text(settings_module.dump(settings))
    lay(tmp_path / "pairs.jsonl", [turned(pair(0)), *(pair(number) for number in range(1, 10))])
    with runs.drafted(project, []) as draft:
        assert dvc.pointer_hash(draft.workspace / "data.dvc") == dvc.pointer_hash(project / "data.dvc")
    with runs.drafted(project, ["data.path=../pairs.jsonl"]) as draft:
        assert list(read_jsonl(draft.workspace / "data" / "groups.jsonl"))[-1].completions[0].text == "Keep wet."
