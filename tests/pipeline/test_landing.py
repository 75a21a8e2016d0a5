"""A promoted run's results land on a branch, once, and nowhere else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.projects import make_project, run_all
from touchstone.pipeline import landing, runs, workspace
from touchstone.registry import Version

pytestmark = pytest.mark.slow

NAME = "reward-sandbox"
BRANCH = "touchstone/reward-sandbox"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A project with runs, and their ids."""
    root = make_project(tmp_path_factory.mktemp("template") / "project")
    run, _ = run_all(root)
    ids = [run.id, *(f"{run.id}-{number}" for number in range(2, 7))]
    for name in ids[1:]:  # a run is its ref
        workspace.git(root, "update-ref", f"{workspace.REFS}/{name}", f"{workspace.REFS}/{run.id}")
    return root, ids


@pytest.fixture
def project(template: tuple[Path, list[str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(template[0], tmp_path / "project", symlinks=True))


def version(number: int) -> Version:
    return Version(NAME, number, "0" * 64, "f" * 64, "source", "run")


def test_results_land_once_and_leave_the_checkout_alone(project: Path, template: tuple[Path, list[str]]) -> None:
    before = workspace.git(project, "status", "--porcelain"), workspace.git(project, "rev-parse", "HEAD")
    made = landing.land(project, version(1), template[1][0])
    assert made is not None
    assert landing.land(project, version(1), template[1][0]) == made
    assert (workspace.git(project, "status", "--porcelain"), workspace.git(project, "rev-parse", "HEAD")) == before
    assert workspace.git(project, "rev-parse", BRANCH) == made

    lock = project / "runs" / template[1][0] / "dvc.lock"
    assert workspace.git(project, "show", f"{BRANCH}:dvc.lock") == lock.read_text().strip()
    assert not (project / "dvc.lock").exists()
    workspace.git(project, "merge", "--quiet", BRANCH)
    assert (project / "dvc.lock").read_bytes() == lock.read_bytes()


def test_the_next_promotion_lands_on_the_one_before(project: Path, template: tuple[Path, list[str]]) -> None:
    first = landing.land(project, version(1), template[1][0])
    second = landing.land(project, version(2), template[1][1])
    assert workspace.git(project, "rev-parse", f"{BRANCH}^1") == first
    assert workspace.git(project, "rev-parse", BRANCH) == second
    assert landing.landed_at(project, version(1)) == first
    assert landing.landed_at(project, version(3)) is None


def test_a_version_lands_once_whichever_runs_finish_it(project: Path, template: tuple[Path, list[str]]) -> None:
    first = landing.land(project, version(1), template[1][0])
    assert landing.land(project, version(1), template[1][1]) == first
    subjects = workspace.git(project, "log", "--first-parent", "--format=%s", BRANCH).splitlines()
    assert sum(subject.startswith("Promote") for subject in subjects) == 1


def test_a_branch_that_is_checked_out_is_not_moved_underneath(
    project: Path, template: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    first = landing.land(project, version(1), template[1][0])
    workspace.git(project, "checkout", "--quiet", BRANCH)
    assert landing.land(project, version(2), template[1][1]) is None
    assert workspace.git(project, "rev-parse", BRANCH) == first
    assert f"{BRANCH} is checked out in {project}" in capsys.readouterr().err


def test_a_run_whose_commits_are_gone_lands_nowhere(project: Path) -> None:
    assert landing.land(project, version(1), "20200101T000000Z-00000000") is None


LAND = """
import sys
from pathlib import Path
from touchstone.pipeline import landing
from touchstone.registry import Version
version = Version("reward-sandbox", int(sys.argv[3]), "0" * 64, "f" * 64, "source", "run")
assert landing.land(Path(sys.argv[1]), version, sys.argv[2])
"""


def test_promotions_that_land_at_once_all_land(project: Path, template: tuple[Path, list[str]]) -> None:
    with ExitStack() as stack:
        for number in range(1, 7):
            words = [sys.executable, "-c", LAND, str(project), template[1][number - 1], str(number)]
            process = stack.enter_context(subprocess.Popen(words, cwd=ROOT))
            stack.callback(lambda process=process: process.wait())
    subjects = workspace.git(project, "log", "--first-parent", "--format=%s", BRANCH).splitlines()
    promoted = [subject for subject in subjects if subject.startswith("Promote")]
    assert sorted(promoted) == [f"Promote {NAME} version {number}" for number in range(1, 7)]
    assert runs.damaged(project) == []
