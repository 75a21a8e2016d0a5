"""Private git worktrees: what a run runs in, so that nobody's edits leak in and two runs can't corrupt one another.

A run's commit is the checkout as it stands (untracked files that git does not ignore included), made through an index
of its own: the person's index, HEAD and files are not touched. It is kept under refs/touchstone/runs/<id>.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from touchstone.errors import PipelineError
from touchstone.pipeline import dvc
from touchstone.runtime import processes

REFS = "refs/touchstone/runs"
_IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Touchstone"), ("EMAIL", "touchstone@localhost"))
}


def git(folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Output of a git command in `folder`, stripped.

    Raises:
        PipelineError: git failed; the message holds its last line.
    """
    # Inside a hook git points these at the person's own repository and index.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**inherited, "LC_ALL": "C", **(env or {})}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        # git names the cause first, and last what it couldn't do for that.
        complaint = processes.full_disk(output) or output.splitlines()[-1]
        raise PipelineError(f"git {arguments[0]} failed in {folder}: {complaint}")
    return done.stdout.strip()


def head(root: Path) -> str:
    """The commit that is checked out.

    Raises:
        PipelineError: `root` is not the top of a git repository with a commit.
    """
    try:
        top = git(root, "rev-parse", "--show-toplevel")
        commit = git(root, "rev-parse", "--verify", "HEAD")
    except PipelineError as error:
        raise PipelineError(f"{root} must be a git repository with a commit: {error}") from None
    if Path(top).resolve() != root.resolve():
        raise PipelineError(f"{root} must be the top of its git repository, which is {top}")
    return commit


def file_at(root: Path, revision: str, path: str) -> str | None:
    """A file as a revision has it, stripped; None where there is no such revision or file."""
    try:
        return git(root, "show", "--end-of-options", f"{revision}:{path}")
    except PipelineError:
        return None


def snapshot(root: Path) -> str:
    """The checkout as it stands as a commit on HEAD; HEAD itself where nothing differs from it."""
    parent = head(root)
    index = Path(git(root, "rev-parse", "--git-path", "index"))
    with tempfile.TemporaryDirectory(prefix="touchstone-") as folder:
        private_index = Path(folder) / "index"
        if (root / index).exists():  # its stat cache saves hashing every file again
            shutil.copyfile(root / index, private_index)
        env = {"GIT_INDEX_FILE": str(private_index), **_IDENTITY}
        git(root, "add", "--all", env=env)
        tree = git(root, "write-tree", env=env)
        if tree == git(root, "rev-parse", f"{parent}^{{tree}}"):
            return parent
        return git(root, "commit-tree", tree, "-p", parent, "-m", "The checkout as it stood", env=env)


def commit_tree(root: Path, tree: str, parents: Sequence[str], message: str) -> str:
    """A commit of a tree that no branch knows of yet."""
    words = [word for parent in parents for word in ("-p", parent)]
    return git(root, "commit-tree", git(root, "rev-parse", tree), *words, "-m", message, env=_IDENTITY)


def create(root: Path, folder: Path, commit: str) -> None:
    """Make `folder` a worktree of the commit, with the project's DVC cache.

    Raises:
        PipelineError: git failed, or the project is a submodule.
    """
    if above := git(root, "rev-parse", "--show-superproject-working-tree"):
        raise PipelineError(
            f"{root} is a submodule of {above}, and DVC doesn't work in the worktrees of one; clone the project by "
            "itself, and run it there"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    dvc.share_cache(root, folder)


def move(root: Path, folder: Path, target: Path) -> None:
    """Move a worktree; the folder above the target must exist."""
    git(root, "worktree", "move", str(folder), str(target))


def commit(folder: Path, message: str, ref: str) -> str:
    """Commit what stands in the worktree and point the ref at it; returns the commit (HEAD if nothing differs)."""
    git(folder, "add", "--all")
    if git(folder, "status", "--porcelain"):
        settings = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false")
        git(folder, *settings, "commit", "--quiet", "-m", message, env=_IDENTITY)
    made = git(folder, "rev-parse", "HEAD")
    git(folder, "update-ref", ref, made)
    return made


def found(folder: Path, files: Sequence[str], message: str) -> None:
    """Commit the files in `folder`, which becomes the top of a git repository where it isn't one.

    The author is whoever git knows here; Touchstone itself where it knows nobody.
    """
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet")
    git(folder, "add", "--force", "--", *files)
    try:
        git(folder, "config", "user.email")
        author: Mapping[str, str] = {}
    except PipelineError:
        author = _IDENTITY
    git(folder, "commit", "--quiet", "-m", message, "--", *files, env=author)


def remove(root: Path, folder: Path) -> None:
    """Remove a worktree, whatever state it is in."""
    shutil.rmtree(folder, ignore_errors=True)
    git(root, "worktree", "prune")
