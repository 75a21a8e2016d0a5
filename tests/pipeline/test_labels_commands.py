"""`touchstone labels` and `judge` on real artifacts and a registry, by the command line alone."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.graded import DEFAULTS
from tests.worlds.judged import SEEDS
from tests.worlds.registered import NAME, artifact, open_registry, publish
from tests.worlds.sealed import make_tiny_groups
from touchstone.cli.main import app
from touchstone.errors import GateError
from touchstone.gate import judge
from touchstone.gate.record import load_decision
from touchstone.groups import to_line, write_parquet
from touchstone.settings import dump
from touchstone.settings.checks import SETS

AUTHOR = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A candidate in build/, and a pool of prompts that nobody has judged."""
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    # Random weights may prefer a probe to an answer, and 70 texts centre badly; what is tried here is what labels do.
    limits = {"max_probe_win_rate": 0.999, "max_variant_win_rate": 0.999, "max_centering_error": 1.0}
    settings = DEFAULTS.model_copy(update={"gates": DEFAULTS.gates.model_copy(update=limits)})
    (tmp_path / "params.yaml").write_text(dump(settings))
    for name in SETS:
        # Calibration and reference are what the artifacts were sealed on.
        size = {"calibration": 20, "reference": 30}.get(name, 24)
        write_parquet(tmp_path / "build" / "splits" / f"{name}.parquet", make_tiny_groups(size, seed=SEEDS[name]))
    for words in (["init"], ["add", "."], [*AUTHOR, "commit", "-m", "A project"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    shutil.copytree(artifact(1), tmp_path / "build" / "artifact")
    (tmp_path / "pool.jsonl").write_text("".join(to_line(group) for group in make_tiny_groups(40, seed=77)))
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    """What a command prints."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_a_first_model_has_nobody_to_disagree_with(project: Path) -> None:
    result = CliRunner().invoke(app, ["labels", "ask", "--pool", "pool.jsonl"])
    assert isinstance(result.exception, GateError)
    assert "has no champion to disagree with" in str(result.exception)


@pytest.mark.slow
def test_labels_are_asked_answered_and_count_in_the_next_judgement(project: Path) -> None:
    registry = open_registry(project)
    registry.set_alias(NAME, "champion", publish(registry, 2).version, expected=None)
    run("judge", code=3)
    assert "asked" not in {check.name for check in load_decision(project / "build" / "decision").checks}

    words = run("labels", "ask", "--pool", "pool.jsonl", "--labels", "4", "--random", "3")
    assert "against version 1" in words
    assert "40 prompts" in words
    assert "ask.csv" in words
    (folder,) = (project / "runs" / "labels").glob("*/ask.csv")
    with folder.open(newline="", encoding="utf-8") as file:
        questions = list(csv.DictReader(file))
    assert len(questions) >= 4
    answers = project / "answers.jsonl"
    answers.write_text("".join(json.dumps({"id": row["id"], "answer": "first"}) + "\n" for row in questions))
    assert f"{len(questions)} new answers" in run("labels", "take", "answers.jsonl")

    run("judge", code=3)
    decision = load_decision(project / "build" / "decision")
    assert "asked" in {check.name for check in decision.checks}
    assert judge.recompute(decision.path) == (list(decision.checks), decision.verdict)
