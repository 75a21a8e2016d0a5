"""The import: a source's rows into `data/`, the pipeline's one input.

    data/groups.jsonl       one group per line
    data/quarantine.jsonl   rows that can't be read or used: file, line, reason
    data/source.json        where they come from, and how many

Importing twice changes nothing. Importing more of the same source, with the same settings but for where it lies and
how much of it is read, appends what is new and leaves what was there; another source replaces it. Texts are brought
into one normal form (`hygiene.py`) and counted where that changed them. Nothing is merged or judged here: that is
validation's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from touchstone.data.hygiene import clean_group
from touchstone.data.sources import (
    about,
    hub,
    read_source,
)
from touchstone.data.sources.rows import Quarantined, local_path
from touchstone.errors import QuarantineError, SourceError
from touchstone.groups import Group, judged_pairs, to_line
from touchstone.runtime.files import canonical_json, write_folder, write_json
from touchstone.runtime.progress import progress
from touchstone.settings import Settings
from touchstone.settings.data import Data, SandboxData

FILES = ("groups.jsonl", "quarantine.jsonl")


@dataclass(slots=True)
class ImportSummary:
    """What an import brought.

    Attributes:
        comparisons: edges; with votes, one per vote.
        ties: edges that hold a tie.
        pairs: pairs of completions that somebody compared.
        normalised: groups whose texts were brought into normal form, by rule.
        quarantined: rows set aside, by reason.
    """

    source: str
    groups: int = 0
    completions: int = 0
    comparisons: int = 0
    pairs: int = 0
    ties: int = 0
    normalised: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)

    @property
    def quarantine_share(self) -> float:
        """Rows set aside over all rows, where a kept row is a judged pair, or a group that nobody judged."""
        lost = sum(self.quarantined.values())
        return lost / max(lost + max(self.pairs, self.groups), 1)

    def __str__(self) -> str:
        lost = sum(self.quarantined.values())
        return (
            f"{self.source}: {self.groups:,} groups, {self.completions:,} completions, "
            f"{self.comparisons:,} comparisons ({self.ties:,} with a tie), "
            f"{lost:,} rows set aside ({self.quarantine_share:.2%})"
        )


def import_source(settings: Settings, root: Path, target: Path) -> ImportSummary:
    """Read the source into `target` (the project's data/), with a progress bar; returns what `target` then holds.

    Args:
        root: where relative paths in the settings count from.

    Raises:
        SourceError: the source is missing, damaged, empty, or can't be reached.
        QuarantineError: more rows were set aside than importing.max_quarantine_share.

    Either error leaves `target` as it was.
    """
    data = _pinned(settings.data, root)
    before = _Before.read(target, data)
    summary = before.summary

    def fill(folder: Path) -> None:
        examples: dict[str, Quarantined] = {}
        read = ImportSummary(source=data.name)  # this time, new or not: what the share set aside is judged by
        before.copy(folder)
        with (
            (folder / "groups.jsonl").open("a", encoding="utf-8", newline="\n") as groups,
            (folder / "quarantine.jsonl").open("a", encoding="utf-8", newline="\n") as quarantine,
        ):
            for row in progress(read_source(data, root), f"import {data.name}", _expected(data)):
                if isinstance(row, Quarantined):
                    line = canonical_json(asdict(row)) + "\n"
                    _count_reason(read, row.reason)
                    examples.setdefault(row.reason, row)
                    if before.is_new(line):
                        quarantine.write(line)
                        _count_reason(summary, row.reason)
                else:
                    group, rules = clean_group(row)
                    line = to_line(group)
                    pairs = len(judged_pairs(group))
                    read.groups += 1
                    read.pairs += pairs
                    if before.is_new(line):
                        groups.write(line)
                        _count(summary, group, pairs, rules)
        # Before the folder takes its place: with too many rows set aside nothing changes.
        _check(read, examples, settings.importing.max_quarantine_share)
        counts = {key: value for key, value in asdict(summary).items() if key != "source"}
        record = {"source": data.source, "about": asdict(about(data.source)), "data": _portable(data)}
        write_json(folder / "source.json", {**record, "counts": counts})

    write_folder(target, fill)
    return summary


class _Before:
    """What `data/` held before an import of the same source.

    Attributes:
        summary: its counts, to be added to.
    """

    def __init__(self, folder: Path | None, summary: ImportSummary) -> None:
        self.summary = summary
        self._folder = folder
        self._lines: Counter[bytes] = Counter()
        for path in [folder / name for name in FILES] if folder is not None else []:
            with path.open("rb") as file:
                self._lines.update(map(_line_digest, file))

    @classmethod
    def read(cls, target: Path, data: Data) -> Self:
        """Nothing where `target` holds another source, or the same with other settings."""
        try:
            record = json.loads((target / "source.json").read_text(encoding="utf-8"))
            same = _comparable(record["data"]) == _comparable(_portable(data))
            summary = ImportSummary(source=data.name, **record["counts"])
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same or not all((target / name).is_file() for name in FILES):
            return cls(None, ImportSummary(source=data.name))
        return cls(target, summary)

    def copy(self, folder: Path) -> None:
        """Put the files as they were into a new folder."""
        if self._folder is not None:
            for name in FILES:
                shutil.copyfile(self._folder / name, folder / name)

    def is_new(self, line: str) -> bool:
        """Whether a line goes beyond those that were there; each of them answers for one."""
        digest = _line_digest(line.encode("utf-8"))
        if self._lines[digest] > 0:
            self._lines[digest] -= 1
            return False
        return True


def _pinned(data: Data, root: Path) -> Data:
    """The settings with a hub data set's revision resolved to its commit, so that what was read is on record."""
    if "revision" in type(data).model_fields and local_path(data.path, root) is None:  # type: ignore[union-attr]
        return data.model_copy(update={"revision": hub.commit(data.path, data.revision)})  # type: ignore[union-attr]
    return data


def _portable(data: Data) -> dict[str, Any]:
    """The settings as they would be on any machine: of an absolute path only the last part."""
    values = data.model_dump(mode="json")
    if Path(values.get("path", "")).is_absolute():
        values["path"] = Path(values["path"]).name
    return values


def _expected(data: Data) -> int | None:
    """Rows to come, where they are known: for the progress bar."""
    return data.groups if isinstance(data, SandboxData) else getattr(data, "limit", None)


def _comparable(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what a row becomes, without where the rows lie and how many are read."""
    return {key: value for key, value in values.items() if key not in ("path", "revision", "limit", "groups")}


def _line_digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()


def _count(summary: ImportSummary, group: Group, pairs: int, rules: Sequence[str]) -> None:
    summary.groups += 1
    summary.completions += len(group.completions)
    summary.comparisons += len(group.comparisons)
    summary.pairs += pairs
    summary.ties += sum(edge.ties > 0 for edge in group.comparisons)
    for rule in rules:
        summary.normalised[rule] = summary.normalised.get(rule, 0) + 1


def _count_reason(summary: ImportSummary, reason: str) -> None:
    summary.quarantined[reason] = summary.quarantined.get(reason, 0) + 1


def _check(summary: ImportSummary, examples: dict[str, Quarantined], max_share: float) -> None:
    lost = sum(summary.quarantined.values())
    if not lost and not summary.groups:
        raise SourceError(f"{summary.source} is empty: it holds no rows")
    if not summary.groups or summary.quarantine_share > max_share:
        by_count = sorted(summary.quarantined.items(), key=lambda item: (-item[1], item[0]))
        reasons = "; ".join(
            f"{reason}: {count} (first {examples[reason].file}, line {examples[reason].line})"
            for reason, count in by_count[:5]
        )
        raise QuarantineError(
            f"{lost} of {lost + max(summary.pairs, summary.groups)} rows of {summary.source} can't be used "
            f"({_percent(summary.quarantine_share)}, allowed {_percent(max_share)}): {reasons}. Mend the source"
            + (", or raise importing.max_quarantine_share" if summary.groups else ", or the settings that read it")
        )


def _percent(share: float) -> str:
    """A share in percent, without zeros that say nothing."""
    return f"{100 * share:.4g}%"
