"""Answers to pairs that people were asked about, in any of the forms that they come back in.

| form | known by | an answer |
|---|---|---|
| rows of CSV, JSON or Parquet | fields `id` and `answer` | these, and `annotator` where there are several |
| Label Studio, JSON or JSON_MIN | `annotations`, or `annotation_id` | see `touchstone.data.sources.label_studio` |
| Argilla, nested or flat | `fields`, or `... .responses` | see `touchstone.data.sources.argilla` |

An answer names the better completion (first, second, left, right, 1, 2, A, B) or a tie, as `sources.labels.named`
reads it. A row whose answer is empty says nothing and is passed over. Labelling tools don't keep the id of a pair: it
is the hash of what was shown (`touchstone.data.exports.AskedPair`), so it is computed again from the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from touchstone.data.exports import FIELDS, QUESTION
from touchstone.data.sources import argilla, label_studio
from touchstone.data.sources.files import local_rows
from touchstone.data.sources.labels import hash_annotator, named
from touchstone.data.sources.rows import Quarantined, RawRow, Unusable
from touchstone.errors import SourceError
from touchstone.groups import Group
from touchstone.settings.data import ArgillaData, LabelStudioData

Side = Literal["first", "second", "tie"]

_SIDES: dict[int | None, Side] = {0: "first", 1: "second", None: "tie"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one annotator says of one pair.

    Attributes:
        id: of the pair.
        annotator: hashed; None if unknown.
        side: the better completion in the order shown, or a tie.
        file, line: where it stands; of an export of a labelling tool the task's number.
    """

    id: str
    annotator: str | None
    side: Side
    file: str
    line: int


def read_answers(path: Path) -> Iterator[Answer | Quarantined]:
    """The answers of a file, one per pair and annotator, and the rows that can't be used.

    Raises:
        SourceError: the file is missing, damaged, or in none of the forms above.
    """
    first = next((row for row in local_rows(str(path), Path.cwd()) if isinstance(row, RawRow)), None)
    keys = set() if first is None else first.values.keys()
    if keys & {"annotations", "annotation_id"}:
        tasks = LabelStudioData(
            source="label_studio", name="labels", path=str(path), prompt_field="prompt", completion_fields=[*FIELDS]
        )
        return _from_groups(label_studio.read(tasks, Path.cwd()), path.name)
    if "fields" in keys or any(key.endswith(".responses") for key in keys):
        records = ArgillaData(
            source="argilla",
            name="labels",
            path=str(path),
            prompt_field="prompt",
            completion_fields=[*FIELDS],
            question=QUESTION,
        )
        return _from_groups(argilla.read(records, Path.cwd()), path.name)
    if keys >= {"id", "answer"}:
        return _from_rows(local_rows(str(path), Path.cwd()))
    raise SourceError(
        f"{path.name} holds no answers that can be read: neither rows with 'id' and 'answer', nor an export of Label "
        "Studio or Argilla of the pairs that were asked about"
    )


def _from_rows(rows: Iterable[RawRow | Quarantined]) -> Iterator[Answer | Quarantined]:
    for row in rows:
        try:
            answer = row if isinstance(row, Quarantined) else _answer(row)
        except Unusable as fault:
            answer = Quarantined(row.file, row.line, str(fault))
        if answer is not None:
            yield answer


def _answer(row: RawRow) -> Answer | None:
    """The answer on a row; None where it is left empty."""
    pair, given, annotator = (_text(row.values.get(field)) for field in ("id", "answer", "annotator"))
    if not given:
        return None
    if not pair:
        raise Unusable("no id")
    hashed = hash_annotator("labels", annotator) if annotator else None
    return Answer(pair, hashed, _SIDES[named(given, FIELDS)], row.file, row.line)


def _text(value: Any) -> str:
    """A cell's text; numbers may stand for annotators, and "1" or "2" for a side."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unusable("'id', 'answer' or 'annotator' is neither text nor a number")
    return str(value).strip()


def _from_groups(groups: Iterable[Group | Quarantined], file: str) -> Iterator[Answer | Quarantined]:
    for number, group in enumerate(groups, start=1):
        if isinstance(group, Quarantined):
            yield group
            continue
        for edge in group.comparisons:  # of two completions the readers write (0, 1)
            side: Side = "tie" if edge.wins_i == edge.wins_j else "first" if edge.wins_i > edge.wins_j else "second"
            yield Answer(group.id, edge.annotator, side, file, number)
