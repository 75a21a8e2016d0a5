"""A run's life: prepared in a private worktree, settled or leased, and left behind as evidence.

runs/<id>/run.json      what it is and how it ended
runs/<id>/workspace/    the worktree; removed when the run ends, by the next run where that one was killed
runs/<id>/              params.yaml, data.dvc, dvc.lock, curve, metrics, plots, decision, logs: kept
runs/lease/             one lock per fingerprint under way
runs/checkpoints/       of trainings that were interrupted, by fingerprint; may be deleted when none is to go on
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from touchstone import settings as settings_module
from touchstone.errors import BusyError, PipelineError, SettingsError
from touchstone.pipeline import data, graph, lease, notices, overrides, scratch, workspace
from touchstone.pipeline.fingerprint import fingerprint
from touchstone.pipeline.graph import Stage
from touchstone.runtime import installed
from touchstone.runtime.files import write_atomic, write_json
from touchstone.settings import Settings

PREPARING = "preparing"
_PROBE_BYTES = 2**16
"""So much room at least: a worktree and its index need more."""
EVIDENCE = (
    "params.yaml",
    "data.dvc",
    "dvc.lock",
    "build/curve.jsonl",
    "build/training.json",
    "build/validation.json",
    "build/splits/summary.json",
    "build/evaluation/metrics.json",
    "build/evaluation/plots",
    "build/audit.json",
    "build/data_page",
    "build/data_docs",  # written when the checks run, not when their results come from the cache
)


@dataclass(frozen=True)
class Draft:
    """A run that may come to be: its settings and inputs stand in a worktree, nothing has run.

    Attributes:
        commit: what it was made from: the checkout as it stood, or HEAD.
        words: the overrides as given.
    """

    root: Path
    workspace: Path
    settings: Settings
    stages: list[Stage]
    fingerprint: str
    commit: str
    words: list[str]


@dataclass(frozen=True)
class Run:
    """A run under way; the process that holds it holds the lease of its fingerprint.

    Attributes:
        commit: everything that it is made from, overrides and data pointer included; kept by a ref.
        folder: runs/<id>.
    """

    root: Path
    id: str
    fingerprint: str
    commit: str
    settings: Settings
    stages: list[Stage]

    @property
    def folder(self) -> Path:
        return folder_of(self.root) / self.id

    @property
    def workspace(self) -> Path:
        """The private worktree, in which the stages run."""
        return self.folder / "workspace"

    @property
    def checkpoints(self) -> Path:
        """Where training keeps its checkpoints: the worktree goes with the run, and the next of this kind goes on."""
        return folder_of(self.root) / "checkpoints" / self.fingerprint[:16]

    @property
    def build(self) -> Path:
        return self.workspace / "build"

    def note(self, **facts: Any) -> None:
        """Enter facts into run.json."""
        path = self.folder / "run.json"
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **facts})

    def record(self) -> dict[str, Any]:
        """run.json as it is."""
        record: dict[str, Any] = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        return record

    @property
    def events(self) -> Path:
        """What training writes while it runs."""
        return self.folder / "events.jsonl"

    def log_of(self, stage: str) -> Path:
        """Where the output of a stage goes."""
        log = self.folder / "logs" / f"{stage}.log"
        log.parent.mkdir(exist_ok=True)
        return log

    def stage_environment(self, *, events: bool) -> dict[str, str]:
        """What a stage's process is told beside params.yaml: nothing that enters a number.

        Args:
            events: it may write to `events`; of stages that run at once only one may.
        """
        places = {"TOUCHSTONE_ROOT": str(self.root), "TOUCHSTONE_CHECKPOINTS": str(self.checkpoints)}
        return {**places, "TOUCHSTONE_EVENTS": str(self.events) if events else ""}

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Enter a step's seconds into run.json."""
        start = time.monotonic()
        yield
        self.note_seconds(step, time.monotonic() - start)

    def note_seconds(self, step: str, seconds: float) -> None:
        """Enter a step's seconds into run.json."""
        self.note(seconds={**self.record()["seconds"], step: round(seconds, 2)})

    def note_stage(self, name: str, how: str, seconds: float | None = None) -> None:
        """Enter into run.json how a stage came to its outputs, and its seconds where `timed` didn't."""
        self.note(stages={**self.record()["stages"], name: how})
        if seconds is not None:
            self.note_seconds(name, seconds)


