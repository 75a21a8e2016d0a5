"""A person's promotion, after the run: of a registered version, or of a candidate that a gate had blocked.

A candidate without a version is registered first, from what its run left behind: the run's commit, its dvc.lock, and
the outputs in DVC's cache. What `dvc repro && touchstone judge` left in build/ is written down as a run before that,
so that every version has one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from touchstone import release as releasing
from touchstone import settings as settings_module
from touchstone.errors import GateError, PipelineError
from touchstone.gate.record import Decision, load_decision
from touchstone.model import card
from touchstone.pipeline import dvc, graph, landing, lease, notices, runs, scratch, steps, workspace
from touchstone.pipeline.runs import Run
from touchstone.registry import Registry, Version, require
from touchstone.release import Override, Release
from touchstone.runtime.processes import stopped_by_sigterm
from touchstone.settings import Settings
from touchstone.settings.loop import Ending

BUILD = "build"
"""The word for the candidate in the checkout's build/."""
ARTIFACT, REFERENCE = "build/artifact", "build/splits/reference.parquet"


def promote(root: Path, settings: Settings, which: str, name: str, override: Override | None = None) -> Release:
    """Release a registered version, a run's candidate, or the one in build/.

    Args:
        which: a version's number, a run's id, or "build".
        name: the registered model, for a number.
        override: who decides against the verdict, and why.

    Raises:
        GateError, RegistryError, ServingError: see `touchstone.release.release`.
        PipelineError: there is no such run, its outputs are gone, or the checkout isn't what build/ was made from.
        BusyError: the run is under way.
    """
    root = root.resolve()
    if which.isdigit():
        return _promote_version(root, settings, name, int(which), override)
    if which == BUILD:
        decision = load_decision(root / BUILD / "decision")
        version = _registered(root, decision, override)
        if version is not None:  # by an earlier call, which may have been killed
            runs.prune_alone(root)
            Registry.open(root).finish_run(version.run_id, "FINISHED")
            return _promote_version(root, settings, version.name, version.version, override)
    with stopped_by_sigterm(), ExitStack() as stack:
        run = _from_build(root, decision, stack) if which == BUILD else _reopened(root, which, stack)
        return _promote_run(run, override)


def _promote_version(root: Path, settings: Settings, name: str, number: int, override: Override | None) -> Release:
    registry = Registry.open(root)
    version = require(registry, name, number, "; a blocked candidate is named by its run: see runs/")
    folder = registry.evidence(version, "decision")
    if folder is None:
        raise GateError(f"{name} version {number} has no decision among its evidence; judge it first")
    decision = load_decision(folder)
    releasing.admit(registry, version, decision, override)
    reference = registry.evidence(version, "reference.parquet")
    if reference is not None:  # no run made it: its evidence holds all that a release needs
        with stopped_by_sigterm():
            return releasing.release(root, settings, version, decision, reference, override)
    lock, commit = registry.evidence(version, "dvc.lock"), registry.tags(version).get("touchstone.commit")
    if lock is None or not commit:
        raise PipelineError(f"{name} version {number} doesn't say what it was made from, so nobody can check it")
    with stopped_by_sigterm(), _outputs(root, commit, lock, [REFERENCE]) as worktree:
        released = releasing.release(root, settings, version, decision, worktree / REFERENCE, override)
    run_id = registry.tags(version).get("touchstone.run", "")
    if released.promoted and (runs.folder_of(root) / run_id / "run.json").is_file():  # not where another clone made it
        _conclude(Run(root, run_id, version.fingerprint, commit, settings, []), version, released, override)
    return released


def _promote_run(run: Run, override: Override | None) -> Release:
    decision = load_decision(run.folder / "decision")
    _registered(run.root, decision, override)
    if card.read(run.workspace / ARTIFACT).digest != decision.artifact_digest:
        raise GateError(f"run {run.id} kept another artifact than the one that was judged; judge again")
    version = steps.register(run, decision)
    released = releasing.release(run.root, run.settings, version, decision, run.workspace / REFERENCE, override)
    _conclude(run, version, released, override)
    return released


