"""Which files of a folder are read: its configurations, its splits, and what in it is no data.

A folder may be a clone of a data set on the hub, what `datasets.save_to_disk` wrote, or somebody's own files. Its
splits are, in this order:

1. those of the configurations in the front matter of its README.md, as the hub reads them: `data.subset` names one;
2. the names of files and folders that are called after a split. A file's split is its name without what numbers it:
   `train`, `train_prefs` (also as train_prefs-00000-of-00001), `test_sft`; of `pairs-test` and `pairs_test` it is
   `test`. A file without one has that of the folder around it. In a folder `data` every numbered file is a split, and
   every folder that `save_to_disk` wrote is one.

Half of a folder may be somebody's held-out half: once it has splits, only the wanted one is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from touchstone.data.sources import front_matter
from touchstone.data.sources.formats import READABLE, is_data, stem_of
from touchstone.errors import SourceError

DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""What libraries write beside data, to describe them."""
FAMILIES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words that name a split, and the split that they mean: the hub's own list."""

_WORD = rf"(?P<word>{'|'.join(sorted(FAMILIES, key=len, reverse=True))})"
_BEGINS = re.compile(rf"(?P<name>{_WORD}(?![a-z])\w*?)(?:_?\d+)*(?!\w)", re.IGNORECASE)
_ENDS = re.compile(rf"[-._ ](?P<name>{_WORD})(?:[-._ ]?\d+)*$", re.IGNORECASE)
_LEFT_BEHIND = re.compile(r"cache-\w+\.arrow")
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
_NUMBER = re.compile(r"[-._ ]?\d+$")


def data_files(
    local: Path, path: str, split: str | None, *, subset: str | None = None, usual_split: str | None = None
) -> list[Path]:
    """The files to read, in the order of their names: `local` itself, or those below it that are wanted.

    Args:
        path: as the settings spell it, for messages.
        split: wanted of a folder that has splits, by its whole name; else by the word that it begins with, where only
            one does (`train` for `train_prefs`). None wants all files.
        subset: the folder's configuration; without configurations, the folder in it.
        usual_split: what None means in a folder that has such a split.

    Raises:
        SourceError: there are none, the folder has no such configuration or split, or it holds a link (it may lead
            outside) or what can't be read twice.
    """
    if local.is_file():
        if not is_data(local.name):
            raise SourceError(f"data.path: {path} is none of {READABLE}")
        return [local]
    if not local.is_dir():
        raise SourceError(f"data.path: {path} is neither a file nor a folder but a device, a pipe or a socket")
    files = _files_within(local, path)
    if not files:
        raise SourceError(f"data.path: {path} is empty: the folder holds no {READABLE}")

    # Splits: by the folder's own configuration, or by names.
    configuration = front_matter.configuration(local, subset, path)
    if configuration is not None and configuration.data_files is not None:
        splits = front_matter.split_files(configuration, local, files)
        files = sorted({file for members in splits.values() for file in members})
        labels: dict[str, list[Path]] = {}
    else:
        part = subset if configuration is None else configuration.data_dir
        files = _files_of_part(files, local, part, path)
        splits, labels = _by_name(files, local, _split_of), _by_name(files, local, _label)

    # The wanted one: exactly as it is named, or the only one of its kind.
    if split is None and usual_split is not None and any(_kind(name) == usual_split for name in splits):
        split = usual_split
    if split is None:
        return files
    exact = {
        file
        for name, members in (*splits.items(), *labels.items())
        if name.lower() == split.lower()
        for file in members
    }
    if exact or not splits:
        return sorted(exact) or files
    return _only_of_kind(splits, split, path)


def _files_within(local: Path, path: str) -> list[Path]:
    """The data files of a folder; what is hidden is none of them."""
    below = [entry for entry in local.rglob("*") if not _is_hidden(entry.relative_to(local))]
    entries = sorted(entry for entry in below if entry.is_symlink() or not entry.is_dir())
    for entry in entries:
        if entry.is_symlink() or (is_data(entry.name) and not entry.is_file()):
            raise SourceError(
                f"data.path: {path} holds {entry.relative_to(local).as_posix()}, which is a link, a device, a pipe or "
                f"a socket; put the file itself there (`cp -rL` copies what links lead to)"
            )
    states = [entry for entry in entries if entry.name == "state.json"]
    saved = {state.parent: names for state in states if (names := _saved_files(state, path))}
    return [
        entry
        for entry in entries
        if is_data(entry.name)
        and entry.name.lower() not in DESCRIPTIONS
        and not _LEFT_BEHIND.fullmatch(entry.name)
        and (entry.suffix != ".arrow" or entry.name in saved.get(entry.parent, {entry.name}))
    ]


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _saved_files(state: Path, path: str) -> set[str]:
    """The files of a data set that `save_to_disk` wrote; others beside them are left from before, or a cache's."""
    try:
        names = {entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]}
    except (ValueError, KeyError, TypeError):
        return set()
    if missing := sorted(name for name in names if not (state.parent / name).is_file()):
        raise SourceError(f"data.path: {path} is not whole: {missing[0]} is missing; save the data set again")
    return names


def _files_of_part(files: list[Path], local: Path, part: str | None, path: str) -> list[Path]:
    """The files of the folder within that a subset or a configuration names; all of them where nothing is named, or
    where there are no folders within."""
    if part in (None, "default", "."):
        return files
    within = [file for file in files if local / str(part) in file.parents]
    if not within and all(file.parent == local for file in files):
        return files  # somebody's download of that part alone
    if not within:
        raise SourceError(
            f"data.subset: {path} has no configuration {part}, neither in its README.md nor as a folder with data; "
            f"leave data.subset out, or name the files to read by data.path"
        )
    return within


def _by_name(files: Sequence[Path], local: Path, name_of: Callable[[Path, Path], str | None]) -> dict[str, list[Path]]:
    """Files by what they are named after; those after nothing are left out."""
    named: dict[str, list[Path]] = {}
    for file in files:
        name = name_of(file, local)
        if name is not None:
            named.setdefault(name, []).append(file)
    return named


def _split_of(file: Path, local: Path) -> str | None:
    """The split that a file is named after, or a folder around it."""
    folders = file.parents[: len(file.relative_to(local).parts) - 1]
    stem = stem_of(file.name)
    if match := _BEGINS.match(stem) or _ENDS.search(_SHARD.sub("", stem)):
        return match["name"]
    if file.parent.name == "data" and _SHARD.search(stem):
        return _label(file, local)
    for folder in folders:
        if (folder / "state.json").is_file():
            return folder.name
        if match := _BEGINS.match(folder.name):
            return match["name"]
    return None


def _label(file: Path, _: Path) -> str:
    """A file's name without what numbers it."""
    return _NUMBER.sub("", _SHARD.sub("", stem_of(file.name)))


def _kind(split: str) -> str | None:
    """What the word means that a split's name begins with."""
    match = _BEGINS.match(split)
    return FAMILIES[match["word"].lower()] if match else None


def _only_of_kind(splits: Mapping[str, list[Path]], split: str, path: str) -> list[Path]:
    """The files of the only split of the wanted kind, where a kind is all that was asked for."""
    alike = [name for name in splits if split.lower() in FAMILIES and _kind(name) == FAMILIES[split.lower()]]
    if len(alike) == 1:
        return splits[alike[0]]
    raise SourceError(
        f"data.split: {path} has no split {split}; its splits are {', '.join(sorted(splits))}; "
        f"name one by data.split, or its files by data.path"
    )