def folder_of(root: Path) -> Path:
    """Where a project keeps its runs, ledgers and leases."""
    return root / "runs"


@contextlib.contextmanager
def drafted(root: Path, words: list[str], *, clean: bool = False, as_of: str | None = None) -> Iterator[Draft]:
    """Prepare a run in runs/.new, and remove that again at the end if it is still there.

    One process prepares at a time; another one waits for it.

    Args:
        words: overrides, `group=choice` and `key=value`.
        clean: take HEAD; default: the checkout as it stands.
        as_of: a git revision or a run's id whose data is taken, under a name of its own (`data.pin`).

    Raises:
        SettingsError, DataError, PipelineError: the run can't be prepared; nothing is left of it.
    """
    root = root.resolve()
    runs = folder_of(root)
    check_writable(runs)
    with _preparing(runs / "lease"):
        prune(root)
        for folder in damaged(root):
            sys.stderr.write(f"{folder / 'run.json'} can't be read: that run is left out; see `touchstone doctor`\n")
        new = runs / ".new"
        worktree = new / "workspace"
        try:
            base = workspace.head(root) if clean else workspace.snapshot(root)
            workspace.create(root, worktree, base)
            installed.check(worktree)
            try:
                committed = settings_module.load(worktree / "params.yaml")
            except SettingsError as error:  # the copy goes; the file to mend is the checkout's
                raise SettingsError(str(error).replace(f"{worktree}/", "")) from None
            settings = overrides.apply(committed, words, worktree / "configs") if words else committed
            if as_of is not None:
                settings = data.pin(root, worktree, settings, as_of)
            if settings != committed:
                write_atomic(worktree / "params.yaml", settings_module.dump(settings))
            if as_of is None and clean and settings.loop.inbox is not None:
                data.follow(root, worktree)
            if as_of is None:
                data.settle(root, worktree, settings, committed, clean=clean, named=overrides.name_data(words))
            stages = graph.read(worktree / "dvc.yaml", worktree / "params.yaml")
            key = fingerprint(worktree, stages, settings)
            yield Draft(root, worktree, settings, stages, key, base, words)
        finally:
            if new.exists():
                workspace.remove(root, worktree)
                shutil.rmtree(new)


@contextlib.contextmanager
def _preparing(leases: Path) -> Iterator[None]:
    """Hold the lease of preparations; waits while another process has it."""
    waited = False
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(lease.hold(leases, PREPARING, "the preparation of another run"))
            except BusyError as error:
                if not waited:
                    sys.stderr.write(f"waiting: {error}\n")
                waited = True
                time.sleep(0.2)
                continue
            yield
            return


def take(draft: Draft, stack: ExitStack) -> Run:
    """Turn a draft into a run: its lease, its folder, its commit. The stack gives them back and removes the worktree.

    Raises:
        BusyError: a run of the same fingerprint is under way.
    """
    root, key = draft.root, draft.fingerprint
    runs = folder_of(root)
    # The lease first: only its holder may make a folder for the fingerprint.
    what = f"a run of the same data, code and parameters (fingerprint {key[:12]})"
    stack.enter_context(lease.hold(runs / "lease", key, what))

    # A folder with the record, named by the second and the fingerprint.
    started = datetime.now(UTC)
    stem = f"{started:%Y%m%dT%H%M%SZ}-{key[:8]}"
    name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, 1000))) if not (runs / n).exists())
    folder = runs / name
    folder.mkdir()
    write_json(
        folder / "run.json",
        {
            "id": name,
            "name": draft.settings.name,
            "fingerprint": key,
            "base_commit": draft.commit,
            "overrides": draft.words,
            "started": started.isoformat(timespec="seconds"),
            "status": "running",
            "stages": {},
            "seconds": {},
        },
    )

    # The draft's worktree becomes the run's, and what stands in it the run's commit.
    workspace.move(root, draft.workspace, folder / "workspace")
    commit = workspace.commit(folder / "workspace", f"Run {name}", f"{workspace.REFS}/{name}")
    run = Run(root, name, key, commit, draft.settings, draft.stages)
    stack.push(lambda kind, error, trace: _close(run, error))
    run.note(commit=commit)
    return run


