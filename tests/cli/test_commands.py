"""The command line as its users meet it: help, completion, refusals before heavy imports, JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.places import ROOT
from touchstone.cli.main import app
from touchstone.pipeline.overrides import configure

RUNNER = CliRunner()


def _commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that lead to it."""
    inner = getattr(command, "commands", {})
    for name, below in inner.items():
        yield from _commands(below, (*words, name))
    if not inner:
        yield words, command


COMMANDS = dict(_commands(typer.main.get_command(app)))
STARTED_BY_HAND = {("serve",), ("ui",)}
"""They run until somebody stops them."""
OTHERWISE = {("bench", name) for name in ("train", "data", "serve")} | {("data", "page"), ("data", "look"), ("init",)}
"""Their result is a file, a folder or a page, or a program of its own with options of its own."""
MEANS_ANOTHER = {("labels", "pool"), ("refresh",)}
"""They end with what to do next; what they have written is JSON itself."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "dvc.yaml").touch()
    configure(tmp_path, [], reset=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_with_an_example_that_it_would_take(words: tuple[str, ...]) -> None:
    help_text = COMMANDS[words].help or ""
    examples = [line.strip() for line in help_text.splitlines() if line.strip().startswith("Example: ")]
    assert examples, f"touchstone {' '.join(words)} --help shows no example"
    assert any(f"touchstone {' '.join(words)}" in example for example in examples)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_a_program_reads_is_to_be_had_as_json(words: tuple[str, ...]) -> None:
    has_json = any("--json" in parameter.opts for parameter in COMMANDS[words].params)
    assert has_json == (words not in STARTED_BY_HAND | OTHERWISE | MEANS_ANOTHER)


def test_configure_tells_programs_what_has_changed(project: Path) -> None:
    done = RUNNER.invoke(app, ["configure", "train.seed=18", "--json"])
    assert json.loads(done.output) == {
        "name": "reward-sandbox",
        "data": "sandbox",
        "model": "scratch",
        "changes": [{"setting": "train.seed", "before": 17, "after": 18}],
    }


def test_a_version_that_is_not_there_is_refused_before_anything_heavy_is_imported(project: Path) -> None:
    """`trace 99` imported torch, scipy and MLflow to say no."""
    code = """
import sys
from typer.testing import CliRunner
from touchstone.cli.main import app
from touchstone.errors import RegistryError
for words in (["trace", "99"], ["verify", "99"], ["reproduce", "99"], ["publish", "99", "a/b"]):
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, RegistryError), (words, done.exception, done.output)
    print(done.exception)
print(sorted({"torch", "mlflow", "scipy", "pandas", "pyarrow", "sklearn", "transformers"} & set(sys.modules)))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    *sentences, heavy = answer.stdout.splitlines()
    assert heavy == "[]", answer.stderr
    assert len(sentences) == 4
    assert all(line.startswith("reward-sandbox has no version 99: there is no registry yet") for line in sentences)
    assert not (project / "mlflow").exists(), "a reader makes no registry"


def test_what_verify_cannot_read_is_refused_without_a_registry(project: Path) -> None:
    done = RUNNER.invoke(app, ["verify", "nothing"])
    assert "nothing is no sealed artifact" in str(done.exception)
    assert not (project / "mlflow").exists()


@pytest.mark.parametrize(
    ("shell", "typed", "offered"),
    [
        ("zsh", "touchstone configure data=pref", {"data=preference"}),
        ("zsh", "touchstone retrain train.learning_r", {"train.learning_rate="}),
        ("zsh", "touchstone plan gat", {"gates=", "gates.policy=", "gates.min_clusters="}),
        ("bash", "touchstone configure data = pref", {"preference"}),
        ("bash", "touchstone configure train=", set()),
        ("zsh", "touchstone ver", {"verify"}),
    ],
)
def test_the_shell_completes_groups_choices_and_settings(
    project: Path, shell: str, typed: str, offered: set[str]
) -> None:
    words = typed.split(" ")
    place = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)} if shell == "bash" else {}
    env = {"_TOUCHSTONE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": typed, **place}
    done = RUNNER.invoke(app, [], prog_name="touchstone", env=env)
    assert all(word in done.output for word in offered), done.output
    assert "data=sandbox" not in done.output