def _conclude(run: Run, version: Version, released: Release, override: Override | None) -> None:
    """Write down what became of a run's candidate; the same again changes nothing."""
    if released.promoted:
        landing.land_version(run.root, version)
    outcome: Ending = "promoted" if released.promoted else "blocked"
    notices.owe(run, outcome, released.summary)
    by = {} if override is None else {"override": {"by": override.by, "reason": override.reason}}
    run.note(promoted=released.promoted, release=released.summary, scores=list(released.scores), **by)
    run.note(version=version.version, status="finished", outcome=outcome, reason=released.summary)


def _registered(root: Path, decision: Decision, override: Override | None) -> Version | None:
    """The version that the decision is about, None where it isn't registered yet; both must be admissible.

    Raises:
        GateError, RegistryError: see `touchstone.release.admit`.
    """
    registry = Registry.open(root)
    versions = registry.versions(decision.record.name)
    found = [version for version in versions if registry.tags(version).get("touchstone.decision") == decision.digest]
    version = found[-1] if found else None
    releasing.admit(registry, version, decision, override)
    return version


def _reopened(root: Path, name: str, stack: ExitStack) -> Run:
    """A run that has ended, with its artifact, its reference set and its curve in a worktree again."""
    folder = runs.folder_of(root) / name
    if not (folder / "run.json").is_file():
        raise PipelineError(f"{name} is neither a version's number, nor a run in {folder.parent}, nor the word build")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    what = f"run {name}, or another one of the same data, code and parameters,"
    stack.enter_context(lease.hold(lease.folder_of(root), record["fingerprint"], what))
    worktree = folder / "workspace"
    workspace.remove(root, worktree)  # left by one that was killed
    stack.callback(workspace.remove, root, worktree)
    workspace.create(root, worktree, record["commit"])
    shutil.copyfile(folder / "dvc.lock", worktree / "dvc.lock")
    _bring(worktree, [ARTIFACT, REFERENCE, steps.CURVE])
    settings = settings_module.load(worktree / "params.yaml")
    stages = graph.read(worktree / "dvc.yaml", worktree / "params.yaml")
    return Run(root, name, record["fingerprint"], record["commit"], settings, stages)


def _from_build(root: Path, decision: Decision, stack: ExitStack) -> Run:
    """The candidate in the checkout's build/ as a run that has been judged.

    Raises:
        PipelineError: the checkout has changed since the candidate was made.
    """
    names = graph.upstream(graph.read(root / "dvc.yaml", root / "params.yaml"), ARTIFACT)
    if changed := sorted(dvc.status(root, *names)):
        raise PipelineError(
            f"the checkout is not what build/ was made from any more ({', '.join(changed)}); "
            "`dvc repro && touchstone judge`, then promote"
        )
    with runs.drafted(root, []) as draft:
        run = runs.take(draft, stack)
    _bring(run.workspace, [ARTIFACT, REFERENCE, steps.CURVE])
    shutil.copytree(root / BUILD / "decision", run.folder / "decision")
    run.note(verdict=str(decision.verdict), summary=decision.summary, artifact=decision.artifact_digest)
    return run


@contextlib.contextmanager
def _outputs(root: Path, commit: str, lock: Path, paths: Sequence[str]) -> Iterator[Path]:
    """A temporary worktree of a commit with some outputs of a dvc.lock in it."""
    with scratch.worktree(root, commit) as worktree:
        shutil.copyfile(lock, worktree / "dvc.lock")
        _bring(worktree, paths)
        yield worktree


def _bring(worktree: Path, paths: Sequence[str]) -> None:
    if not dvc.checkout(worktree, *paths) and not (dvc.fetch(worktree, *paths) and dvc.checkout(worktree, *paths)):
        raise PipelineError(
            f"{', '.join(paths)} of that run are neither in DVC's cache nor in a remote; make them again with "
            "`touchstone retrain` or `dvc repro`"
        )
