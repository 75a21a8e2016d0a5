"""Where rows lie: a local file, a local folder, or a data set on the Hugging Face hub.

A file that can't be read is a `SourceError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from touchstone.data.sources import hub
from touchstone.data.sources.columns import tallied
from touchstone.data.sources.folders import data_files
from touchstone.data.sources.formats import file_rows, is_data
from touchstone.data.sources.rows import Quarantined, RawRow
from touchstone.errors import SourceError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@tallied
def raw_rows(
    path: str,
    root: Path,
    *,
    split: str | None = None,
    subset: str | None = None,
    folder: str | None = None,
    revision: str | None = None,
    usual_split: str | None = None,
) -> Iterator[RawRow | Quarantined]:
    """Rows of a local file, of a local folder, or of a hub data set, one at a time.

    Args:
        path: see `local_path`.
        root: where relative paths count from.
        split: the split to read of a folder that has splits (see `folders.data_files`), or of a hub data set; None
            reads all of a folder, and `train` on the hub.
        subset: the configuration, on the hub or of a folder that was cloned from it.
        folder: the part to read of a hub data set, or of a folder that has such a part.
        revision: the hub commit, branch or tag.
        usual_split: the split that None stands for in a folder that has it.

    Raises:
        SourceError: nothing lies there, a file is empty or damaged, or the hub can't be reached.
    """
    local = local_path(path, root)
    if local is None:
        examples = hub.examples(path, split=split or "train", subset=subset, folder=folder, revision=revision)
        for number, values in enumerate(examples, start=1):
            yield RawRow(path, number, values)
        return
    part = local / folder if folder is not None and (local / folder).is_dir() else local
    for file in data_files(part, path, split, subset=subset, usual_split=usual_split):
        yield from file_rows(file, file.relative_to(local).as_posix() if local.is_dir() else file.name)


def local_rows(path: str, root: Path) -> Iterator[RawRow | Quarantined]:
    """Rows of a local file or folder, for formats that a hub data set would need a pinned revision for.

    Raises:
        SourceError: nothing lies there, or a file is empty or damaged.
    """
    if local_path(path, root) is None:
        raise SourceError(f"data.path: {path} is no local file or folder; download it and name where it lies")
    yield from raw_rows(path, root)


def local_path(path: str, root: Path) -> Path | None:
    """The file or folder that `path` names, or None when it is a hub id.

    What exists (relative to `root`) wins; else `org/name` is a hub id, unless it begins with `.`, `/` or `~` or ends
    like a data file.

    Raises:
        SourceError: it is neither.
    """
    candidate = root / Path(path).expanduser()
    if candidate.exists():
        return candidate
    if path.startswith((".", "/", "~")) or is_data(path) or not _HUB_ID.fullmatch(path):
        raise SourceError(
            f"data.path: {path} does not exist (relative paths count from the project's root) and is no hub id"
        )
    return None
