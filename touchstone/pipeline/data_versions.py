"""Versions of the data: a folder, a git revision or a run, with what `validate` and `split` made of it.

with outputs(root, "v1") as before, outputs(root, None) as now:
    print(compare(before, now).render())
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from touchstone import settings as settings_module
from touchstone.data.difference import Difference, compare
from touchstone.errors import PipelineError
from touchstone.pipeline import data, dvc, runs, scratch, workspace
from touchstone.runtime.files import write_atomic
from touchstone.runtime.processes import stopped_by_sigterm
from touchstone.settings import Settings

STAGES = ("validate", "split")
"""Stages whose outputs make a version."""
GROUPS = "groups.parquet"
PAGE = Path("build") / "data_page" / "index.html"
DIFFERENCE_PAGE = Path("build") / "data_page_difference" / "index.html"
"""Apart from the stage's own page, which must stay what DVC has recorded."""


def differ(root: Path, previous: str, current: str | None = None) -> Difference:
    """What has changed between two versions; `current` is the checkout's build/ unless it is given, and where there is
    none the newest run's.

    Raises:
        DataError: a version's groups can't be read.
        PipelineError: as `outputs`.
    """
    # The nearer one first: where it is missing, nothing needs to be brought.
    with outputs(root, current) as now, outputs(root, previous) as before:
        return compare(before, now)


def write_page(root: Path, settings: Settings, previous: str | None = None) -> Path:
    """Write the data page of the checkout's build/; with `previous`, apart, and with what has changed since.

    Returns its path below `root`.

    Raises:
        DataError: an output of an earlier stage is missing.
        ModelError: the base's tokenizer can't be loaded.
        PipelineError: as `outputs`.
    """
    from touchstone.data.page.page import read, render  # seconds, which a difference alone doesn't need

    difference = None if previous is None else differ(root, previous)
    page = PAGE if previous is None else DIFFERENCE_PAGE
    write_atomic(root / page, render(read(root, settings, difference, previous or "")))
    return page


@contextlib.contextmanager
def outputs(root: Path, version: str | None) -> Iterator[Path]:
    """A folder with the version's groups.parquet and splits/.

    Args:
        version: a folder that holds them (itself or in its build/), a git revision, or a run's id; None is the
            checkout's build/, or the newest run. A revision's outputs come from DVC's cache or remote into a temporary
            worktree; one without a dvc.lock is validated and split there.

    Raises:
        DataError: its data is neither in the cache nor in a remote.
        PipelineError: there is no such version, or its outputs are neither in the cache nor in a remote.
    """
    for folder in (root / (version or "."), root / (version or ".") / "build"):
        if (folder / GROUPS).is_file():
            yield folder
            return
    if version is None:
        version = _newest_run(root)
    commit = _commit(root, version)
    with stopped_by_sigterm(), scratch.worktree(root, commit) as worktree:
        _bring(root, worktree, version)
        yield worktree / "build"


def _newest_run(root: Path) -> str:
    """Id of the newest run that validated and split its data.

    Raises:
        PipelineError: there is none.
    """
    for record in runs.history(root):
        if set(STAGES) <= record.get("stages", {}).keys() and workspace.file_at(
            root, f"{workspace.REFS}/{record['id']}", "dvc.lock"
        ):
            return str(record["id"])
    raise PipelineError(
        f"build/{GROUPS} does not exist, and no run has made one; run `dvc repro` or `make retrain` first"
    )


def _commit(root: Path, version: str) -> str:
    """The commit that a revision, or the ref of a run's results, names."""
    for name in (version, f"{workspace.REFS}/{version}"):
        with contextlib.suppress(PipelineError):
            return workspace.git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    raise PipelineError(
        f"{version} is no folder with {GROUPS}, no git revision, and no run's id; see `git log` and runs/"
    )


def _bring(root: Path, worktree: Path, version: str) -> None:
    """Bring the outputs into the worktree: as its dvc.lock records them, or by running the stages on its data.

    Raises:
        DataError: there is no dvc.lock, and its data is neither in the cache nor in a remote.
        PipelineError: what the dvc.lock records is neither in the cache nor in a remote, or a stage failed.
    """
    if not (worktree / "dvc.lock").is_file():
        if dvc.pointer_hash(worktree / data.POINTER) is None:
            raise PipelineError(f"{version} has neither a dvc.lock nor a {data.POINTER}, so nobody knows its data")
        data.bring(root, worktree, settings_module.load(worktree / "params.yaml"))
        for stage in STAGES:
            dvc.repro(worktree, stage, log=worktree.parent / f"{stage}.log")
        return
    brought = dvc.checkout(worktree, *STAGES) or (dvc.fetch(worktree, *STAGES) and dvc.checkout(worktree, *STAGES))
    if not brought or not (worktree / "build" / GROUPS).is_file():
        raise PipelineError(
            f"the outputs of {' and '.join(STAGES)} at {version} are neither in the cache nor in a remote; run them "
            "again from that commit"
        )
