"""Importing again: what `data/` held of the same source, and what becomes of it.

A group that comes again is known and stays as it is. A judgement of the same prompt and completions, in whatever
order, by the same annotator takes the place of what it corrects; all unnamed annotators count as one. What the file
no longer has stays, unless the file is the whole truth. Twins within one file are two rows, here as there.

Of each group that was there, and of each judgement that is new, a digest is held; never a text.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from touchstone.groups import Group, from_line, to_line
from touchstone.runtime.files import canonical_json

GROUPS = "groups.jsonl"
QUARANTINE = "quarantine.jsonl"
RECORD = "source.json"
COUNTS = ("groups", "completions", "comparisons", "pairs", "ties", "normalised", "quarantined")
"""What `source.json` counts."""
HISTORY = "imported_again"
"""Where `source.json` says what each import again has changed; it isn't there before the first of them."""


@dataclass(slots=True)
class Again:
    """What came of an import again, in groups.

    Attributes:
        read: groups of the file: known, new and corrected ones.
        corrected: those of them that took the place of an earlier judgement.
        gone: earlier groups that the file no longer has, wholly or in part, and that nothing corrects.
        replaced: whether these have gone from `data/` too.
    """

    read: int = 0
    known: int = 0
    new: int = 0
    corrected: int = 0
    gone: int = 0
    replaced: bool = False

    @property
    def changed(self) -> bool:
        """Whether `data/` holds other groups than before."""
        return bool(self.new or self.corrected or (self.gone and self.replaced))

    def __str__(self) -> str:
        parts = [f"{self.read:,} read", f"{self.known:,} known", f"{self.new:,} new"]
        parts += [f"{self.corrected:,} corrected"] if self.corrected else []
        parts += [f"{self.gone:,} no longer in the file"] if self.gone else []
        fate = "" if not self.gone else " (removed)" if self.replaced else " (kept; --replace removes them)"
        return ", ".join(parts) + fate


