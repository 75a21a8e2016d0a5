"""Versions of the data: a folder, a git revision or a run, with what `validate` and `split` made of it.

with outputs(root, "v1") as before, outputs(root, None) as now:
    print(compare(before, now).render())
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from touchstone.data.difference import Difference, compare
from touchstone.errors import PipelineError
from touchstone.pipeline import dvc, scratch, workspace
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
    """What has changed between two versions; `current` is the checkout's build/ unless it is given.

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
            checkout's build/. A revision's outputs come from DVC's cache or remote into a temporary worktree.

    Raises:
        PipelineError: there is no such version, or its outputs are neither in the cache nor in a remote.
    """
    for folder in (root / (version or "."), root / (version or ".") / "build"):
        if (folder / GROUPS).is_file():
            yield folder
            return
    if version is None:
        raise PipelineError(f"build/{GROUPS} does not exist; run `dvc repro` first")
    commit = _commit(root, version)
    with stopped_by_sigterm(), scratch.worktree(root, commit) as worktree:
        _bring(worktree, version)
        yield worktree / "build"


def _commit(root: Path, version: str) -> str:
    """The commit that a revision, or the ref of a run's results, names."""
    for name in (version, f"{workspace.REFS}/{version}"):
        with contextlib.suppress(PipelineError):
            return workspace.git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    raise PipelineError(
        f"{version} is no folder with {GROUPS}, no git revision, and no run's id; see `git log` and runs/"
    )


def _bring(worktree: Path, version: str) -> None:
    """Bring the outputs into the worktree.

    Raises:
        PipelineError: its dvc.lock doesn't record them, or they are neither in the cache nor in a remote.
    """
    if not (worktree / "dvc.lock").is_file():
        raise PipelineError(
            f"{version} has no dvc.lock, so nobody knows what its data became; name a run, or a commit made after "
            "`dvc repro` with its dvc.lock"
        )
    brought = dvc.checkout(worktree, *STAGES) or (dvc.fetch(worktree, *STAGES) and dvc.checkout(worktree, *STAGES))
    if not brought or not (worktree / "build" / GROUPS).is_file():
        raise PipelineError(
            f"the outputs of {' and '.join(STAGES)} at {version} are neither in the cache nor in a remote; run them "
            "again from that commit"
        )
