"""What crashes, copies and full disks can leave behind, found; with `repair`, mended.

    for finding in examine(root, settings):
        print(finding.state, finding.place, finding.what)

Looks at runs, worktrees, leases, ledgers, the registry and its aliases, DVC's cache (each object hashed again: DVC
doesn't), and the endpoint. What is mended loses nothing that anybody relies on; what would is only said. A decision to
move aliases that was interrupted is finished, never undone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from touchstone.errors import TouchstoneError
from touchstone.gate import judge
from touchstone.operations.trace import endpoint_link
from touchstone.operations.verify import verify_releases
from touchstone.pipeline import dvc, landing, lease, runs, scratch, workspace
from touchstone.pipeline.hashes import hash_file, hash_folder
from touchstone.registry import Registry, exists, repair
from touchstone.registry.entries import AliasesApplied, AliasesDecided
from touchstone.runtime import ledger
from touchstone.settings import Settings

State = Literal["ok", "mendable", "mended", "BROKEN", "not here"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        mend: what `--repair` does; None where nothing is wrong, or only a person can help.
    """

    place: str
    state: State
    what: str
    mend: Callable[[], object] | None = None


def examine(root: Path, settings: Settings, *, mend: bool = False) -> list[Finding]:
    """Everything that was looked at, what is wrong in it, and with `mend` what was done about it.

    Raises:
        BusyError: with `mend`, another run is being prepared.
    """
    root = root.resolve()
    looks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("runs", lambda: _runs(root)),
        ("leases", lambda: _leases(root)),
        ("ledgers", lambda: _ledgers(root)),
        ("registry", lambda: _registry(root)),
        ("cache", lambda: _cache(root)),
        ("endpoint", lambda: _endpoint(root, settings)),
    ]
    findings: list[Finding] = []
    for place, look in looks:
        try:
            seen = [_mended(finding) if mend and finding.mend else finding for finding in look()]
        except TouchstoneError as error:
            seen = [Finding(place, "BROKEN", str(error))]
        findings += seen or [Finding(place, "ok", "nothing wrong")]
    return findings


def _mended(finding: Finding) -> Finding:
    try:
        assert finding.mend is not None  # noqa: S101 - for the type checker: the caller has asked
        finding.mend()
    except TouchstoneError as error:
        return replace(finding, state="BROKEN", what=f"{finding.what}; can't be mended: {error}")
    return replace(finding, state="mended")


def _runs(root: Path) -> Iterator[Finding]:
    """Killed runs, their worktrees, and records that can't be read."""
    folder = runs.folder_of(root)
    for record in runs.history(root):
        left = folder / record["id"] / "workspace"
        if record["status"] != "running" and not left.exists():
            continue
        if lease.is_free(lease.folder_of(root), record["fingerprint"]):
            what = f"{record['id']} was killed{' and left its worktree' if left.exists() else ''}"
            yield Finding("runs", "mendable", what, partial(_prune, root))
    for damaged in runs.damaged(root):
        place = damaged / "run.json"
        yield Finding("runs", "mendable", f"{place} can't be read", partial(_set_aside, root, damaged))
    if (folder / ".new").exists() and lease.is_free(lease.folder_of(root), runs.PREPARING):
        yield Finding("runs", "mendable", f"{folder / '.new'} is a run that was never begun", partial(_prune, root))
    for left in scratch.left(root):
        yield Finding(
            "runs", "mendable", f"{left} was left by a command that was killed", partial(scratch.clear, root)
        )
    stale = [line for line in workspace.git(root, "worktree", "prune", "--dry-run", "--verbose").splitlines() if line]
    if stale:
        what = f"git knows {len(stale)} worktrees that are gone"
        yield Finding("runs", "mendable", what, lambda: workspace.git(root, "worktree", "prune"))


def _prune(root: Path) -> None:
    with lease.hold(lease.folder_of(root), runs.PREPARING, "the preparation of another run"):
        runs.prune(root)


def _set_aside(root: Path, damaged: Path) -> None:
    """Keep a run's evidence, under a name that no history reads."""
    workspace.remove(root, damaged / "workspace")
    (damaged / "run.json").rename(damaged / "run.json.damaged")


def _leases(root: Path) -> Iterator[Finding]:
    """Notes of owners that are gone: the lock itself dies with its process."""
    for note in sorted(lease.folder_of(root).glob("*.json")):
        if lease.is_free(note.parent, note.stem):
            yield Finding("leases", "mendable", f"{note.name} names an owner that is gone", note.unlink)


def _ledgers(root: Path) -> Iterator[Finding]:
    """Every chain, and how far each should go."""
    folder = runs.folder_of(root)
    paths = {*(folder / "ledger").glob("*.jsonl"), *(folder / "monitor").glob("*.jsonl")}
    for path in sorted({*paths, judge.ledger_file(folder)}):
        try:
            ledger.read(path)
        except TouchstoneError as error:
            yield Finding("ledgers", "BROKEN", str(error))


