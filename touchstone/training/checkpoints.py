"""Checkpoints: folders that are either whole or passed over.

    folder/step-00000200-1f2e3d4c/      files, and manifest.json with the digest of each of them
    folder/.step-00000200-1f2e3d4c/     being written, or left behind by a process that was killed

A name is the step and the digest of what must match on resume, so runs with other settings never take, replace or
count one another's. Nothing here knows what the files hold; `training.state` does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from touchstone.errors import TrainingError
from touchstone.runtime.files import digest_file, digest_value, pretty_json, sync_folder

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        step: optimizer steps taken.
        inputs: what it was made from, by name; equal inputs and an equal step mean an equal checkpoint.
    """

    path: Path
    step: int
    inputs: dict[str, Any]


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from training with the same folder; at the end the folder goes if no checkpoint is in it.

    Raises:
        TrainingError: a living process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", thread_local=False, is_singleton=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrainingError(f"another training keeps its checkpoints in {folder}; wait for it, or stop it") from None
    try:
        yield
    finally:
        if folder.exists() and not _names(folder):
            shutil.rmtree(folder)
        lock.release()


def write(folder: Path, step: int, inputs: dict[str, Any], fill: Callable[[Path], None], *, keep: int) -> Path:
    """Write a checkpoint; whatever stops this, the ones before it stay usable until it is complete.

    Args:
        inputs: what must match on resume, by name; values are JSON.
        fill: writes the files into an empty folder.
        keep: how many checkpoints with these inputs to leave, this one included; older ones go once it is verified.

    Raises:
        OSError: it can't be written; what was there is untouched.
        TrainingError: it reads back differently; what was there is untouched.
    """
    name = f"step-{step:08d}-{digest_value(inputs)[:8]}"
    partial, final = folder / f".{name}", folder / name
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        files = {path.name: _synced(path) for path in sorted(partial.iterdir())}
        facts = {"step": step, "inputs": inputs, "files": files}
        with (partial / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(pretty_json({**facts, "digest": digest_value(facts)}))
        _synced(partial / MANIFEST)
        sync_folder(partial)
        if final.exists():  # one that was passed over as damaged: a usable one of this step would have been resumed
            _discard(final)
        partial.rename(final)
        sync_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    read(final)
    same_inputs = [path for path in _names(folder) if path.name.endswith(name[-9:])]
    older = [path for path in same_inputs if _step(path) < step]
    for old in {*same_inputs} - {final, *older[: keep - 1]}:
        _discard(old)
    return final


def read(path: Path) -> Checkpoint:
    """A checkpoint whose every byte is the one that was written.

    Raises:
        TrainingError: it is incomplete or damaged; names the file.
    """
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        facts = json.loads(text)
        stated = facts.pop("digest")
        if stated != digest_value(facts) or text != pretty_json({**facts, "digest": stated}):
            raise ValueError("it is not what was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"checkpoint {path.name} is incomplete: {MANIFEST}: {error}") from None
    for name, fact in facts["files"].items():
        file = path / name
        if not file.is_file():
            raise TrainingError(f"checkpoint {path.name} is incomplete: {name} is missing")
        if file.stat().st_size != fact["bytes"] or digest_file(file) != fact["sha256"]:
            raise TrainingError(f"checkpoint {path.name} is damaged: {name} is not what was written")
    return Checkpoint(path, facts["step"], facts["inputs"])


def newest(folder: Path, inputs: dict[str, Any]) -> Checkpoint | None:
    """The complete checkpoint with these inputs that has most steps; None if there is none.

    Those that are passed over are named in the log with the reason. What killed processes left half-written or
    half-deleted is removed.
    """
    for left in folder.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left)
    names = _names(folder)
    for path in names:
        try:
            found = read(path)
        except TrainingError as error:
            log.warning("%s; it is passed over", error)
            continue
        if found.inputs == inputs:
            return found
        log.warning("checkpoint %s is passed over: %s", path.name, _difference(found.inputs, inputs))
    if names:
        log.warning("no checkpoint in %s can be resumed: training starts over", folder)
    return None


def clear(folder: Path) -> None:
    """Remove every checkpoint: what they were for is done."""
    for path in [*_names(folder), *(left for left in folder.glob(".*") if left.is_dir())]:
        shutil.rmtree(path)


def _names(folder: Path) -> list[Path]:
    """Folders named as checkpoints, most steps first: by number, since clocks jump."""
    folders = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(folders, key=lambda path: (-_step(path), path.name))


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def _synced(path: Path) -> dict[str, Any]:
    """Ask the file system to keep a file; its size and digest."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest_file(path)}


def _discard(path: Path) -> None:
    """Remove a checkpoint so that at no moment half of it looks like a whole one."""
    hidden = path.with_name(f".removed-{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)


def _difference(made: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, at most five names."""
    names = [name for name in sorted({*made, *now}) if made.get(name) != now.get(name)]
    changes = [f"{name} was {_short(made.get(name))} and is {_short(now.get(name))}" for name in names[:5]]
    return "; ".join(changes) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:12]}..."
