"""Scores of any number of rows: in bounded memory, into one Parquet file, by a job that may be killed at any moment.

Rows are scored in parts of about `PART` completions. Finished parts lie in a hidden folder beside the output, which is
named after the digests of input and model: the next run of the same job goes on behind them. The output appears at the
end, whole, and is the one that a run without interruption writes.

    report = score_rows(scorer, rows, Path("scores.parquet"), Job(digest_file(file), card.digest))
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from touchstone.errors import DataError, ModelError
from touchstone.model.scores import ARTIFACT, Item, Score
from touchstone.runtime.files import canonical_json, digest_value, sync_folder, write_atomic
from touchstone.runtime.progress import progress

if TYPE_CHECKING:  # torch comes with it, and a finished job needs none
    from touchstone.model.scoring import Scorer

PART = 512
"""Completions of a part: what a kill loses at most, and what is scored in the same batches."""

PART_CHARACTERS = 2**20
"""Characters of a part, at which it is cut too; a longer row is a part of its own."""

ROW_GROUP = 2**16
"""Rows of the output that are held and compressed at a time."""

MOST_REASONS, OTHER_REASONS = 100, "other reasons"
"""Reasons that are counted by themselves: a template that refuses roles names their sequence."""

NOT_FINITE = "the model gave a reward that is not finite"

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("completion", pa.int32()),
        ("reward", pa.float64()),
        ("centered", pa.float64()),
        ("percentile", pa.float64()),
        ("truncated", pa.bool_()),
        ("tokens", pa.int32()),
    ]
)
"""One row per completion: the number of the row that it came from, its place in there from 0, and its `Score`."""

FURTHER = (pa.field("spread", pa.float64()), pa.field("correct", pa.float64()))
"""Columns more where the model is an ensemble, and where it knows how likely an answer is to be correct."""

VERSION, JOB, REPORT = b"touchstone_version", b"touchstone_job", b"touchstone_report"
"""Keys of the file's metadata beside `ARTIFACT`: the model in words, the job's digest, and its report as JSON."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row to be scored, and its number in the input."""

    number: int
    item: Item


