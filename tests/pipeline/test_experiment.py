"""`dvc exp run -S` with a value that no stage can use: params.yaml is as it was."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.places import ROOT
from tests.worlds.projects import commit
from touchstone.pipeline import dvc, workspace
from touchstone.pipeline.experiment import named, undo
from touchstone.settings import parse

STAGE = """
stages:
  only:
    cmd: python read.py
    deps: [read.py]
    params: [train.learning_rate, train.seed]
    outs: [settings.txt]
"""
READ = """
from pathlib import Path
from touchstone.runtime.stage import run_stage
from touchstone.settings import load

def main():
    Path("settings.txt").write_text(str(load().train.learning_rate))

run_stage(main)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    workspace.git(tmp_path, "init", "--quiet")
    commit(tmp_path, "start")
    return tmp_path


def _edit(project: Path, section: str, **values: object) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[section] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["dvc", "exp", "run", "-S", "train.seed=1"], ["train.seed"]),
        (["python", "-m", "dvc", "experiments", "run", "--set-param", "a.b=1", "-S", "c=2"], ["a.b", "c"]),
        (["dvc", "exp", "run", "-Strain.seed=1", "--set-param=a.b=x=y"], ["a.b", "train.seed"]),
        (["dvc", "exp", "run", "-S", "params.yaml:a.b=1", "-S", "other.yaml:c=1", "-S", "+d.e=1"], ["a.b", "d.e"]),
        (["dvc", "repro", "train"], []),
        (["dvc", "exp", "run"], []),
    ],
)
def test_what_the_command_line_has_set(words: list[str], names: list[str]) -> None:
    assert sorted(named([["bash", "-c", "stage"], words, ["bash"]])) == names


def test_the_committed_file_is_there_again_to_the_letter(project: Path) -> None:
    _edit(project, "train", learning_rate="fast", seed=18)
    assert undo(project, "HEAD", ["train.learning_rate", "train.seed"])
    assert workspace.git(project, "status", "--porcelain") == ""


def test_a_person_s_own_edit_beside_it_stays(project: Path) -> None:
    _edit(project, "split", salt="mine")
    _edit(project, "train", learning_rate="fast")
    assert undo(project, "HEAD", ["train.learning_rate"])
    params = yaml.safe_load((project / "params.yaml").read_text())
    assert (params["split"]["salt"], params["train"]["learning_rate"]) == ("mine", 0.0003)


def test_nothing_is_touched_where_a_person_s_own_edit_is_wrong_or_nothing_was_set(project: Path) -> None:
    _edit(project, "train", learning_rate="fast", seed="none")
    before = (project / "params.yaml").read_bytes()
    assert not undo(project, "HEAD", ["train.learning_rate"])
    assert not undo(project, "HEAD", [])
    assert not undo(project, "no-such-commit", ["train.learning_rate"])
    assert (project / "params.yaml").read_bytes() == before


def test_a_setting_that_was_not_there_goes_again(project: Path) -> None:
    _edit(project, "train", learning_rat=1)
    assert undo(project, "HEAD", ["train.learning_rat"])
    assert workspace.git(project, "status", "--porcelain") == ""


def test_the_experiment_in_the_readme_changes_something_and_what_it_shows_is_the_committed_baseline() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ((name, value),) = re.findall(r"dvc exp run -n \S+ -S ([\w.]+)=(\S+)", readme)
    section, setting = name.split(".")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert str(params[section][setting]) != value
    assert parse({**params, section: {**params[section], setting: value}})
    shown = dict(re.findall(r"^build/metrics\.json  (\w+) +(\S+)", readme, re.MULTILINE))
    figures = json.loads((ROOT / "build" / "metrics.json").read_text(encoding="utf-8"))
    assert {name: float(figure) for name, figure in shown.items()} == {name: figures[name] for name in shown}
    assert len(shown) >= 5


@pytest.mark.slow
def test_dvc_exp_run_with_a_wrong_value_leaves_params_as_it_was(project: Path) -> None:
    (project / "dvc.yaml").write_text(STAGE)
    (project / "read.py").write_text(READ)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=project, check=True)
    commit(project, "a stage")

    def run(value: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dvc", "exp", "run", "-S", f"train.learning_rate={value}"]
        env = dvc.environment({"PYTHONPATH": str(ROOT)})
        return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)

    wrong = run("fast")
    assert wrong.returncode != 0
    assert "train.learning_rate: Input should be a valid number" in wrong.stderr
    assert "params.yaml has the committed train.learning_rate again" in wrong.stderr
    assert workspace.git(project, "status", "--porcelain", "--", "params.yaml") == ""
    right = run("0.001")
    assert right.returncode == 0, right.stderr
    assert (project / "settings.txt").read_text() == "0.001"
