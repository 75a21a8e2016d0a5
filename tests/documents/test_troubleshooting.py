"""What the page on troubleshooting says that mistakes get is what they get."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
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
SAMPLE = ("plan", "inbox", "trace", "serve --host", "gate preview", "promote 99")
"""Of the others those that stand for the rest: each takes seconds."""


def test_the_page_tells_of_many_mistakes() -> None:
    assert len(ROWS) >= 30


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that nothing has run in, with files that somebody has spoilt."""
    root = tmp_path_factory.mktemp("mistakes")
    for name in ("configs", ".dvc", "touchstone", "flows", "tasks"):
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


def _check(row: tuple[str, str, str], project: Path, run: Callable[[list[str], Path], str]) -> None:
    command, after, expected = row
    if "broke" in after:
        (project / "params.yaml").write_text("train: [")
    try:
        shown = run(command.split(), project.parent if "outside" in after else project)
    finally:
        workspace.git(project, "checkout", "--quiet", "params.yaml", "data.dvc")
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    parts = [re.escape(" ".join(part.split())) for part in re.split(r"(?<![=\w])\.\.\.(?!\w)", expected)]
    assert re.search(".*".join(parts), said), said


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row[0].removeprefix("touchstone ").startswith(QUICK)], ids=lambda row: row[0]
)
def test_a_mistake_gets_its_sentence(
    row: tuple[str, str, str], project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(words: list[str], folder: Path) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", words)  # the command's own entry reads it; a process would cost its imports
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (1, 2)
        shown = capsys.readouterr()
        return shown.out + shown.err

    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    _check(row, project, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in ROWS if row[0].removeprefix("touchstone ").startswith(SAMPLE)], ids=lambda row: row[0]
)
def test_a_mistake_that_takes_longer_gets_its_sentence_too(row: tuple[str, str, str], project: Path) -> None:
    def run(words: list[str], folder: Path) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOUCHSTONE_", "PREFECT_"))}
        kept.pop("MLFLOW_TRACKING_URI", None)
        command = [sys.executable, "-m", "touchstone.cli", *words[1:]]
        env = {**kept, "PYTHONPATH": str(project)}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode in (1, 2)
        return done.stdout + done.stderr

    _check(row, project, run)