@dataclass(frozen=True, slots=True)
class Unscored:
    """A row that has no scores; the same words for the same fault."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """What decides the output.

    Attributes:
        source: digest of the input, and of how its rows are read.
        artifact: digest of the sealed artifact.
        version: the model in words, for the file's metadata.
    """

    source: str
    artifact: str
    version: str = ""

    @property
    def digest(self) -> str:
        """Equal for jobs that write the same scores."""
        return digest_value({"source": self.source, "artifact": self.artifact, "part": [PART, PART_CHARACTERS]})


@dataclass(slots=True)
class Report:
    """What was scored, and what wasn't.

    Attributes:
        rows: of the input, whatever became of them.
        completions: that were scored.
        truncated: those of them that were over the token limit and were cut.
        unscored: rows without scores, by reason.
    """

    rows: int = 0
    completions: int = 0
    truncated: int = 0
    unscored: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def finished(output: Path, job: Job) -> Report | None:
    """The report of a job whose output is there; None where there is none yet.

    Raises:
        DataError: something else is in its place.
    """
    if not output.exists():
        return None
    try:
        metadata = pq.read_schema(output).metadata or {}
    except (pa.ArrowException, OSError):
        metadata = {}
    if metadata.get(JOB) != job.digest.encode():
        raise DataError(
            f"{output} exists, and isn't the scores of this input by this model; remove it, or name another file"
        )
    return _report(metadata)


def unscored_file(output: Path) -> Path:
    """Where the rows that have no scores are named, one JSON object a line: row and reason."""
    return output.with_name(f"{output.stem}.quarantine.jsonl")


def score_rows(
    scorer: Scorer, rows: Iterable[Row | Unscored], output: Path, job: Job, *, total: int | None = None
) -> Report:
    """Score rows into a Parquet file with `SCHEMA`; those that can't be scored into `unscored_file`.

    Args:
        rows: the same in every run of the job; those that an earlier run has scored are passed over.
        total: how many there are, about, for the progress bar.

    Raises:
        DataError: none of the first rows can be scored, another process is at it, or the output's place is taken.
        SourceError: the input can't be read on.
    """
    folder = output.with_name(f".{output.name}.{job.digest[:16]}.parts")
    report = finished(output, job)
    if report is not None:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed while it cleared up
        return report
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            _score_parts(scorer, rows, folder, total, output.name)
            return _put_together(folder, output, job)
    except Timeout:
        raise DataError(f"another process is scoring into {output}; wait for it, or name another file") from None


def _score_parts(scorer: Scorer, rows: Iterable[Row | Unscored], folder: Path, total: int | None, name: str) -> None:
    """Score what no earlier run has, part by part."""
    parts = _parts(folder)
    report = _report(pq.read_schema(parts[-1]).metadata) if parts else Report()
    rest = progress(islice(rows, report.rows, None), f"score into {name}", total, done=report.rows)
    for number, part in enumerate(_cut(rest), start=len(parts)):
        scores, unscored = _score(scorer, part)
        if number == 0 and not scores:
            first = unscored[0]
            raise DataError(
                f"none of the first {len(unscored):,} rows can be scored (row {first.number}: {first.reason}); "
                "mend the input, or name its fields"
            )
        report = Report(
            rows=report.rows + len(part),
            completions=report.completions + sum(len(row_scores) for _, row_scores in scores),
            truncated=report.truncated + sum(score.truncated for _, row_scores in scores for score in row_scores),
            unscored=_counted(report.unscored, unscored),
        )
        # The part comes last: with it, the rows up to here are done.
        if unscored:
            lines = (canonical_json({"row": row.number, "reason": row.reason}) + "\n" for row in unscored)
            write_atomic(folder / f"{number:08}.jsonl", "".join(lines))
        _write_part(folder / f"{number:08}.parquet", scores, report)


def _cut(rows: Iterable[Row | Unscored]) -> Iterator[list[Row | Unscored]]:
    """Rows in parts, the same whoever asks and wherever they were cut before."""
    part: list[Row | Unscored] = []
    completions = characters = 0
    for row in rows:
        part.append(row)
        if isinstance(row, Row):
            prompt, texts = row.item
            completions += len(texts)
            characters += sum(len(message.content) for message in prompt) + sum(map(len, texts))
        if max(completions, len(part)) >= PART or characters >= PART_CHARACTERS:
            yield part
            part, completions, characters = [], 0, 0
    if part:
        yield part


def _score(scorer: Scorer, part: Sequence[Row | Unscored]) -> tuple[list[tuple[Row, list[Score]]], list[Unscored]]:
    """The rows of a part with their scores, and those that have none, each in their order."""
    unscored = [row for row in part if isinstance(row, Unscored)]
    rows = [row for row in part if isinstance(row, Row)]
    try:
        encoded = scorer.encode([row.item for row in rows])
    except ModelError:
        # One row's prompt is not its neighbours' fault.
        usable, encoded = [], []
        for row in rows:
            try:
                encoded += scorer.encode([row.item])
                usable.append(row)
            except ModelError as error:
                unscored.append(Unscored(row.number, str(error)))
        rows = usable
    scores = []
    for row, row_scores in zip(rows, scorer.score_encoded(encoded), strict=True):
        if all(math.isfinite(score.reward) for score in row_scores):
            scores.append((row, row_scores))
        else:
            unscored.append(Unscored(row.number, NOT_FINITE))
    return scores, sorted(unscored, key=lambda row: row.number)


def _counted(counts: dict[str, int], unscored: Iterable[Unscored]) -> dict[str, int]:
    """The rows without scores by reason, those of a part added."""
    total = Counter(counts)
    for row in unscored:
        total[row.reason if row.reason in total or len(total) < MOST_REASONS else OTHER_REASONS] += 1
    return dict(total)


def _write_part(path: Path, scores: Sequence[tuple[Row, Sequence[Score]]], report: Report) -> None:
    values = [
        (
            row.number,
            place,
            score.reward,
            score.centered,
            score.percentile,
            score.truncated,
            score.tokens,
            *(getattr(score, field.name) for field in FURTHER),
        )
        for row, row_scores in scores
        for place, score in enumerate(row_scores)
    ]
    fields = [*SCHEMA, *FURTHER]
    columns = list(zip(*values, strict=True)) or [()] * len(fields)
    filled = [
        (field, pa.array(column, field.type))
        for field, column in zip(fields, columns, strict=True)
        if field not in FURTHER or not set(column) <= {None}
    ]
    schema = pa.schema([field for field, _ in filled], {REPORT: canonical_json(report.to_json())})
    table = pa.table([array for _, array in filled], schema=schema)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def _put_together(folder: Path, output: Path, job: Job) -> Report:
    """One file of all parts, in place of their folder."""
    parts = _parts(folder)
    report = _report(pq.read_schema(parts[-1]).metadata)

    # What has no scores, where there is any: complete before the output is.
    if report.unscored:
        partial = folder / "unscored"
        with partial.open("wb") as file:
            for path in sorted(folder.glob("*.jsonl")):
                file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(unscored_file(output))
    else:
        unscored_file(output).unlink(missing_ok=True)

    # The scores.
    metadata = {
        ARTIFACT: job.artifact,
        VERSION: job.version,
        JOB: job.digest,
        REPORT: canonical_json(report.to_json()),
    }
    partial = folder / "scores"
    with partial.open("wb") as file:
        names = {name for path in parts for name in pq.read_schema(path).names}
        schema = pa.schema([*SCHEMA, *(field for field in FURTHER if field.name in names)])
        with pq.ParquetWriter(file, schema.with_metadata(metadata), compression="zstd") as writer:
            for table in _tables(parts, schema):
                writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(output)
    sync_folder(output.parent)
    shutil.rmtree(folder)
    return report


def _tables(parts: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The parts' tables, several joined to about `ROW_GROUP` rows."""
    tables: list[pa.Table] = []
    for path in parts:
        tables.append(pq.read_table(path, schema=schema))
        if sum(table.num_rows for table in tables) >= ROW_GROUP:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _report(metadata: dict[bytes, bytes]) -> Report:
    return Report(**json.loads(metadata[REPORT]))
