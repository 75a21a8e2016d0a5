"""What a dvc.lock says of where things came from, checked against the bytes that are still here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from touchstone.errors import PipelineError
from touchstone.pipeline import dvc, runs, workspace
from touchstone.pipeline.hashes import hash_file, hash_folder

Lock = dict[str, Any]
"""Stages of a dvc.lock, by name."""


@dataclass(frozen=True)
class Outputs:
    """How many of a lock's outputs are here as they were recorded, which are not here, and what is wrong."""

    sound: int
    absent: tuple[str, ...]
    faults: tuple[str, ...]


def read_lock(path: Path) -> Lock:
    """The stages of a dvc.lock.

    Raises:
        PipelineError: it is no such file.
    """
    try:
        stages: Lock = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        return {name: {kind: _hashes(stage, kind) for kind in ("deps", "outs")} for name, stage in stages.items()}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        raise PipelineError(f"{path} is no dvc.lock; restore it from a copy") from None


def hash_of(lock: Lock, path: str) -> str | None:
    """The hash that a lock gives an input or output; None if it doesn't name it."""
    for kind in ("outs", "deps"):
        for stage in lock.values():
            if path in stage[kind]:
                return str(stage[kind][path])
    return None


def unlinked(lock: Lock) -> list[str]:
    """Inputs of a stage that are not what an earlier stage of the same lock gave."""
    outputs = {path: md5 for stage in lock.values() for path, md5 in stage["outs"].items()}
    return [
        f"dvc.lock: {name} took {path} as {md5[:12]}, and it was made as {outputs[path][:12]}"
        for name, stage in lock.items()
        for path, md5 in stage["deps"].items()
        if outputs.get(path, md5) != md5
    ]


def check_outputs(root: Path, lock: Lock) -> Outputs:
    """Hash the data and every output of a lock in DVC's cache again."""
    wanted = {path: md5 for stage in lock.values() for path, md5 in stage["outs"].items()}
    if data := hash_of(lock, "data"):
        wanted["data"] = data
    cache = dvc.cache_folder(root) / "files" / "md5"
    sound, absent, faults = 0, [], []
    for path, md5 in wanted.items():
        state = _look(cache, md5)
        if state is None:
            absent.append(path)
        elif state:
            faults.append(f"{path}: {state}")
        else:
            sound += 1
    return Outputs(sound, tuple(absent), tuple(faults))


def check_copies(folder: Path, lock: Lock) -> Outputs:
    """The copies of outputs that a run's folder keeps, against the lock."""
    sound, absent, faults = 0, [], []
    for path in runs.EVIDENCE:
        copy = folder / ("splits.json" if path.startswith("build/splits/") else Path(path).name)
        md5 = hash_of(lock, path)
        if md5 is None:
            continue
        if not copy.exists():
            absent.append(copy.name)
        elif (hash_folder(copy) if copy.is_dir() else hash_file(copy)) != md5:
            faults.append(f"{copy} is not the {path} that the run made")
        else:
            sound += 1
    return Outputs(sound, tuple(absent), tuple(faults))


def blob(root: Path, where: str) -> str | None:
    """Id of a file in git, as `commit:path`; None if this repository doesn't hold it."""
    try:
        return workspace.git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", where)
    except PipelineError:
        return None


def blob_of(root: Path, path: Path) -> str:
    """The id that git would give a file."""
    return workspace.git(root, "hash-object", "--no-filters", "--", str(path))


def _hashes(stage: Any, kind: str) -> dict[str, str]:
    return {entry["path"]: str(entry["md5"]) for entry in stage.get(kind, [])}


def _look(cache: Path, md5: str) -> str | None:
    """Empty where the cache holds what the hash names; None where it holds none or not all of it; else the fault."""
    path = cache / md5[:2] / md5[2:]
    if not path.is_file():
        return None
    if hash_file(path) != md5.removesuffix(".dir"):
        return f"{path} was changed after it was written"
    if not md5.endswith(".dir"):
        return ""
    inner = {entry["relpath"]: _look(cache, entry["md5"]) for entry in json.loads(path.read_text(encoding="utf-8"))}
    if faults := [f"{name}: {state}" for name, state in inner.items() if state]:
        return "; ".join(faults)
    return None if None in inner.values() else ""
