"""Incoming comparisons: each file, or a hub revision, becomes a version of the data, or is set aside with its reason.

    taken = take(root, settings, Path("inbox"))
    print(taken.render())

A batch is read and checked in a private worktree on top of what data/ holds: import, validation, split. Only when all
of that went well does it reach data/, and data.dvc moves. One that fails is refused and named, the others go on, and
nothing is changed by it. What was taken stands in the ledger runs/ledger/inbox.jsonl, by the digest of its bytes: the
same file again does nothing, and a run that was killed is finished by the next.
"""

from __future__ import annotations

import contextlib
import getpass
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from pydantic import Field, TypeAdapter

from touchstone import settings as settings_module
from touchstone.data import importing
from touchstone.data.difference import Difference, compare
from touchstone.errors import DataError, SettingsError, SplitError, StageError
from touchstone.pipeline import data, dvc, graph, lease, runs, scratch, workspace
from touchstone.pipeline.data_versions import GROUPS
from touchstone.pipeline.graph import Stage
from touchstone.runtime import ledger
from touchstone.runtime.files import digest_file, digest_folder, digest_value, write_folder
from touchstone.runtime.processes import stopped_by_sigterm
from touchstone.settings import Settings

REFUSING = (DataError, SplitError, StageError)
"""What a batch may be guilty of; anything else is the machine's, and stops the taking."""


class InboxEvent(ledger.Event):
    """What all entries have.

    Attributes:
        batch: the file's name, or REPO@REVISION.
        batch_digest: SHA-256 of its bytes, or of that name and the settings it was read with.
    """

    batch: str
    batch_digest: str
    who: str
    at: str


class BatchTaken(InboxEvent):
    """A batch is in data/.

    Attributes:
        before, after: what data.dvc named.
        groups, pairs: that data/ then holds.
    """

    event: Literal["taken"] = "taken"
    before: str | None
    after: str
    groups: int
    pairs: int


class BatchRefused(InboxEvent):
    """A batch can't be used as it is; data/ is as it was."""

    event: Literal["refused"] = "refused"
    reason: str


InboxEntry = Annotated[BatchTaken | BatchRefused, Field(discriminator="event")]
_KINDS: TypeAdapter[InboxEntry] = TypeAdapter(InboxEntry)


@dataclass(frozen=True)
class Batch:
    """Something to read: its name, what tells it from others, and the settings that read it."""

    name: str
    content: str
    settings: Settings


@dataclass(frozen=True)
class Taken:
    """What came of an inbox.

    Attributes:
        entries: of this time, in order.
        known: how many batches had been taken or refused before.
        difference: between data/ before and after; None where nothing was taken, or before there was nothing.
    """

    entries: tuple[InboxEntry, ...]
    known: int
    difference: Difference | None

    def render(self) -> str:
        """For people."""
        lines = [_words(entry) for entry in self.entries]
        if not lines:
            lines = [f"nothing new: {self.known:,} batches were seen before" if self.known else "the inbox is empty"]
        return "\n".join([*lines, *([self.difference.render()] if self.difference else [])])


def ledger_file(root: Path) -> Path:
    """Where it is written what was taken."""
    return runs.folder_of(root) / "ledger" / "inbox.jsonl"


def read(root: Path) -> list[InboxEntry]:
    """All entries, oldest first.

    Raises:
        LedgerError: the chain is broken.
    """
    return ledger.read_events(ledger_file(root), _KINDS)


def take(
    root: Path, settings: Settings, folder: Path | None = None, *, revision: str | None = None, again: bool = False
) -> Taken:
    """Bring what is new into data/, batch by batch.

    Args:
        folder: files of the settings' source, taken in the order of their names; hidden ones are still being written.
        revision: of the settings' hub data set instead.
        again: try batches that were refused before, too.

    Raises:
        SettingsError: the settings' source reads no files, or has no revisions.
        BusyError: another process is at it.
        PipelineError: DVC or git refused; what was taken until then stays.
    """
    root = root.resolve()
    with lease.hold(lease.folder_of(root), "inbox", "the taking of an inbox"):
        seen = {entry.batch_digest for entry in read(root) if isinstance(entry, BatchTaken) or not again}
        batches = _revision(settings, revision) if revision is not None else _files(settings, folder or root / "inbox")
        scratch.clear(root)
        fresh = [batch for batch in batches if batch.content not in seen]
        if not fresh:
            return Taken((), len(batches), None)
        entries, difference = _take(root, fresh)
        return Taken(tuple(entries), len(batches) - len(fresh), difference)


def _files(settings: Settings, folder: Path) -> list[Batch]:
    if "path" not in type(settings.data).model_fields:
        raise SettingsError(
            f"data.source {settings.data.source} reads no files, so nothing can come in by them; name the source of "
            "the files first: touchstone configure data=preference data.path=..."
        )
    if not folder.is_dir():
        raise SettingsError(f"there is no inbox {folder}; make it, or name another folder")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [Batch(path.name, _content(path), _reading(settings, path=str(path.resolve()))) for path in paths]


