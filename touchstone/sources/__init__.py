"""Sources of comparisons: each reads its own format and yields groups.

`import_source` writes them to `data/`, the pipeline's one input:

    data/groups.jsonl       one group per line
    data/quarantine.jsonl   rows that can't be read or used: file, line, reason
    data/source.json        where they come from, and how many

Importing twice writes the same bytes. Nothing is merged or judged here: that is validation's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from touchstone.errors import QuarantineError, SourceError
from touchstone.files import canonical_json, write_folder, write_json
from touchstone.groups import Group, judged_pairs, to_line
from touchstone.settings import Settings
from touchstone.settings.data import Data, SandboxData
from touchstone.sources import hh_rlhf, hub, preference, sandbox, ukpconvarg1
from touchstone.sources.rows import About, Quarantined, local_path
from touchstone.stage import progress

__all__ = ["ImportSummary", "Quarantined", "Row", "import_source", "read_source"]

Row = Group | Quarantined


class _Source(Protocol):
    """What each module below has."""

    ABOUT: About

    def read(self, settings: Any, root: Path) -> Iterator[Row]:
        """Groups and quarantined rows, one at a time."""


_SOURCES: dict[str, _Source] = {
    "sandbox": sandbox,
    "preference": preference,
    "hh_rlhf": hh_rlhf,
    "ukpconvarg1": ukpconvarg1,
}


@dataclass(slots=True)
class ImportSummary:
    """What an import brought.

    Attributes:
        comparisons: edges; with votes, one per vote.
        ties: edges that hold a tie.
        pairs: pairs of completions that somebody compared.
        quarantined: rows set aside, by reason.
    """

    source: str
    groups: int = 0
    completions: int = 0
    comparisons: int = 0
    pairs: int = 0
    ties: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)

    @property
    def quarantine_share(self) -> float:
        """Rows set aside over all rows, where a kept row is a judged pair, or a group that nobody judged."""
        lost = sum(self.quarantined.values())
        return lost / (lost + max(self.pairs, self.groups, 1))

    def __str__(self) -> str:
        lost = sum(self.quarantined.values())
        return (
            f"{self.source}: {self.groups:,} groups, {self.completions:,} completions, "
            f"{self.comparisons:,} comparisons ({self.ties:,} with a tie), "
            f"{lost:,} rows set aside ({self.quarantine_share:.2%})"
        )


def read_source(data: Data, root: Path) -> Iterator[Row]:
    """Groups and quarantined rows of the source that the settings name, one at a time.

    Raises:
        SourceError: the source is missing, damaged, or can't be reached.
    """
    return _SOURCES[data.source].read(data, root)


def import_source(settings: Settings, root: Path, target: Path) -> ImportSummary:
    """Read the source and put `target` (the project's data/) in place of what was there, with a progress bar.

    Args:
        root: where relative paths in the settings count from.

    Raises:
        SourceError: the source is missing, damaged, empty, or can't be reached.
        QuarantineError: more rows were set aside than importing.max_quarantine_share.

    Either error leaves `target` as it was.
    """
    data = _pinned(settings.data, root)
    summary = ImportSummary(source=data.name)

    def fill(folder: Path) -> None:
        examples: dict[str, Quarantined] = {}
        reasons: Counter[str] = Counter()
        with (
            (folder / "groups.jsonl").open("w", encoding="utf-8", newline="\n") as groups,
            (folder / "quarantine.jsonl").open("w", encoding="utf-8", newline="\n") as quarantine,
        ):
            for row in progress(read_source(data, root), f"import {data.name}", _expected(data)):
                if isinstance(row, Quarantined):
                    quarantine.write(canonical_json(asdict(row)) + "\n")
                    reasons[row.reason] += 1
                    examples.setdefault(row.reason, row)
                else:
                    groups.write(to_line(row))
                    _count(summary, row)
        summary.quarantined = dict(sorted(reasons.items()))
        _check(summary, examples, settings.importing.max_quarantine_share)
        counts = {key: value for key, value in asdict(summary).items() if key != "source"}
        about = asdict(_SOURCES[data.source].ABOUT)
        record = {"source": data.source, "about": about, "data": _portable(data), "counts": counts}
        write_json(folder / "source.json", record)

    write_folder(target, fill)
    return summary


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


def _count(summary: ImportSummary, group: Group) -> None:
    summary.groups += 1
    summary.completions += len(group.completions)
    summary.comparisons += len(group.comparisons)
    summary.pairs += len(judged_pairs(group))
    summary.ties += sum(edge.ties > 0 for edge in group.comparisons)


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
            f"({summary.quarantine_share:.2%}, allowed {max_share:.2%}): {reasons}. Mend the source, or raise "
            f"importing.max_quarantine_share"
        )
