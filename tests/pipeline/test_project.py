"""`touchstone init`: a project from the installed package, what the wheel holds for it, and what an upgrade does."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

import touchstone
from tests.places import ROOT
from tests.worlds.projects import commit, edit
from touchstone.cli.main import app
from touchstone.errors import PipelineError
from touchstone.pipeline import project, runs, workspace
from touchstone.runtime import installed
from touchstone.runtime.files import digest_text
from touchstone.runtime.stage import run_stage

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = {canonicalize_name(Requirement(line).name): Requirement(line) for line in PROJECT["dependencies"]}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "demo"
    answer = CliRunner().invoke(app, ["init", str(folder)])
    assert answer.exit_code == 0, answer.output
    assert answer.output.endswith(f"next: cd {folder} && touchstone retrain\n")
    return folder


@pytest.fixture
def demo(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "demo")


def test_a_project_is_a_repository_with_one_commit_and_nothing_left_over(pristine: Path) -> None:
    assert workspace.git(pristine, "rev-list", "--count", "HEAD") == "1"
    assert workspace.git(pristine, "status", "--porcelain", "--ignored") == ""
    names = set(workspace.git(pristine, "ls-files").splitlines())
    assert {"params.yaml", "data.dvc", ".dvc/config", ".gitignore", "flows/retrain.py", "README.md"} <= names
    assert not [name for name in names if name.startswith(("touchstone/", "tests/", "mlflow/mlflow.db"))]


def test_its_stages_are_the_checkouts_but_for_where_their_code_is_named(pristine: Path) -> None:
    ours, made = (yaml.safe_load((root / "dvc.yaml").read_text()) for root in (ROOT, pristine))
    assert list(made["stages"]) == list(ours["stages"])
    for name, stage in ours["stages"].items():
        code = [dep for dep in stage["deps"] if dep.startswith("touchstone/")]
        rest = [dep for dep in stage["deps"] if dep not in code]
        assert sorted(made["stages"][name]["deps"]) == sorted([*rest, installed.list_of(name)])
        assert {**made["stages"][name], "deps": None} == {**stage, "deps": None}
        lines = (pristine / installed.list_of(name)).read_text().splitlines()
        assert [line.split("  ")[1] for line in lines] == sorted(code)
    assert {key: value for key, value in made.items() if key != "stages"} == {
        key: value for key, value in ours.items() if key != "stages"
    }


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum isn't installed")
def test_the_lists_are_what_sha256sum_reads(pristine: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", str(pristine / "installed" / "train.sha256")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).returncode == 0


def test_a_repository_of_ones_own_keeps_what_it_has(tmp_path: Path) -> None:
    workspace.git(tmp_path, "init", "--quiet")
    (tmp_path / "LICENSE").write_text("mine")
    commit(tmp_path, "mine")
    (tmp_path / "notes.txt").write_text("not committed")
    project.make(tmp_path)
    assert workspace.git(tmp_path, "rev-list", "--count", "HEAD") == "2"
    assert workspace.git(tmp_path, "status", "--porcelain") == "?? notes.txt"


def test_a_folder_that_holds_files_of_a_project_is_left_alone(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(PipelineError, match=r"already holds README\.md; name another folder"):
        project.make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "demo"}
    with pytest.raises(PipelineError, match=r"more files of a project.*--update"):
        project.make(demo)


def test_the_author_is_who_git_knows_and_touchstone_where_it_knows_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    project.make(tmp_path / "nobody")
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n  name = Ada\n  email = ada@example.org\n")
    project.make(tmp_path / "ada")
    authors = [workspace.git(tmp_path / name, "log", "--format=%an <%ae>") for name in ("nobody", "ada")]
    assert authors == ["Touchstone <touchstone@localhost>", "Ada <ada@example.org>"]


def made_by_another_version(demo: Path) -> None:
    """As an earlier version would have made it, whose flow `score` and configurations were others."""
    lines = (demo / project.MADE).read_text()
    for name in ("flows/score.py", "flows/monitor.py", "configs/data/shp.yaml", "configs/data/kto.yaml"):
        (demo / name).write_text(f"# {name} as it was\n")
        lines = re.sub(rf"^\S+(?=  {name}$)", digest_text(f"# {name} as it was\n"), lines, flags=re.MULTILINE)
    for name in ("configs/data/given_up.yaml", "configs/data/cherished.yaml"):
        (demo / name).write_text("# was a choice once\n")
        lines += f"{digest_text('# was a choice once' + chr(10))}  {name}\n"
    (demo / project.MADE).write_text(lines)
    (demo / installed.VERSION).write_text("0.0.9\n")
    (demo / "installed" / "train.sha256").write_text(f"{'0' * 64}  touchstone/training/run.py\n")


def test_an_update_replaces_what_nobody_changed_and_names_what_both_did(demo: Path) -> None:
    made_by_another_version(demo)
    (demo / "flows" / "monitor.py").write_text("# mine\n")  # both changed it
    (demo / "configs" / "data" / "cherished.yaml").write_text("# mine\n")  # the new version has none
    (demo / "configs" / "data" / "kto.yaml").unlink()  # removed here
    (demo / "configs" / "gates" / "strict.yaml").write_text("# mine\n")  # changed here alone
    (demo / "configs" / "data" / "mine.yaml").write_text("# a choice of my own\n")
    edit(demo / "params.yaml", "groups: 12000", "groups: 600")
    commit(demo, "as it was")

    words = CliRunner().invoke(app, ["init", "--update", str(demo)]).output
    changed = workspace.git(demo, "status", "--porcelain").split("\n")
    assert sorted(line.strip() for line in changed) == [
        "D configs/data/given_up.yaml",
        "M configs/data/shp.yaml",
        "M flows/score.py",
        "M installed/project.txt",
        "M installed/train.sha256",
        "M installed/version",
    ]
    for name in ("configs/data/shp.yaml", "flows/score.py"):
        assert (demo / name).read_text() == (ROOT / name).read_text()
    assert f"from touchstone 0.0.9 to {touchstone.__version__}" in words
    assert "flows/monitor.py: changed by you and by the new version; yours is kept" in words
    assert "configs/data/given_up.yaml: removed" in words
    assert "strict.yaml" not in words
    installed.check(demo)


def test_an_update_without_news_changes_nothing_and_one_of_no_project_is_refused(demo: Path, tmp_path: Path) -> None:
    project.update(demo)
    assert workspace.git(demo, "status", "--porcelain") == ""
    with pytest.raises(PipelineError, match="is no project that `touchstone init` made"):
        project.update(tmp_path)


def test_a_run_with_other_code_than_the_project_names_is_refused(demo: Path) -> None:
    edit(demo / installed.VERSION, touchstone.__version__, "0.0.9")
    with (
        pytest.raises(PipelineError, match=r"made for touchstone 0\.0\.9, and the installed one is .*init --update"),
        runs.drafted(demo, []),
    ):
        raise AssertionError
    made_by_another_version(demo)
    with (
        pytest.raises(PipelineError, match=r"its touchstone/training/run\.py is another: install .*==0\.0\.9"),
        runs.drafted(demo, []),
    ):
        raise AssertionError


def test_a_stage_under_dvc_refuses_code_that_it_does_not_depend_on(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_by_another_version(demo)
    monkeypatch.chdir(demo)
    monkeypatch.setenv("DVC_STAGE", "validate")
    done: list[str] = []
    run_stage(lambda: done.append("validate"))  # its own code is what it was
    monkeypatch.setenv("DVC_STAGE", "train")
    with pytest.raises(SystemExit):
        run_stage(lambda: done.append("train"))
    assert done == ["validate"]
    assert "touchstone/training/run.py is another" in capsys.readouterr().err


@pytest.mark.slow
def test_dvc_names_the_stage_to_its_command(tmp_path: Path) -> None:
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("stages:\n  train:\n    cmd: printf $DVC_STAGE > said\n    outs: [said]\n")
    subprocess.run(["dvc", "repro", "--quiet"], cwd=tmp_path, check=True)
    assert (tmp_path / "said").read_text() == "train"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_files_of_a_project_and_nothing_made_here(wheel: zipfile.ZipFile) -> None:
    inside = {
        name.removeprefix("touchstone/template/"): wheel.read(name)
        for name in wheel.namelist()
        if name.startswith("touchstone/template/")
    }
    paths = list(project._paths(project._template()))
    assert inside == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}
    tracked = set(workspace.git(ROOT, "ls-files").splitlines()) | set(
        workspace.git(ROOT, "ls-files", "--others", "--exclude-standard").splitlines()
    )
    assert set(inside) <= tracked
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"touchstone", f"touchstone_rm-{touchstone.__version__}.dist-info"}
    assert {"touchstone/py.typed", "touchstone/__init__.pyi", "touchstone/pipeline/project.md"} <= set(
        wheel.namelist()
    )


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(f"touchstone_rm-{touchstone.__version__}.dist-info/METADATA").decode()
    stated = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)", metadata, re.MULTILINE)]
    assert {canonicalize_name(r.name): r.specifier for r in stated if not r.marker} == {
        name: requirement.specifier for name, requirement in DEPENDENCIES.items()
    }
    assert "Requires-Python: <3.14,>=3.11" in metadata
    assert PROJECT["version"] == touchstone.__version__


def test_every_package_that_is_imported_is_declared() -> None:
    folders = ("flows", "tasks", "touchstone")
    sources = [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {name for text in sources for name in re.findall(r"^ *(?:import|from) (\w+)", text, re.MULTILINE)}
    extras = {
        canonicalize_name(Requirement(line).name)
        for lines in PROJECT["optional-dependencies"].values()
        for line in lines
    }
    # pydantic names the one version of pydantic-core that it runs with.
    declared = {*DEPENDENCIES, *extras, "pydantic-core"}
    owners = packages_distributions()
    undeclared = [
        name
        for name in found - set(sys.stdlib_module_names) - set(folders)
        if name in owners and not declared & {canonicalize_name(owner) for owner in owners[name]}
    ]
    assert not undeclared


def test_what_the_tests_run_on_lies_within_the_bounds() -> None:
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    locked = {canonicalize_name(name): version for name, version in pins}
    assert not [name for name, r in DEPENDENCIES.items() if not r.specifier.contains(locked[name])]
    assert not [name for name, r in DEPENDENCIES.items() if not any(s.operator == "<" for s in r.specifier)]
    # What requirements.in asks for at run time is asked for by the wheel too.
    runtime = (ROOT / "requirements.in").read_text().split("# Installation.")[0]
    named = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)", runtime, re.MULTILINE)}
    assert named <= set(DEPENDENCIES)
