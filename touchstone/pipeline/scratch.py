"""Worktrees for one command, below runs/.scratch/: what a killed command left is found there, and cleared by the next.

    with scratch.worktree(root, commit) as place:
        ...                     # place.parent is free for what goes with the worktree

Each has a lease of its own, which dies with its process.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from touchstone.pipeline import lease, workspace

FOLDER = ".scratch"
WORKTREE = "version"


@contextlib.contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """Within, a private worktree of a commit, with the project's DVC cache.

    Raises:
        PipelineError: git failed, or the project is a submodule.
    """
    clear(root)
    key = uuid4().hex[:12]
    folder = root / "runs" / FOLDER / key
    # The lease before the folder: one without a lease is nobody's.
    with lease.hold(lease.folder_of(root), _lease(key), "another command's worktree"):
        try:
            workspace.create(root, folder / WORKTREE, commit)
            yield folder / WORKTREE
        finally:
            _remove(root, folder)


def left(root: Path) -> list[Path]:
    """Folders of commands that were killed; where it was before they made one, it is missing."""
    notes = {path.stem.removeprefix(_lease("")) for path in lease.folder_of(root).glob(f"{_lease('')}*.json")}
    keys = notes | {path.name for path in (root / "runs" / FOLDER).glob("*")}
    return [root / "runs" / FOLDER / key for key in sorted(keys) if lease.is_free(lease.folder_of(root), _lease(key))]


def clear(root: Path) -> None:
    """Remove what killed commands left."""
    for folder in left(root):
        _remove(root, folder)


def _remove(root: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    workspace.remove(root, folder / WORKTREE)
    for path in lease.folder_of(root).glob(f"{_lease(folder.name)}.*"):
        path.unlink(missing_ok=True)


def _lease(key: str) -> str:
    return f"scratch-{key}"