def _revision(settings: Settings, revision: str) -> list[Batch]:
    if "revision" not in type(settings.data).model_fields:
        raise SettingsError(f"data.source {settings.data.source} has no revisions; name a hub data set first")
    chosen = _reading(settings, revision=revision)
    name = f"{settings.data.model_dump()['path']}@{revision}"
    return [Batch(name, digest_value({"name": name, "data": chosen.data.model_dump(mode="json")}), chosen)]


def _reading(settings: Settings, **changed: str) -> Settings:
    return settings.model_copy(update={"data": settings.data.model_copy(update=changed)})


def _content(path: Path) -> str:
    return digest_value(digest_folder(path)) if path.is_dir() else digest_file(path)


def _take(root: Path, batches: Sequence[Batch]) -> tuple[list[InboxEntry], Difference | None]:
    """Read and check each batch in a worktree, and bring those that are sound into data/."""
    entries: list[InboxEntry] = []
    with _worktree(root) as place:
        # What there is now, with what the stages make of it.
        copies, stages = place.parent / "copies", graph.read(place / "dvc.yaml", place / "params.yaml")
        copies.mkdir()
        has_data = (place / "data").is_dir()
        if has_data:
            _check(place, stages, copies)
            shutil.copytree(place / "build", copies / "before")
        for batch in batches:
            before = dvc.pointer_hash(place / data.POINTER)
            shutil.rmtree(copies / "data", ignore_errors=True)
            if has_data:
                shutil.copytree(place / "data", copies / "data")
            try:
                summary = importing.import_source(batch.settings, root, place / "data")
                dvc.add(place, "data")
                _check(place, stages, copies)
            except REFUSING as error:
                _restore(place, copies, before)
                entries.append(_enter(root, BatchRefused(reason=str(error), **_about(batch))))
                continue

            # It is sound: the checkout's data/ follows, and its pointer.
            write_folder(root / "data", lambda empty: _copy(place / "data", empty))
            dvc.add(root, "data")
            after = dvc.pointer_hash(root / data.POINTER)
            has_data = True
            batch_taken = BatchTaken(
                before=before, after=str(after), groups=summary.groups, pairs=summary.pairs, **_about(batch)
            )
            entries.append(_enter(root, batch_taken))

        # What all of them together have changed.
        was_taken = any(isinstance(entry, BatchTaken) for entry in entries)
        if not was_taken or not (copies / "before").is_dir():
            return entries, None
        _check(place, stages, copies)
        return entries, compare(copies / "before", place / "build")


@contextlib.contextmanager
def _worktree(root: Path) -> Iterator[Path]:
    """A private worktree of the checkout as it stands, with its data where there is any."""
    with stopped_by_sigterm(), scratch.worktree(root, workspace.snapshot(root)) as place:
        settings = settings_module.load(place / "params.yaml")
        if (root / "data").is_dir() or dvc.pointer_hash(place / data.POINTER) is not None:
            data.settle(root, place, settings, settings, clean=False)
            data.bring(root, place, settings)
        yield place


def _check(place: Path, stages: Sequence[Stage], logs: Path) -> None:
    """Run the stages up to the sets, as a run would: what they make comes from the cache later.

    Raises:
        StageError: one failed.
    """
    wanted = {name for output in (f"build/{GROUPS}", "build/splits") for name in _upstream(stages, output)}
    for stage in stages:
        if stage.name in wanted:
            dvc.repro(place, stage.name, log=logs / f"{stage.name}.log")


def _upstream(stages: Sequence[Stage], output: str) -> Iterator[str]:
    for stage in stages:
        for out in stage.outs:
            if out == output or out.startswith(f"{output}/"):
                yield from graph.upstream(stages, out)


def _restore(place: Path, copies: Path, before: str | None) -> None:
    """Put the worktree's data back to where it was before a batch."""
    shutil.rmtree(place / "data", ignore_errors=True)
    if before is None:
        (place / data.POINTER).unlink(missing_ok=True)
        return
    shutil.copytree(copies / "data", place / "data")
    dvc.add(place, "data")


def _copy(source: Path, empty: Path) -> None:
    for path in source.iterdir():
        if path.name != ".gitignore":
            shutil.copyfile(path, empty / path.name)


class _About(TypedDict):
    """Of a batch, and who brought it when: `InboxEvent`'s fields."""

    batch: str
    batch_digest: str
    who: str
    at: str


def _about(batch: Batch) -> _About:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"batch": batch.name, "batch_digest": batch.content, "who": getpass.getuser(), "at": now}


def _enter(root: Path, entry: InboxEntry) -> InboxEntry:
    sys.stderr.write(_words(entry) + "\n")
    return ledger.append_event(ledger_file(root), _KINDS, entry)


def _words(entry: InboxEntry) -> str:
    if isinstance(entry, BatchRefused):
        return f"refused {entry.batch}: {entry.reason}"
    if entry.before == entry.after:
        return f"taken   {entry.batch}: it holds nothing that data/ didn't"
    return f"taken   {entry.batch}: data.dvc {str(entry.before)[:12]} -> {entry.after[:12]}, {entry.groups:,} groups"
