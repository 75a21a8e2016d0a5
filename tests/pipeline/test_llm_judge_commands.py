"""`touchstone seal --llm-judge` and `labels judge` by the command line, and what a project makes of the labels."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.chat import RuleJudge, judging
from tests.worlds.judged import SEEDS
from tests.worlds.scripted import Peer
from tests.worlds.sealed import make_tiny_groups
from touchstone.cli.main import app
from touchstone.data.importing import import_source
from touchstone.errors import GateError, SettingsError, SpendingError
from touchstone.groups import by_model, read_jsonl, to_line, write_parquet
from touchstone.settings import compose
from touchstone.settings.checks import SETS

AUTHOR = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
BY_LENGTH = RuleJudge(lambda _, text: float(len(text)))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with sets and a pool of prompts that nobody has judged."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_parquet(tmp_path / "build" / "splits" / "calibration.parquet", make_tiny_groups(12, seed=3))
    (tmp_path / "pool.jsonl").write_text("".join(to_line(group) for group in make_tiny_groups(10, seed=77)))
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server() -> Iterator[Peer]:
    with judging(BY_LENGTH.answer) as peer:
        yield peer


def run(*words: str, code: int = 0) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def configure(server: Peer, *more: str) -> None:
    run(
        "configure",
        "llm_judge=remote",
        f"llm_judge.engine.url={server.url}/v1",
        "llm_judge.engine.model=by-length",
        *more,
    )


def test_without_a_judge_in_the_settings_there_is_none_to_ask(project: Path) -> None:
    run("configure")
    for words in (["seal", "--llm-judge"], ["labels", "judge", "--pool", "pool.jsonl", "--out", "labelled.jsonl"]):
        result = CliRunner().invoke(app, words)
        assert isinstance(result.exception, SettingsError)
        assert "llm_judge is not set" in str(result.exception)
    assert CliRunner().invoke(app, ["seal"]).exit_code == 2
    assert CliRunner().invoke(app, ["seal", "x", "--llm-judge"]).exit_code == 2


def test_a_judge_is_sealed_by_one_command(project: Path, server: Peer) -> None:
    configure(server)
    told = json.loads(run("seal", "--llm-judge", "--json"))
    folder = Path(told["artifact"])
    assert folder == project / "build" / "artifact-judge-by-length"
    assert told["judge"].startswith("judge:")
    assert {bias["name"] for bias in told["biases"]} >= {"order_disagreement", "first_place", "longer_answer"}
    asked = len(server.requests)
    words = run("seal", "--llm-judge")
    assert "touchstone judge --artifact build/artifact-judge-by-length" in words
    assert len(server.requests) == asked


def test_a_pool_is_labelled_by_principles_and_imported_as_a_models_labels(project: Path, server: Peer) -> None:
    configure(server)
    principles = project / "mine.yaml"
    values = [{"name": "kind", "axis": "kindness", "text": "It is kind."}, {"name": "true", "text": "It is true."}]
    principles.write_text(yaml.safe_dump({"principles": values}))
    command = ["labels", "judge", "--pool", "pool.jsonl", "--out", "labelled.jsonl", "--principles", "mine.yaml"]

    counted = run(*command, "--axis", "kindness", "--count")
    assert "questions about" in counted
    assert server.requests == []
    assert not (project / "labelled.jsonl").exists()

    words = run(*command, "--axis", "kindness", "--axis", "helpfulness")
    assert "touchstone data import principles data.path=labelled.jsonl" in words
    assert any("It is kind." in body["messages"][-1]["content"] for _, _, body, _ in server.requests)
    rows = [json.loads(line) for line in (project / "labelled.jsonl").read_text().splitlines()]
    assert {row["axis"] for row in rows} == {"kindness", "helpfulness"}
    about = json.loads((project / "labelled.jsonl.judge.json").read_text())
    assert about["principles"][0]["text"] == "It is kind."
    assert about["judge"] == rows[0]["judge"]

    first = (project / "labelled.jsonl").read_bytes()
    asked = len(server.requests)
    run(*command, "--axis", "kindness", "--axis", "helpfulness")
    assert (project / "labelled.jsonl").read_bytes() == first
    assert len(server.requests) == asked

    import_source(compose(["data=principles", "data.path=labelled.jsonl"]), project, project / "data")
    groups = list(read_jsonl(project / "data" / "groups.jsonl"))
    assert {group.source for group in groups} == {"principles"}
    assert {edge.annotator for group in groups for edge in group.comparisons} == {about["judge"]}
    assert all(by_model(edge) for group in groups for edge in group.comparisons)
    assert "no person" in (project / "data" / "source.json").read_text()


def test_what_was_paid_for_is_kept_where_a_limit_stops_the_command(project: Path, server: Peer) -> None:
    command = ["labels", "judge", "--pool", "pool.jsonl", "--out", "labelled.jsonl"]
    configure(server, "llm_judge.spending.requests=5")
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, SpendingError)
    assert "5 requests" in str(result.exception)
    assert not (project / "labelled.jsonl").exists()
    configure(server)
    told = json.loads(run(*command, "--json"))
    assert told["questions"] == 2 * told["pairs"] - 5
    assert len(server.requests) == 2 * told["pairs"]


def test_a_sealed_judge_labels_by_its_own_principles(project: Path, server: Peer) -> None:
    configure(server)
    sealed = json.loads(run("seal", "--llm-judge", "--json"))
    command = ["labels", "judge", "--pool", "pool.jsonl", "--out", "labelled.jsonl", "--artifact", sealed["artifact"]]
    # What the settings say of instructions since then doesn't matter.
    (project / "configs" / "llm_judge" / "instructions.txt").write_text("$prompt $first $second $code")
    assert json.loads(run(*command, "--json"))["judge"] == sealed["judge"]
    refused = CliRunner().invoke(app, [*command, "--principles", "configs/principles/default.yaml"])
    assert isinstance(refused.exception, SettingsError)


@pytest.mark.slow
def test_a_sealed_judge_is_judged_and_verified_by_the_command_line(project: Path, server: Peer) -> None:
    for name in SETS:
        if name != "calibration":
            write_parquet(project / "build" / "splits" / f"{name}.parquet", make_tiny_groups(12, seed=SEEDS[name]))
    for words in (["init"], ["add", "dvc.yaml"], [*AUTHOR, "commit", "-m", "A project"]):
        subprocess.run(["git", *words], cwd=project, check=True, capture_output=True)
    configure(server, "gates=small_data")
    sealed = json.loads(run("seal", "--llm-judge", "--json"))
    record = json.loads(run("judge", "--artifact", sealed["artifact"], "--json", code=3))
    checks = {check["name"]: check for check in record["checks"]}
    assert record["model"]["base"] == "by-length"
    assert checks["centering"]["status"] == "not_run"
    assert checks["cross_fit"]["n"] > 20
    folder = project / "build" / "judged" / "judge-by-length" / "decision"
    assert (folder / "verdicts.parquet").exists()
    asked = len(server.requests)
    run("verify", str(folder))
    run("verify", sealed["artifact"])
    assert len(server.requests) == asked
    registered = CliRunner().invoke(app, ["judge", "--artifact", sealed["artifact"], "--register"])
    assert isinstance(registered.exception, GateError)