class Known:
    """What `data/` held before an import of the same source.

    Attributes:
        counts: as its `source.json` has them.
        again: what has come of this import so far.
    """

    def __init__(self, folder: Path, record: dict[str, Any], data: dict[str, Any], *, whole: bool) -> None:
        """
        Args:
            record: the folder's `source.json`.
            data: the settings of this import, as `source.json` will have them.
            whole: the file is the whole truth.
        """
        self.counts: dict[str, Any] = record["counts"]
        self.again = Again(replaced=whole)
        self._folder, self._data = folder, data
        self._history: list[dict[str, Any]] = record.get(HISTORY, [])
        self._last_path = record["data"].get("path")
        with (folder / GROUPS).open("rb") as lines:
            self._lines = Counter(map(_digest, lines))
        self._judgements: dict[bytes, int] = {}
        self._unknown = 0

    @classmethod
    def read(cls, folder: Path, data: dict[str, Any], *, whole: bool = False) -> Self | None:
        """None where `folder` holds nothing, another source, or what `is_more` doesn't call less of the same.

        Args:
            data, whole: see `__init__`.
        """
        record = read_record(folder)
        if record is None or not is_more(record["data"], data):
            return None
        return cls(folder, record, data, whole=whole)

    def is_new(self, line: str, group: Group) -> bool:
        """Whether a group of this import goes beyond those that were there; each of them answers for one."""
        self.again.read += 1
        digest = _digest(line.encode())
        if self._lines[digest] > 0:
            self._lines[digest] -= 1
            self.again.known += 1
            return False
        for judgement in [_content(group), *_judgements(group)]:
            self._judgements[judgement] = self._unknown
        self._unknown += 1
        return True

    def lay_under(self, new: BinaryIO, merged: BinaryIO) -> Iterator[tuple[Group, Group | None]]:
        """Write the groups that stay, and after them the new ones; yields each that changes or goes, with what stays.

        What stays of a group that is corrected in part keeps its place: the checks make one group of it and of the
        correction.

        Args:
            new: the groups of this import that are not known, or all where it is the whole truth.
            merged: what `data/` shall hold.
        """
        correcting: set[int] = set()
        absent = +self._lines  # those that no group of this import answered for
        with (self._folder / GROUPS).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                digest = _digest(line) if absent else b""
                if absent[digest] <= 0:
                    if not self.again.replaced:
                        merged.write(line)
                    continue
                absent[digest] -= 1
                group = from_line(line, number, GROUPS)
                corrections = {self._judgements[key] for key in _judgements(group) if key in self._judgements}
                correcting |= corrections
                rest = self._uncorrected(group) if corrections else group
                self.again.gone += rest is not None
                if self.again.replaced or rest is None:
                    yield group, None
                elif rest is group:
                    merged.write(line)
                else:
                    merged.write(to_line(rest).encode())
                    yield group, rest
            shutil.copyfileobj(new, merged)
        self.again.corrected = len(correcting)
        self.again.new = self._unknown - len(correcting)

    def lay_quarantine_under(self, new: BinaryIO, merged: BinaryIO) -> Iterator[str]:
        """Write the rows that had been set aside, and after them those of this import that hadn't; yields the reasons.

        Rows of the file that the last import read are decided anew: only this import's are written.
        """
        before: Counter[bytes] = Counter()
        if not self.again.replaced and self._data.get("path") != self._last_path:
            with (self._folder / QUARANTINE).open("rb") as lines:
                for line in lines:
                    before[_digest(line)] += 1
                    merged.write(line)
                    yield json.loads(line)["reason"]
        for line in new:
            digest = _digest(line)
            if before[digest] > 0:
                before[digest] -= 1
                continue
            merged.write(line)
            yield json.loads(line)["reason"]

    def history(self) -> list[dict[str, Any]]:
        """What imports again have changed, this one too."""
        entry = {"path": self._data.get("path"), **asdict(self.again)}
        return [*self._history, entry] if self.again.changed else self._history

    def _uncorrected(self, group: Group) -> Group | None:
        """The group with the judgements that nothing corrects; None if there are none."""
        content = _content(group)
        edges = tuple(
            edge for edge in group.comparisons if _judgement(content, edge.annotator) not in self._judgements
        )
        return replace(group, comparisons=edges) if edges else None


def read_record(folder: Path) -> dict[str, Any] | None:
    """`source.json` of an import; None where it, or what belongs to it, isn't there or isn't whole."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        has_all = isinstance(record["data"], dict) and set(record["counts"]) == set(COUNTS)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if has_all and (folder / GROUPS).is_file() and (folder / QUARANTINE).is_file() else None


def is_more(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether settings read more of what others have read: rows of the same kind, and of the same file no fewer.

    The sandbox is made anew: its bytes must follow from its settings alone.
    """
    keys = (before.keys() | now.keys()) - {"path", "revision", "limit"}
    if any(before.get(key) != now.get(key) for key in keys):
        return False
    limits = [math.inf if values.get("limit") is None else values["limit"] for values in (before, now)]
    return before.get("path") != now.get("path") or limits[1] >= limits[0]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _content(group: Group) -> bytes:
    """A digest of what was judged, in whatever order the completions stand."""
    prompt = [[message.role, message.content] for message in group.prompt]
    texts = sorted(completion.text for completion in group.completions)
    return _digest(canonical_json([group.axis, prompt, texts]).encode("utf-8", "surrogatepass"))


def _judgement(content: bytes, annotator: str | None) -> bytes:
    return _digest(content + (b"" if annotator is None else annotator.encode()))


def _judgements(group: Group) -> Sequence[bytes]:
    """A digest for each annotator's judgement of what the group holds, or for its content where nobody judged it."""
    content = _content(group)
    annotators = {edge.annotator for edge in group.comparisons}
    return [_judgement(content, annotator) for annotator in annotators] if annotators else [content]
