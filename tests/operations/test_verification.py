"""Past verdicts from their rows again: the same bit for bit, and one changed byte anywhere is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.judged import judge, register
from tests.worlds.registered import NAME, artifact, open_registry
from touchstone.cli import release
from touchstone.gate.judge import ledger_file
from touchstone.gate.record import load_decision
from touchstone.operations.verify import verify_all, verify_artifact, verify_decision, verify_releases
from touchstone.registry import Registry
from touchstone.release import Override, promote
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_value, pretty_json

WHY = Override("Ada L.", "nothing better is at hand")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, the second judged against the first; both were promoted against their verdicts."""
    root = tmp_path_factory.mktemp("template") / "project"
    registry = open_registry(root)
    first, decision = register(registry, 0)
    promote(registry, first, decision, WHY)
    second, decision = register(registry, 1, first)
    promote(registry, second, decision, WHY)
    return root


@pytest.fixture
def kept(template: Path, tmp_path: Path) -> Path:
    """A kept decision with its ledger, in a copy that may be changed."""
    shutil.copytree(template / "runs", tmp_path / "runs")
    return sorted((tmp_path / "runs" / "decisions").glob("*/decision.json"))[0].parent


def faults(folder: Path) -> str:
    return "\n".join(verify_decision(folder, folder.parent.parent / "ledger" / "holdout_use.jsonl").faults)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_every_version_decision_and_ledger_verifies(template: Path) -> None:
    found = verify_all(Registry.open(template))
    assert [one.faults for one in found] == [()] * len(found)
    assert [one.what for one in found if one.verdict is None] == [
        "holdout ledger",
        *(f"{NAME} version {number}, artifact" for number in (1, 2)),
        f"release ledger of {NAME}",
    ]
    assert len([one for one in found if one.verdict == "REJECT"]) == 4
    assert verify_all(Registry.open(template), "another") == [
        found[0],
        verify_releases(Registry.open(template), "another"),
    ]


def test_one_changed_byte_of_any_file_of_a_decision_is_named(kept: Path) -> None:
    assert faults(kept) == ""
    names = ["decision.json", *load_decision(kept).record.files]
    for name in names:
        path = kept / name
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 2) if whole else ():
            flip(path, place)
            assert name in faults(kept), f"byte {place} of {name}"
            path.write_bytes(whole)
        path.unlink()
        assert name in faults(kept)
        path.write_bytes(whole)
    assert faults(kept) == ""


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda record: record["checks"][4].update(value=0.99), "check floor: recomputed, value differs"),
        (lambda record: record["checks"][4].update(status="pass"), "check floor: recomputed, status differs"),
        (lambda record: record["checks"].pop(), "records other checks than its evidence gives"),
        (lambda record: record["checks"][0].update(name="luck"), "records other checks than its evidence gives"),
        (lambda record: record.update(verdict="PROMOTE"), "says PROMOTE, and its evidence gives REJECT"),
        (lambda record: record["thresholds"].update(min_clusters=1), "check evidence: recomputed, "),
    ],
)
def test_a_record_forged_with_its_digest_is_found(
    kept: Path, edit: Callable[[dict[str, object]], object], named: str
) -> None:
    record = json.loads((kept / "decision.json").read_text())
    assert record["checks"][4]["name"] == "floor"
    edit(record)
    content = {key: value for key, value in record.items() if key != "digest"}
    (kept / "decision.json").write_text(pretty_json({**content, "digest": digest_value(content)}))
    assert named in faults(kept)
    assert "holdout_use.jsonl has no verdict with the record" in faults(kept)


@pytest.mark.slow
def test_one_changed_byte_of_a_ledger_is_named_by_its_line(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "project")
    registry = Registry.open(tmp_path / "project")
    for book in (ledger_file(registry.root / "runs"), registry.ledger):
        lines = book.read_bytes().splitlines(keepends=True)
        for number in range(len(lines)):
            changed = bytearray(lines[number])
            changed[len(changed) // 2] ^= 1
            book.write_bytes(b"".join([*lines[:number], changed, *lines[number + 1 :]]))
            found = "\n".join(fault for one in verify_all(registry) for fault in one.faults)
            assert f"{book.name}, line {number + 1}" in found
        book.write_bytes(b"".join(lines[:-2]))  # a shorter chain is a valid one: the others know what is missing
        found = "\n".join(fault for one in verify_all(registry) for fault in one.faults)
        assert "its end was cut off" in found, "even where what is left is a valid chain"
        book.write_bytes(b"".join(lines))


def test_a_decision_that_nobody_has_any_more_is_named(kept: Path, template: Path, tmp_path: Path) -> None:
    shutil.copytree(template / "mlflow", tmp_path / "mlflow")
    shutil.rmtree(kept)
    found = verify_all(Registry.open(tmp_path), "another")
    assert found[0].faults == ()
    found = verify_all(Registry.open(tmp_path), NAME)
    assert kept.name in found[0].faults[0]
    assert "holdout_use.jsonl, line" in found[0].faults[0]


def test_an_artifact_with_one_changed_byte_is_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact(0), tmp_path / "artifact"))
    assert verify_artifact(folder).faults == ()
    flip(folder / "model.safetensors", -1)
    assert "model.safetensors" in verify_artifact(folder).faults[0]


def test_the_command_decides_by_what_it_is_given(
    template: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(template / "runs", tmp_path / "runs")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    folder = sorted((tmp_path / "runs" / "decisions").glob("*/decision.json"))[0].parent

    def verify(*words: str) -> tuple[int, str]:
        answer = CliRunner().invoke(release.app, ["verify", *words])
        return answer.exit_code, answer.output

    assert verify(str(artifact(0)))[0] == 0
    code, said = verify(str(folder))
    assert (code, "verifies (REJECT, digest" in said) == (0, True)
    flip(folder / "rows.parquet", 100)
    code, said = verify(str(folder), "--json")
    assert code == 1
    assert "rows.parquet" in json.loads(said)[0]["faults"][0]


@pytest.mark.slow
def test_releases_verify_bit_for_bit(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    champion = None
    for seed in range(8):
        champion, decision = register(registry, seed, champion)
        promote(registry, champion, decision, WHY)
    found = verify_all(registry)
    assert len([one for one in found if one.what.startswith("decision ")]) == 8
    assert len([one for one in found if one.what.endswith(", decision")]) == 8
    assert not any(one.faults for one in found)
    assert len(ledger.read(registry.ledger)) == 24
    judge(tmp_path, 3)  # one more decision about a known artifact changes nothing about the others
    assert not any(one.faults for one in verify_all(registry))