def _registry(root: Path) -> Iterator[Finding]:
    """MLflow's records against the ledger and the files."""
    if not exists(root):
        return
    registry = Registry.open(root)
    if (before := repair.elsewhere(registry)) is not None:
        what = f"the database names the artifacts in {before}: the project was copied or moved"
        yield Finding("registry", "mendable", what, partial(repair.relocate, registry, before))
    if (upload := repair.partial_upload(root)) is not None:
        what = f"{upload} is an upload that was interrupted"
        yield Finding("registry", "mendable", what, lambda: repair.remove_partial_upload(root))
    leases = lease.folder_of(root)
    for run in repair.open_runs(registry):
        if lease.is_free(leases, run.fingerprint):
            what = f"MLflow run {run.id[:12]} is marked as running, and its process is gone"
            yield Finding("registry", "mendable", what, partial(registry.finish_run, run.id, "KILLED"))
    for run_id in repair.uploads_without_version(registry):
        what = f"MLflow run {run_id[:12]} holds a model without a version: a publisher was killed; run again"
        yield Finding("registry", "not here", what)
    for name in registry.names():
        entries = registry.history(name)
        applied = {entry.entry for entry in entries if isinstance(entry, AliasesApplied)}
        decided = [entry for entry in entries if isinstance(entry, AliasesDecided)]
        if decided and decided[-1].sequence not in applied:
            what = f"{registry.ledger.name}, line {decided[-1].sequence + 1} moves aliases of {name}, and wasn't done"
            yield Finding("registry", "mendable", what, partial(registry.recover, name))
        for fault in verify_releases(registry, name).faults:
            yield Finding("registry", "BROKEN", fault)
        champion = registry.version(name, "champion")
        if champion is not None and landing.is_owed(root, champion):
            what = f"version {champion.version} is the champion and isn't committed to {landing.branch_of(name)}"
            yield Finding("registry", "mendable", what, partial(landing.land_version, root, champion))
        for version in registry.versions(name):
            try:
                registry.download(version)
            except TouchstoneError as error:
                yield Finding("registry", "BROKEN", str(error))


def _cache(root: Path) -> Iterator[Finding]:
    """Every object of DVC's cache against its name; what data.dvc names must be there."""
    objects = dvc.cache_folder(root) / "files" / "md5"
    for path in sorted(objects.glob("??/*")):
        name = path.parent.name + path.name
        if len(name.removesuffix(".dir")) == 32 and hash_file(path) != name.removesuffix(".dir"):
            what = f"{path} was changed after it was written"
            yield Finding("cache", "mendable", f"{what}: away with it, so that it is brought again", path.unlink)
    pointed = dvc.pointer_hash(root / "data.dvc")
    if pointed is not None and (lost := _lost(objects, pointed)):
        yield from _lost_data(root, pointed, lost)


def _lost(objects: Path, name: str) -> list[str]:
    """Objects that a pointer needs and the cache lacks."""
    path = objects / name[:2] / name[2:]
    if not path.is_file():
        return [name]
    if not name.endswith(".dir"):
        return []
    try:
        inner = json.loads(path.read_text(encoding="utf-8"))
        return [entry["md5"] for entry in inner if not (objects / entry["md5"][:2] / entry["md5"][2:]).is_file()]
    except (ValueError, KeyError, TypeError):
        return [name]


def _lost_data(root: Path, pointed: str, lost: list[str]) -> Iterator[Finding]:
    what = f"the cache lacks {len(lost)} objects of the data that data.dvc names ({pointed[:12]})"
    folder = root / "data"
    if folder.is_dir() and hash_folder(folder) == pointed:
        yield Finding("cache", "mendable", f"{what}; data/ still holds them", lambda: dvc.add(root, "data"))
    else:
        yield Finding("cache", "not here", f"{what}; `dvc pull`, or `make data`, brings them")


def _endpoint(root: Path, settings: Settings) -> Iterator[Finding]:
    """Whether what is served is the champion."""
    if not exists(root):
        return
    registry = Registry.open(root)
    champion = registry.version(settings.name, "champion")
    if champion is None:
        return
    state, what = endpoint_link(settings, registry, champion)
    yield Finding("endpoint", state, what)


def render(findings: list[Finding]) -> str:
    """For people."""
    return "\n".join(f"{finding.state:<9} {finding.place:<9} {finding.what}" for finding in findings)


def is_clean(findings: list[Finding]) -> bool:
    """Whether nothing is left to do."""
    return not any(finding.state in ("mendable", "BROKEN") for finding in findings)
