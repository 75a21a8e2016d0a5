"""What the page on troubleshooting says that mistakes get is what they get."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from touchstone.cli.main import main
from touchstone.pipeline import workspace

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = [
    (command, after.strip(", "), said)
    for command, after, said in re.findall(r"^\| `(touchstone [^`]*)`([^|]*) \| (.*) \|$", PAGE, re.MULTILINE)
]
QUICK = ("configure", "data import", "data look", "promote 1", "retrane")
"""Commands that answer without loading the registry, the model or Prefect."""


def test_the_page_tells_of_many_mistakes() -> None:
    assert len(ROWS) >= 30


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that nothing has run in, with files that somebody has spoilt."""
    root = tmp_path_factory.mktemp("mistakes")
    for name in ("configs", ".dvc", "touchstone"):
        ignored = shutil.ignore_patterns("cache", "tmp", "__pycache__", "config.local")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name in ("params.yaml", "dvc.yaml", "data.dvc", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    workspace.git(root, "init", "--quiet")
    workspace.git(root, "add", "--all")
    workspace.git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "start")
    pairs = [{"prompt": f"Q{n}?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(40)]
    lines = [json.dumps(pair) if n % 4 else "{broken" for n, pair in enumerate(pairs)]
    (root / "broken.jsonl").write_text("".join(f"{line}\n" for line in lines))
    labelled = [json.dumps({**pair, "winner": "AB"[n % 2]}) for n, pair in enumerate(pairs)]
    (root / "swapped.jsonl").write_text("".join(f"{line}\n" for line in labelled))
    (root / "onesided.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n{"prompt": "a", "chosen": "c"}\n')
    (root / "labels.csv").write_text("question,answer_a,answer_b,winner\nWhy?,So.,No.,A\n")
    (root / "empty.jsonl").touch()
    return root


def _said(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (1, 2)
    shown = capsys.readouterr()
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", shown.out + shown.err).split())


def _check(
    row: tuple[str, str, str],
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command, after, expected = row
    monkeypatch.chdir(project)
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    monkeypatch.delenv("TOUCHSTONE_API_KEYS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if "outside" in after:
        monkeypatch.chdir(project.parent)
    if "broke" in after:
        (project / "params.yaml").write_text("train: [")
    try:
        said = _said(command, capsys, monkeypatch)
    finally:
        workspace.git(project, "checkout", "--quiet", "params.yaml", "data.dvc")
    parts = [re.escape(" ".join(part.split())) for part in re.split(r"(?<![=\w])\.\.\.(?![\w])", expected)]
    assert re.search(".*".join(parts), said), said


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row[0].removeprefix("touchstone ").startswith(QUICK)], ids=lambda row: row[0]
)
def test_a_mistake_gets_its_sentence(
    row: tuple[str, str, str], project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _check(row, project, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in ROWS if not row[0].removeprefix("touchstone ").startswith(QUICK)], ids=lambda row: row[0]
)
def test_a_mistake_that_takes_longer_gets_its_sentence_too(
    row: tuple[str, str, str], project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _check(row, project, capsys, monkeypatch)
