"""Faulty data from end to end: files as they arrive, import, checks and sets, case by case of docs/data.md.

What one module answers for is tested beside it; the table there names every test.
"""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from tests.places import ROOT
from touchstone import settings as settings_module
from touchstone.data.importing import ImportSummary, import_source
from touchstone.data.sources.rows import MAX_LINE
from touchstone.data.splits import split_groups
from touchstone.data.validation.__main__ import main as validate_stage
from touchstone.data.validation.run import Outcome, validate
from touchstone.errors import QuarantineError, SourceError, StageError, ValidationError
from touchstone.groups import Comparison, Completion, Group, Message, make_group, read_jsonl, read_parquet, to_line
from touchstone.pipeline import data as data_module
from touchstone.pipeline import dvc, runs, workspace
from touchstone.pipeline.dvc import How
from touchstone.settings import Settings
from touchstone.settings.checks import SETS

GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}


def settings(path: str = "rows.jsonl", max_share: float | None = None, **data: Any) -> Settings:
    """The project's own, for a file of preferences; `max_share` is the import's, its own 0.5% unless given."""
    values = settings_module.load(ROOT / "params.yaml").model_dump(mode="json")
    values["data"] = {"source": "preference", "name": "mine", "path": path, **data}
    if max_share is not None:
        values["importing"]["max_quarantine_share"] = max_share
    return settings_module.parse(values)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}?", "chosen": f"Answer {n}.", "rejected": f"Word {n}."} for n in range(count)]


def lay(path: Path, values: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pl.DataFrame(values).write_parquet(path)
    else:
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def imported(root: Path, chosen: Settings) -> ImportSummary:
    return import_source(chosen, root, root / "data")


def checked(root: Path, chosen: Settings) -> Outcome:
    return validate(root / "data" / "groups.jsonl", root / "kept.parquet", chosen.validation)


def aside(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "data" / "quarantine.jsonl").read_text().splitlines()]