def _close(run: Run, error: BaseException | None) -> bool:
    """Keep the evidence, remove the worktree, and say in run.json how the run ended."""
    if error is not None:
        stopped = isinstance(error, KeyboardInterrupt)
        words = str(error) or type(error).__name__
        if not stopped:
            notices.owe(run, "failed", words)
        run.note(status="interrupted" if stopped else "failed", error=words)
    keep_evidence(run)
    run.note(ended=datetime.now(UTC).isoformat(timespec="seconds"))
    workspace.remove(run.root, run.workspace)
    return False


def keep_evidence(run: Run) -> None:
    """Copy what later readers need out of the worktree, and commit the lock to the run's ref."""
    if not run.workspace.is_dir():
        return
    for path in EVIDENCE:
        source, target = run.workspace / path, run.folder / Path(path).name
        if path.startswith("build/splits/"):
            target = run.folder / "splits.json"
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, target)
    workspace.commit(run.workspace, f"Results of run {run.id}", f"{workspace.REFS}/{run.id}")


def check_writable(runs: Path) -> None:
    """Make the folder for runs, where it is missing, and see that files can be written there.

    Raises:
        PipelineError: they can't: it is a file, read-only, or the disk is full.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        what = "is a file" if runs.is_file() else f"can't be written ({error.strerror})"
        raise PipelineError(f"{runs} {what}: a run keeps its workspace and its evidence there; make room") from None


def read_record(folder: Path) -> dict[str, Any] | None:
    """run.json in a run's folder; None where it is damaged: empty, cut, or not what a run writes."""
    try:
        record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if {"id", "fingerprint", "status"} <= record.keys():
            return record
    except (OSError, ValueError, AttributeError):
        pass
    return None


def history(root: Path) -> list[dict[str, Any]]:
    """run.json of every run, newest first; a damaged one is left out (`damaged` names it)."""
    folders = sorted((path.parent for path in folder_of(root).glob("*/run.json")), reverse=True)
    return [record for folder in folders if (record := read_record(folder)) is not None]


def damaged(root: Path) -> list[Path]:
    """Folders of runs whose run.json can't be read."""
    return sorted(path.parent for path in folder_of(root).glob("*/run.json") if read_record(path.parent) is None)


def prune_alone(root: Path) -> None:
    """`prune`, waiting for whoever prepares a run."""
    with _preparing(folder_of(root) / "lease"):
        prune(root)


def prune(root: Path) -> None:
    """Remove what killed runs left: their worktrees, and a draft. The caller holds the right to prepare."""
    runs = folder_of(root)
    stale = [runs / ".new" / "workspace"] if (runs / ".new").exists() else []
    for record in history(root):
        left = runs / record["id"] / "workspace"
        if record["status"] != "running" and not left.exists():
            continue
        if lease.is_free(runs / "lease", record["fingerprint"]):
            stale.append(left)
            lease.forget(runs / "lease", record["fingerprint"])
            if record["status"] == "running":
                write_json(left.parent / "run.json", {**record, "status": "interrupted", "error": "killed"})
    for folder in stale:
        workspace.remove(root, folder)
    scratch.clear(root)
    shutil.rmtree(runs / ".new", ignore_errors=True)
