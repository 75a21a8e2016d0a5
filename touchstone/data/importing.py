"""The import: a source's rows into `data/`, the pipeline's one input.

    data/groups.jsonl       one group per line
    data/quarantine.jsonl   rows that can't be read or used: file, line, reason
    data/source.json        where they come from, and how many

Importing twice changes nothing. Importing more of the same source, with the same settings but for where it lies and
how much of it is read, appends what is new, corrects what was judged anew, and leaves the rest (`known.py`); another
source, or less of the same file, takes its place. What smells of misreading stops the import (`suspicion.py`). Texts
are brought into one normal form (`hygiene.py`) and counted where that changed them. Nothing is merged or judged here:
that is validation's.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from touchstone.data.hygiene import clean_group
from touchstone.data.known import COUNTS, GROUPS, HISTORY, QUARANTINE, RECORD, Again, Known, read_record
from touchstone.data.reading import Reading, row
from touchstone.data.sources import about, hub, read_source
from touchstone.data.sources.columns import tally
from touchstone.data.sources.files import local_path
from touchstone.data.sources.rows import Quarantined
from touchstone.data.suspicion import Alarm, alarms, check
from touchstone.errors import QuarantineError, SourceError
from touchstone.groups import Group, judged_pairs, to_line
from touchstone.pages.terminal import wrapped
from touchstone.pages.text import percent
from touchstone.runtime.files import canonical_json, write_folder, write_json
from touchstone.runtime.progress import progress
from touchstone.settings import Settings
from touchstone.settings.data import Data, SandboxData


@dataclass(slots=True)
class ImportSummary:
    """What an import brought.

    Attributes:
        groups, completions: what `data/` then holds, as all the counts below say.
        comparisons: edges; with votes, one per vote.
        ties: edges that hold a tie.
        pairs: pairs of completions that somebody compared.
        normalised: groups whose texts were brought into normal form, by rule.
        quarantined: rows set aside, by reason.
        reading: what was read this time, new or not.
        again: what came of it, where `data/` held rows of the same source.
        alarms: what smells of misreading, is not expected, and did not stop the import.
        replaces: what `data/` held instead; None where there was nothing, or the same source.
    """

    source: str
    groups: int = 0
    completions: int = 0
    comparisons: int = 0
    pairs: int = 0
    ties: int = 0
    normalised: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    again: Again | None = None
    alarms: list[Alarm] = field(default_factory=list)
    replaces: str | None = None

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

    def render(self) -> str:
        """What was understood, in one screen, for people."""
        lines = ["\n".join(wrapped(str(self), later="  ")), self.reading.render()]
        lines += [row("read again", str(self.again))] if self.again else []
        lines += [row("replaces", self.replaces)] if self.replaces else []
        lines += [row("alarm", str(alarm)) for alarm in self.alarms]
        return "\n".join(lines)

    def count(self, group: Group, rules: Sequence[str] = (), sign: int = 1) -> None:
        """Add a group, or take it away; `rules` are those that changed its texts."""
        self.groups += sign
        self.completions += sign * len(group.completions)
        self.comparisons += sign * len(group.comparisons)
        self.pairs += sign * len(judged_pairs(group))
        self.ties += sign * sum(edge.ties > 0 for edge in group.comparisons)
        for rule in rules:
            self.normalised[rule] = self.normalised.get(rule, 0) + sign

    def set_aside(self, reason: str) -> None:
        """Add a row that can't be used."""
        self.quarantined[reason] = self.quarantined.get(reason, 0) + 1