# D2: columns.


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
@pytest.mark.parametrize("change", [lambda row: {**row, "chosen": None}, lambda row: {**row, "better": row["chosen"]}])
def test_a_null_or_renamed_column_stops_the_import_by_its_name(
    name: str, change: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    whole = [change(row) for row in rows(300)]
    renamed = "better" in whole[0]
    lay(tmp_path / name, [{k: v for k, v in row.items() if not (renamed and k == "chosen")} for row in whole])
    with pytest.raises(QuarantineError, match=rf"'chosen'.*first {re.escape(name)}, line 1"):
        imported(tmp_path, settings(name))
    assert not (tmp_path / "data").exists()


def test_one_null_costs_one_row_and_a_column_that_nobody_declared_means_nothing(tmp_path: Path) -> None:
    lay(tmp_path / "rows.parquet", [{**row, "margin": -1.0, "note": "x"} for row in rows(300)] + [{"chosen": None}])
    assert imported(tmp_path, settings("rows.parquet")).quarantined == {"no field 'chosen'": 1}
    assert aside(tmp_path) == [{"file": "rows.parquet", "line": 301, "reason": "no field 'chosen'"}]
    assert all(
        edge.margin is None for group in read_jsonl(tmp_path / "data" / "groups.jsonl") for edge in group.comparisons
    )
    lay(tmp_path / "without.parquet", rows(300))
    imported(tmp_path, settings("without.parquet"))
    with pytest.raises(
        QuarantineError, match="'margin' is below 0: by it the rejected completion is the better one: 300"
    ):
        imported(tmp_path, settings("rows.parquet", margin_field="margin"))


# D3 and D5: pairs that say nothing.


def test_equal_answers_are_set_aside_counted_and_stop_above_the_share(tmp_path: Path) -> None:
    twins = [{**row, "rejected": f"  {row['chosen']}\u2060 ".replace("A", "\uff21")} for row in rows(1053)[1000:]]
    chosen = settings()
    lay(tmp_path / "rows.jsonl", rows(1000) + twins[:52])
    imported(tmp_path, chosen)
    outcome = checked(tmp_path, chosen)
    assert outcome.report["totals"]["groups_set_aside"] == outcome.report["set_aside"]["texts_differ"] == 52
    assert {row.line for row in outcome.set_aside} == set(range(1001, 1053))
    lay(tmp_path / "rows.jsonl", rows(1000) + twins)
    imported(tmp_path, chosen)
    with pytest.raises(ValidationError, match=r"few_groups_set_aside.*at most 0\.05 wanted"):
        checked(tmp_path, chosen)


def test_an_answer_without_content_is_set_aside_wherever_that_is_seen(tmp_path: Path) -> None:
    seen_on_import = ["", " \n\t"]
    seen_by_checks = [
        "\u200b\u200b",
        "<|im_end|>",
        " </s>\n<|endoftext|>",
        "[INST] [/INST]",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    ]
    words = ["<|im_end|> ends a turn.", "."]
    answers = [*seen_on_import, *seen_by_checks, *words]
    lay(
        tmp_path / "rows.jsonl",
        rows(2000) + [{**GOOD, "prompt": f"{n}", "rejected": a} for n, a in enumerate(answers)],
    )
    chosen = settings()
    assert imported(tmp_path, chosen).quarantined == {"'rejected' is empty": len(seen_on_import)}
    outcome = checked(tmp_path, chosen)
    assert {row.check for row in outcome.set_aside} == {"completions_have_content"}
    assert len(outcome.set_aside) == len(seen_by_checks)
    kept = [group.completions[1].text for group in read_parquet(tmp_path / "kept.parquet")[2000:]]
    assert kept == words


# D4: duplicates, contradictions and leaks.


def test_repeats_contradictions_and_near_duplicates_leak_into_no_other_set(tmp_path: Path) -> None:
    random = Random(4)
    words = [f"word{number}" for number in range(400)]
    prompts = [" ".join(random.choices(words, k=40)) for _ in range(500)]
    near = [f"{prompt.rsplit(' ', 1)[0]} otherwise" for prompt in prompts[:60]]
    fresh = [{"prompt": prompt, "chosen": "Yes.", "rejected": "No."} for prompt in prompts + near]
    repeated, swapped = fresh[0], {**fresh[1], "chosen": "No.", "rejected": "Yes."}
    lay(tmp_path / "rows.jsonl", [*fresh, repeated, swapped])
    chosen = settings()
    imported(tmp_path, chosen)
    outcome = checked(tmp_path, chosen)
    assert [(row.line, row.check) for row in outcome.set_aside] == [(561, "no_duplicate")]
    assert outcome.report["totals"]["contradicted_pairs"] == 2
    assert outcome.report["totals"]["groups_merged"] == 1
    (tmp_path / "sets").mkdir()
    summary = split_groups(tmp_path / "kept.parquet", chosen.split, tmp_path / "sets")
    places = {name: read_parquet(tmp_path / "sets" / f"{name}.parquet") for name in SETS}
    assert sum(map(len, places.values())) + summary["groups_set_aside"] == 560
    assert 0 < summary["groups_set_aside"] < 60

    def pieces(group: Group) -> set[tuple[str, ...]]:
        said = group.prompt[0].content.split()
        return set(zip(*(said[start:] for start in range(5)), strict=False))

    sets = {name: [pieces(group) for group in groups] for name, groups in places.items()}
    for one, other in combinations(SETS, 2):
        assert not any(len(a & b) >= 0.8 * len(a | b) for a in sets[one] for b in sets[other]), (one, other)


# D6: size.

PEAK = """
import resource, sys
from pathlib import Path
from touchstone import settings
from touchstone.settings.data import PreferenceData
from touchstone.data.sources import Quarantined, read_source
data = PreferenceData(source="preference", name="mine", path=sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = [row.reason if isinstance(row, Quarantined) else "read" for row in read_source(data, Path())]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, *found, sep="|")
"""


@pytest.mark.parametrize("mebibytes", [120, pytest.param(2048, marks=pytest.mark.slow)])
def test_an_endless_line_costs_one_row_and_little_memory(mebibytes: int, tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode() + b"\n"
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(good + b'{"prompt": "')
        for _ in range(mebibytes):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + good)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.jsonl.gz")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip().split("|")
    assert answer[1:] == ["read", "line longer than 16 MiB", "read"]
    assert int(answer[0]) < 80


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_ten_megabytes_are_read_and_more_than_a_line_may_hold_is_set_aside(name: str, tmp_path: Path) -> None:
    long, endless = ("word " * (size // 5) for size in (10 * 2**20, MAX_LINE + 1))
    lay(tmp_path / name, [GOOD, {**GOOD, "chosen": long}, {**GOOD, "chosen": endless}, GOOD])
    summary = imported(tmp_path, settings(name, max_share=0.5))
    assert summary.quarantined == {"line longer than 16 MiB": 1}
    assert [row["line"] for row in aside(tmp_path)] == [3]
    assert [len(group.completions[0].text) for group in read_jsonl(tmp_path / "data" / "groups.jsonl")] == [
        5,
        len(long),
        5,
    ]


# D7: encodings.


def test_the_same_meaning_in_other_code_points_has_the_same_digest(tmp_path: Path) -> None:
    clean = {"prompt": "Où va-t-on ?\nDis-le.", "chosen": "À la plage, déjà.", "rejected": "Nulle part."}
    spellings: list[Callable[[str], str]] = [
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: f"\ufeff{text}",
        lambda text: text.replace("a", "\u200ba\x00"),
        lambda text: f"\u202e{text}\u202c",
    ]
    found = []
    for change in [str, *spellings]:
        lay(tmp_path / "rows.jsonl", [{key: change(text) for key, text in clean.items()}])
        imported(tmp_path, settings())
        found.append((tmp_path / "data" / "groups.jsonl").read_bytes())
    assert len(set(found)) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le", "latin-1", "utf-8-sig"])
def test_a_file_in_another_encoding_is_never_read_at_a_guess(encoding: str, tmp_path: Path) -> None:
    text = "".join(json.dumps({**row, "chosen": "déjà"}, ensure_ascii=False) + "\n" for row in rows(50))
    (tmp_path / "rows.jsonl").write_bytes(text.encode(encoding))
    with pytest.raises(QuarantineError, match=r"byte order mark|not valid UTF-8|not valid JSON"):
        imported(tmp_path, settings())
    if encoding == "utf-8-sig":  # one mark before the first row costs that row, and no other
        imported(tmp_path, settings(max_share=0.1))
        assert [row["line"] for row in aside(tmp_path)] == [1]


# D8: mixed schema.


def test_rows_of_several_formats_are_read_each_by_its_own_and_a_row_of_two_is_set_aside(tmp_path: Path) -> None:
    asked, told = {"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}
    mixed = [
        GOOD,
        {"prompt": [asked], "chosen": [told], "rejected": [{**told, "content": "Seven."}]},
        {"prompt": [asked], "chosen": [told], "rejected": "Seven."},
        {"prompt": [asked], "chosen": {"role": "assistant", "content": "Blue."}, "rejected": [told]},
    ]
    lay(tmp_path / "rows.jsonl", mixed)
    imported(tmp_path, settings(max_share=0.9))
    one, other = read_jsonl(tmp_path / "data" / "groups.jsonl")
    assert one == other
    assert [row["line"] for row in aside(tmp_path)] == [3, 4]


# D11: what may not be printed.

KEY, ADDRESS = "AKIAIOSFODNN7EXAMPLE", "jane.doe@example.org"


@pytest.mark.parametrize("policy", ["quarantine", "redact"])
def test_a_key_in_a_text_is_in_no_output(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = {"prompt": f"My key is {KEY}.", "chosen": f"Write to {ADDRESS}.", "rejected": "No."}
    lay(tmp_path / "rows.jsonl", [*rows(300), told])
    chosen = settings()
    values = chosen.model_dump(mode="json")
    values["validation"]["personal_data"] = policy
    Path("params.yaml").write_text(settings_module.dump(settings_module.parse(values)))
    imported(tmp_path, chosen)
    validate_stage()
    report = json.loads(Path("build/validation.json").read_text())
    assert sum(report["personal_data"]["found"].values()) == 2
    # Compressed as it is, Parquet could hide it: the kept groups are read.
    kept = "".join(map(to_line, read_parquet(Path("build/groups.parquet"))))
    quarantine = pl.read_parquet("build/quarantine.parquet").write_json()
    files = "".join(path.read_text(errors="replace") for path in Path("build").rglob("*") if path.is_file())
    said = capfd.readouterr()
    for text in (KEY, ADDRESS):
        assert text not in kept + quarantine + files + said.out + said.err


# D16: what was checked is what is used.

PIPELINE = """
stages:
  validate:
    cmd: python carry.py data/groups.jsonl build/groups.parquet
    deps: [data, carry.py]
    outs: [build/groups.parquet]
  split:
    cmd: python carry.py build/groups.parquet build/splits
    deps: [build/groups.parquet, carry.py]
    outs: [build/splits]
"""
CARRY = """
import sys
from pathlib import Path
source, target = map(Path, sys.argv[1:])
target.parent.mkdir(exist_ok=True)
target.write_text(source.read_text() + target.name + "\\n")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed project of two stages, its data in the cache."""
    root = tmp_path / "project"
    lay(root / "data" / "groups.jsonl", [GOOD])
    (root / "configs").symlink_to(ROOT / "configs")
    (root / ".dvc").mkdir()
    for name in ("params.yaml", ".gitignore", ".dvcignore", ".dvc/config"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "carry.py").write_text(CARRY)
    workspace.git(root, "init", "--quiet")
    dvc.add(root, "data")
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "start")
    return root


@pytest.mark.slow
def test_data_that_change_after_their_validation_reach_no_stage_of_the_run(project: Path, tmp_path: Path) -> None:
    validated = (project / "data" / "groups.jsonl").read_text()
    with runs.drafted(project, []) as draft:
        data_module.bring(project, draft.workspace, draft.settings)
        assert dvc.repro(draft.workspace, "validate", log=tmp_path / "log") is How.RAN
        # As an editor does that writes in place, and as one that puts a new file there.
        for path in (project / "data" / "groups.jsonl", project / "build" / "groups.parquet"):
            path.parent.mkdir(exist_ok=True)
            path.write_text("poisoned\n")
        assert dvc.repro(draft.workspace, "split", log=tmp_path / "log") is How.RAN
        assert (draft.workspace / "build" / "splits").read_text() == f"{validated}groups.parquet\nsplits\n"
        assert dvc.status(draft.workspace) == {}
    # The next run validates what stands there now, instead of taking what was made of something else.
    with runs.drafted(project, []) as draft:
        data_module.bring(project, draft.workspace, draft.settings)
        assert dvc.repro(draft.workspace, "validate", log=tmp_path / "log") is How.RAN
        assert (draft.workspace / "build" / "groups.parquet").read_text().startswith("poisoned")


@pytest.mark.slow
@pytest.mark.parametrize(("path", "stage"), [("data/groups.jsonl", "validate"), ("build/groups.parquet", "split")])
def test_a_stage_that_reads_other_bytes_than_were_made_stops_the_run(
    path: str, stage: str, project: Path, tmp_path: Path
) -> None:
    with runs.drafted(project, []) as draft:
        data_module.bring(project, draft.workspace, draft.settings)
        if stage == "split":
            dvc.repro(draft.workspace, "validate", log=tmp_path / "log")
        (draft.workspace / path).unlink()
        (draft.workspace / path).write_text("poisoned\n")
        with pytest.raises(StageError, match=rf"changed after .* and before stage {stage} read it"):
            dvc.repro(draft.workspace, stage, log=tmp_path / "log")


# D18: what is no file of rows.


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path has at most 108 bytes
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def _link_outside(path: Path) -> None:
    path.symlink_to(lay(path.parents[1] / "secrets.jsonl", [GOOD]))


def _link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_to_folder(path: Path) -> None:
    lay(path.parents[1] / "outside" / "a.jsonl", [GOOD])
    path.with_suffix("").symlink_to(path.parents[1] / "outside")


@pytest.mark.timeout(30)  # to read from a pipe that nobody writes to is to wait for ever
@pytest.mark.parametrize("make", [_fifo, _socket, _link_outside, _link_to_device, _link_to_folder])
def test_a_folder_with_a_link_a_pipe_or_a_device_is_refused_by_its_name(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    lay(tmp_path / "set" / "a.jsonl", [GOOD])
    make(tmp_path / "set" / "b.jsonl")
    with pytest.raises(SourceError, match=r"data\.path: set holds b.* a link, a device, a pipe or a socket"):
        imported(tmp_path, settings("set"))
    with pytest.raises(SourceError, match=r"set holds b|set is empty"):
        import_source(_bar("set"), tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def _bar(path: str) -> Settings:
    return settings_module.parse(
        {**settings().model_dump(mode="json"), "data": {"source": "llm_bar", "name": "bar", "path": path}}
    )


@pytest.mark.timeout(30)
def test_a_pipe_or_a_device_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    _fifo(tmp_path / "rows.jsonl")
    for path in ("rows.jsonl", "/dev/zero"):
        with pytest.raises(SourceError, match="neither a file nor a folder"):
            imported(tmp_path, settings(path))
    (tmp_path / "link.jsonl").symlink_to(lay(tmp_path / "elsewhere" / "a.jsonl", [GOOD]))
    assert imported(tmp_path, settings("link.jsonl")).groups == 1, "a link that the user names is the user's choice"


def test_a_bomb_of_json_is_refused_before_it_is_whole_in_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.json.gz", "wb", compresslevel=1) as file:
        file.write(b"[")
        for _ in range(70):
            file.write(b" " * 2**20)
        file.write(b"]")
    assert (tmp_path / "a.json.gz").stat().st_size < 2**20
    with pytest.raises(SourceError, match="JSON array of more than 64 MiB"):
        imported(tmp_path, settings("a.json.gz"))


# D20: ties and circles.


def test_ties_and_circles_are_kept_and_counted(tmp_path: Path) -> None:
    def judged(number: int, *edges: Comparison) -> Group:
        texts = [Completion(f"{letter}{number}") for letter in "abcde"]
        prompt = [Message("user", f"Question {number}?")]
        return make_group(prompt=prompt, completions=texts, comparisons=edges, source="test")

    tied = judged(0, *(Comparison(i, j, 0.0, 0.0, 1.0) for i, j in combinations(range(5), 2)))
    circle = judged(1, Comparison(0, 1, 1.0, 0.0), Comparison(1, 2, 1.0, 0.0), Comparison(2, 0, 1.0, 0.0))
    plain = [judged(number, Comparison(0, 1, 1.0, 0.0)) for number in range(2, 400)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "groups.jsonl").write_text("".join(map(to_line, [tied, circle, *plain])))
    outcome = checked(tmp_path, settings())
    assert read_parquet(tmp_path / "kept.parquet")[:2] == [tied, circle]
    totals = outcome.report["totals"]
    assert (totals["groups_with_cycle"], totals["pairs"] - totals["decided_pairs"]) == (1, 10)
    assert totals["tie_share"] == pytest.approx(10 / (10 + 3 + 398), abs=1e-6)


# The table.


def test_every_case_names_tests_that_exist() -> None:
    table = (ROOT / "docs" / "data.md").read_text().split("## Faults")[1]
    cases = {match[1]: match[2] for match in re.finditer(r"^\| (D\d+) \|.*\|(.*)\|$", table, re.MULTILINE)}
    assert list(cases) == [f"D{number}" for number in range(1, 21)]
    for case, cell in cases.items():
        named = re.findall(r"`(\w+)\.(\w+)`", cell)
        assert named, case
        for module, test in named:
            (path,) = (ROOT / "tests").glob(f"*/test_{module}.py")
            tree = ast.parse(path.read_text())
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert f"test_{test}" in functions, f"{case} names test_{module}.py::test_{test}, which is not there"
