"""Where a promoted run's results land in the project: one commit on the branch touchstone/NAME, which nobody pushes.

    land(root, version, run_id)     # again: nothing

The commit holds what the run was made from and its dvc.lock, on top of the promotion before and of the run's own
commits: `git merge touchstone/NAME` takes its data.dvc, parameters and dvc.lock into the project. No checkout is
touched.
"""

from __future__ import annotations

import sys
from pathlib import Path

from touchstone.errors import PipelineError
from touchstone.pipeline import workspace
from touchstone.registry import Registry, Version

_RUN = "touchstone.run"
_TRAILER, _ARTIFACT = "Touchstone-Run", "Touchstone-Artifact"
_TRIES = 20
"""Promotions that land at once each move the branch from where they saw it."""


def branch_of(name: str) -> str:
    """The branch on which the promotions of a registered model land."""
    return f"touchstone/{name}"


def land(root: Path, version: Version, run_id: str) -> str | None:
    """Commit a promoted run's results to its model's branch, once; returns the commit.

    None where the branch is checked out somewhere, which git wouldn't notice, or where the run's commits are gone.

    Raises:
        PipelineError: git failed.
    """
    results = _commit(root, f"{workspace.REFS}/{run_id}")
    branch = branch_of(version.name)
    if results is None:
        return None
    for _ in range(_TRIES):
        if (landed := landed_at(root, version)) is not None:
            return landed
        if place := _checked_out(root, branch):
            sys.stderr.write(
                f"{branch} is checked out in {place}, so version {version.version} isn't committed there; leave the "
                "branch, then `touchstone doctor --repair`\n"
            )
            return None
        tip = _commit(root, f"refs/heads/{branch}")
        made = _make(root, version, run_id, results, tip)
        try:
            workspace.git(root, "update-ref", f"refs/heads/{branch}", made, tip or "0" * len(made))
        except PipelineError:
            if _commit(root, f"refs/heads/{branch}") == tip:
                raise  # nobody was faster: it can't be written
            continue
        return made
    raise PipelineError(f"{branch} is moved by others all the time; `touchstone doctor --repair` lands it later")


def land_version(root: Path, version: Version) -> str | None:
    """`land` with the run that registered a version, whichever run promotes it; None where no run of ours did."""
    run_id = Registry.open(root).tags(version).get(_RUN)
    return land(root, version, run_id) if run_id else None


def landed_at(root: Path, version: Version) -> str | None:
    """The commit with which a version landed, whichever run's results it holds; None where it hasn't."""
    branch = f"refs/heads/{branch_of(version.name)}"
    if _commit(root, branch) is None:
        return None
    trailer = f"%(trailers:key={_ARTIFACT},valueonly,separator=%x20)"
    shown = workspace.git(root, "log", "--first-parent", f"--format=%H%x09%s%x09{trailer}", branch)
    wanted = [_subject(version), version.digest]
    rows = (line.split("\t") for line in shown.splitlines())
    return next((row[0] for row in rows if row[1:] == wanted), None)


def is_owed(root: Path, version: Version) -> bool:
    """Whether a champion's results could land and haven't: its promotion was killed before."""
    run_id = Registry.open(root).tags(version).get(_RUN)
    if run_id is None or _commit(root, f"{workspace.REFS}/{run_id}") is None:
        return False
    return landed_at(root, version) is None and not _checked_out(root, branch_of(version.name))


def _make(root: Path, version: Version, run_id: str, results: str, tip: str | None) -> str:
    """A commit of the run's results on the branch's tip and on the run's own commits."""
    message = f"{_subject(version)}\n\n{_TRAILER}: {run_id}\n{_ARTIFACT}: {version.digest}"
    return workspace.commit_tree(root, f"{results}^{{tree}}", [tip, results] if tip else [results], message)


def _subject(version: Version) -> str:
    return f"Promote {version.name} version {version.version}"


def _commit(root: Path, name: str) -> str | None:
    try:
        return workspace.git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except PipelineError:
        return None


def _checked_out(root: Path, branch: str) -> str | None:
    """The worktree in which a branch is checked out."""
    place = None
    for line in workspace.git(root, "worktree", "list", "--porcelain").splitlines():
        if line.startswith("worktree "):
            place = line.removeprefix("worktree ")
        if line == f"branch refs/heads/{branch}":
            return place
    return None