def import_source(settings: Settings, root: Path, target: Path, earlier: Path | None = None) -> ImportSummary:
    """Read the source into `target` (the project's data/), with a progress bar; returns what `target` then holds.

    Args:
        root: where relative paths in the settings count from.
        earlier: what the rows are added to, where it holds the same source; `target` unless given.

    Raises:
        SourceError: the source is missing, damaged, empty, or can't be reached.
        QuarantineError: more rows were set aside than importing.max_quarantine_share.
        SuspicionError: what was understood smells of misreading, and importing.suspicion is `stop`.

    Any of them leaves `target` as it was.
    """
    data = _pinned(settings.data, root)
    portable = _portable(data)
    known = Known.read(earlier or target, portable, whole=settings.importing.replace)
    summaries = []

    def fill(folder: Path) -> None:
        read, added = _read(data, root, folder, known)
        # Before the folder takes its place: whatever is wrong, nothing changes.
        _check(read, settings.importing.max_quarantine_share)
        unexpected = check(read.reading, data, settings.importing)
        summary = read if known is None else _merge(folder, known, read, added)
        summary.alarms = unexpected
        summary.replaces = _replaced(earlier or target) if known is None else None
        summaries.append(summary)
        record = {"source": data.source, "about": asdict(about(data)), "data": portable}
        counts = {name: getattr(summary, name) for name in COUNTS}
        # Left out where there is nothing to say: a first import of clean rows is the same bytes wherever it is made.
        raised = [] if settings.importing.suspicion == "off" else alarms(read.reading, data)
        remarks = {
            HISTORY: known.history() if known else [],
            "alarms": [key for alarm in raised for key in alarm.keys],
        }
        remarks = {name: remark for name, remark in remarks.items() if remark}
        write_json(folder / RECORD, {**record, "counts": counts, **remarks})

    write_folder(target, fill)
    return summaries[0]


def _read(data: Data, root: Path, folder: Path, known: Known | None) -> tuple[ImportSummary, ImportSummary]:
    """Write the groups that aren't known, or all where the file is the whole truth, and every row set aside.

    Returns what was read, and what of it was written.

    Raises:
        SourceError: as `import_source`.
    """
    read, added = ImportSummary(source=data.name), ImportSummary(source=data.name)
    writes_all = known is None or known.again.replaced
    with (
        tally() as read.reading.columns,
        (folder / GROUPS).open("w", encoding="utf-8", newline="\n") as groups,
        (folder / QUARANTINE).open("w", encoding="utf-8", newline="\n") as quarantine,
    ):
        for item in progress(read_source(data, root), f"import {data.name}", _expected(data)):
            if isinstance(item, Quarantined):
                read.set_aside(item.reason)
                read.reading.set_aside(item)
                quarantine.write(canonical_json(asdict(item)) + "\n")
                continue
            group, rules = clean_group(item)
            line = to_line(group)
            read.count(group, rules)
            read.reading.add(group)
            is_new = known is None or known.is_new(line, group)
            if is_new or writes_all:
                groups.write(line)
            if is_new and not writes_all:
                added.count(group, rules)
    return read, read if writes_all else added


def _merge(folder: Path, known: Known, read: ImportSummary, added: ImportSummary) -> ImportSummary:
    """Lay what `data/` held under what was written; returns what there is then."""
    held = ImportSummary(source=read.source, **known.counts)
    with _under(folder / GROUPS) as (new, merged):
        for group, rest in known.lay_under(new, merged):
            held.count(group, sign=-1)
            if rest is not None:
                held.count(rest)
    with _under(folder / QUARANTINE) as (new, merged):
        quarantined = Counter(known.lay_quarantine_under(new, merged))
    if known.again.replaced:
        return replace(read, again=known.again)
    return ImportSummary(
        source=read.source,
        groups=held.groups + added.groups,
        completions=held.completions + added.completions,
        comparisons=held.comparisons + added.comparisons,
        pairs=held.pairs + added.pairs,
        ties=held.ties + added.ties,
        normalised=dict(Counter(held.normalised) + Counter(added.normalised)),
        quarantined=dict(quarantined),
        reading=read.reading,
        again=known.again,
    )


@contextlib.contextmanager
def _under(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A file to read, and one to write that takes its place."""
    merged = path.with_name(f".{path.name}.merged")
    with path.open("rb") as old, merged.open("wb") as file:
        yield old, file
    merged.replace(path)


def _replaced(folder: Path) -> str | None:
    """What an import puts something else in place of."""
    record = read_record(folder)
    return None if record is None else f"{record['counts'].get('groups', 0):,} groups of {record['data'].get('name')}"


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


def _check(summary: ImportSummary, max_share: float) -> None:
    lost, examples = sum(summary.quarantined.values()), summary.reading.examples
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
            f"({percent(summary.quarantine_share)}, allowed {percent(max_share)}): {reasons}. Mend the source"
            + (", or raise importing.max_quarantine_share" if summary.groups else ", or the settings that read it")
        )
