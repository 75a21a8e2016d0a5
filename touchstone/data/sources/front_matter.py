"""Configurations of a data set that was cloned from the hub, in the front matter of its README.md.

    configs:
    - config_name: default
      data_files:
      - split: train
        path: data/train-*

They are honoured as the hub honours them. A README.md without them, or with some that aren't well-formed, says
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, TypeAdapter

from touchstone.errors import SourceError

FILE = "README.md"

_BLOCK = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)


class SplitFiles(BaseModel):
    """Files of a split, as a configuration lists them."""

    split: str
    path: str | list[str]


class Configuration(BaseModel):
    """A configuration; whatever else stands in it is for other programs."""

    config_name: str = "default"
    default: bool = False
    data_dir: str = "."
    data_files: str | list[SplitFiles] | list[str] | dict[str, str | list[str]] | None = None


def configuration(folder: Path, subset: str | None, path: str) -> Configuration | None:
    """The configuration that `subset` names, or the usual one; None where the folder has none.

    Args:
        path: the folder as the settings spell it, for messages.

    Raises:
        SourceError: the folder has others, or several of which none is the usual one.
    """
    configurations = _configurations(folder)
    if not configurations:
        return None
    names = ", ".join(entry.config_name for entry in configurations)
    if subset is not None:
        named = [entry for entry in configurations if entry.config_name == subset]
        if not named:
            raise SourceError(f"data.subset: {path} has no configuration {subset}; its configurations are {names}")
        return named[0]
    usual = [entry for entry in configurations if entry.default]
    usual = usual or [entry for entry in configurations if entry.config_name == "default"]
    if not usual and len(configurations) > 1:
        raise SourceError(
            f"data.subset: {path} has the configurations {names}; name one by data.subset, or its files by data.path"
        )
    return usual[0] if usual else configurations[0]


def split_files(chosen: Configuration, folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The splits of a configuration, each with those of the folder's files that its patterns match.

    Raises:
        SourceError: none of the patterns matches a file.
    """
    listed = chosen.data_files if chosen.data_files is not None else []
    patterns: dict[str, list[str]] = {}
    if isinstance(listed, dict):
        patterns = {split: _as_list(paths) for split, paths in listed.items()}
    else:
        for entry in [listed] if isinstance(listed, str) else listed:
            split, paths = ("train", entry) if isinstance(entry, str) else (entry.split, entry.path)
            patterns.setdefault(split, []).extend(_as_list(paths))
    splits = {split: _matching(paths, folder / chosen.data_dir, files) for split, paths in patterns.items()}
    if not any(splits.values()):
        raise SourceError(
            f"data.path: {FILE} of {folder.name} says where its splits lie ({', '.join(sorted(splits))}), and no such "
            f"file is there; fetch them, or name the files to read by data.path"
        )
    return {split: members for split, members in splits.items() if members}


def _configurations(folder: Path) -> list[Configuration]:
    try:
        match = _BLOCK.match((folder / FILE).read_text(encoding="utf-8"))
        described = yaml.safe_load(match[1]) if match else None
        listed = described.get("configs") if isinstance(described, dict) else None
        return TypeAdapter(list[Configuration]).validate_python(listed or [])
    except (OSError, ValueError, yaml.YAMLError):  # what pydantic raises is a ValueError
        return []


def _as_list(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else paths


def _matching(patterns: Sequence[str], base: Path, files: Sequence[Path]) -> list[Path]:
    """Those of the folder's files that a pattern matches, itself or by a folder around them; never one outside."""
    matches: set[Path] = set()
    for pattern in patterns:
        try:
            matches.update(base.glob(pattern))
        except (NotImplementedError, ValueError):  # an absolute path, or none at all
            continue
    return [file for file in files if file in matches or not matches.isdisjoint(file.parents)]
