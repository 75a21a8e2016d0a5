"""Rows of other people's files, read strictly: JSON lines, JSON, Parquet, or a data set on the Hugging Face hub.

A row that can't be read becomes a `Quarantined` with file, line and reason; a file that can't be read is a
`SourceError`. Never a best effort, and never more than `MAX_LINE` bytes of one line in memory.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from touchstone.data.sources import hub
from touchstone.errors import SourceError
from touchstone.groups import OUT_OF_ORDER, ROLES, Group, Message, in_order

MAX_LINE = 16 * 2**20
"""Bytes of the longest line, or row of Parquet, that is read; a longer one is set aside."""
MAX_JSON_ARRAY = 64 * 2**20
"""Bytes of the largest .json array: it is parsed whole, JSON lines are not."""
SUFFIXES = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz", ".parquet.gz")

_TOO_LONG = f"line longer than {MAX_LINE // 2**20} MiB"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SPLIT_NAME = re.compile(r"(train|validation|valid|val|dev|test|eval)(?![a-z])", re.IGNORECASE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class About:
    """What a reader says of its source; it is recorded with the import and shown on the data page.

    Attributes:
        licence: of the data, as its publisher states it.
        cluster: the unit of splitting and resampling: what `cluster_id` stands for.
        annotators: who judged, and whether their identities are known.
        not_carried: what the source lacks, or what this reader leaves behind.
    """

    licence: str
    cluster: str
    annotators: str
    not_carried: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row set aside.

    Attributes:
        file: the file's name within the source, or `org/name` of a hub data set.
        line: the line, counted from 1; the row's number where the format has no lines.
        reason: the same words for the same fault, so that reasons can be counted; never the row's text.
    """

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as its file has it, with where it stands."""

    file: str
    line: int
    values: dict[str, Any]


class Unusable(Exception):
    """Raised while a row is turned into a group; its message becomes the reason in quarantine."""


def raw_rows(
    path: str,
    root: Path,
    *,
    split: str | None = None,
    subset: str | None = None,
    folder: str | None = None,
    revision: str | None = None,
) -> Iterator[RawRow | Quarantined]:
    """Rows of a local file, of a local folder, or of a hub data set, one at a time.

    Args:
        path: see `local_path`.
        root: where relative paths count from.
        split: on the hub, the split; in a local folder whose files are named after splits, the files to read;
            None reads every file of a folder.
        subset, folder: the hub data set's configuration and data folder.
        revision: the hub commit, branch or tag.

    Raises:
        SourceError: nothing lies there, a file is empty or damaged, or the hub can't be reached.
    """
    local = local_path(path, root)
    if local is None:
        examples = hub.examples(path, split=split or "train", subset=subset, folder=folder, revision=revision)
        for number, values in enumerate(examples, start=1):
            yield RawRow(path, number, values)
        return
    for file in data_files(local, path, split):
        yield from _file_rows(file, file.relative_to(local).as_posix() if local.is_dir() else file.name)


def local_rows(path: str, root: Path) -> Iterator[RawRow | Quarantined]:
    """Rows of a local file or folder, for formats that a hub data set would need a pinned revision for.

    Raises:
        SourceError: nothing lies there, or a file is empty or damaged.
    """
    if local_path(path, root) is None:
        raise SourceError(f"data.path: {path} is no local file or folder; download it and name where it lies")
    yield from raw_rows(path, root)


def groups_of(
    rows: Iterable[RawRow | Quarantined], make: Callable[[dict[str, Any]], Group]
) -> Iterator[Group | Quarantined]:
    """A group for each row; one that `make` refuses as `Unusable`, or that couldn't be read, stays set aside."""
    for row in rows:
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            yield make(row.values)
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))


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
    if path.startswith((".", "/", "~")) or path.lower().endswith(SUFFIXES) or not _HUB_ID.fullmatch(path):
        raise SourceError(
            f"data.path: {path} does not exist (relative paths count from the project's root) and is no hub id"
        )
    return None


def answer_text(value: Any, field: str) -> str:
    """The value of a field that must hold text with content.

    Raises:
        Unusable: it doesn't.
    """
    if not isinstance(value, str):
        raise Unusable(f"'{field}' is not text")
    if not value.strip():
        raise Unusable(f"'{field}' is empty")
    return value


def finite_number(value: Any, field: str) -> float:
    """The value of a field that must hold a number.

    Raises:
        Unusable: it holds something else, or a number that is not finite or too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable(f"'{field}' is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unusable(f"'{field}' is not finite")
    return number


def prompt_messages(value: Any, field: str) -> tuple[Message, ...]:
    """A prompt from the value of its field: a plain text is one user message, a list holds chat messages.

    Raises:
        Unusable: it is neither.
    """
    if isinstance(value, list):
        return chat_messages(value, field)
    return (Message("user", answer_text(value, field)),)


def chat_messages(turns: list[Any], field: str) -> tuple[Message, ...]:
    """Chat messages of a list of {"role", "content"}; whatever else they carry would be lost, so it is refused.

    Raises:
        Unusable: a turn is none.
    """
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise Unusable(f"'{field}' holds a turn without a role of {', '.join(ROLES)}")
        if turn.get("tool_calls"):
            raise Unusable(f"'{field}' holds tool calls")
        if not isinstance(turn.get("content"), str):
            raise Unusable(f"'{field}' holds a turn whose content is not text")
        messages.append(Message(turn["role"], turn["content"]))
    return tuple(messages)


def common_length(first: Sequence[object], second: Sequence[object]) -> int:
    """How many turns of two dialogues, or characters of two texts, are the same from the beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((number for number, (left, right) in pairs if left != right), min(len(first), len(second)))


def check_turns(prompt: Sequence[Message]) -> None:
    """Refuse a prompt whose turns are out of order.

    Raises:
        Unusable: it is not `groups.in_order`, or has no turn at all.
    """
    if not in_order(prompt):
        raise Unusable(OUT_OF_ORDER)


def data_files(local: Path, path: str, split: str | None) -> list[Path]:
    """The files to read, in the order of their names: `local` itself, or those below it.

    Args:
        path: as the settings spell it, for messages.
        split: see `raw_rows`.

    Raises:
        SourceError: there are none, or a folder holds a link (it may lead outside) or what can't be read twice.
    """
    if local.is_file():
        if not local.name.lower().endswith(SUFFIXES):
            raise SourceError(f"data.path: {path} is none of {', '.join(SUFFIXES)}")
        return [local]
    if not local.is_dir():
        raise SourceError(f"data.path: {path} is neither a file nor a folder but a device, a pipe or a socket")
    entries = sorted(entry for entry in local.rglob("*") if entry.is_symlink() or not entry.is_dir())
    for entry in entries:
        if entry.is_symlink() or (entry.name.lower().endswith(SUFFIXES) and not entry.is_file()):
            raise SourceError(
                f"data.path: {path} holds {entry.relative_to(local).as_posix()}, which is a link, a device, a pipe or "
                f"a socket; put the file itself there (`cp -rL` copies what links lead to)"
            )
    files = [entry for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    if not files:
        raise SourceError(f"data.path: {path} is empty: the folder holds no {', '.join(SUFFIXES)}")
    # Half of a folder may be somebody's held-out half: once its files are named after splits, only the wanted is read.
    named = {file: match[1].lower() for file in files if (match := _SPLIT_NAME.match(file.name))}
    if split is None or not named:
        return files
    if wanted := [file for file, name in named.items() if name == split.lower()]:
        return wanted
    raise SourceError(
        f"data.split: {path} has no split {split}; its files are named {', '.join(sorted(set(named.values())))}"
    )


def _file_rows(file: Path, name: str) -> Iterator[RawRow | Quarantined]:
    """Rows of one file; a file without rows is an error."""
    read = _parquet_rows if file.name.lower().removesuffix(".gz").endswith(".parquet") else _json_rows
    count = 0
    packed = file.suffix.lower() == ".gz"
    with cast(IO[bytes], gzip.open(file)) if packed else file.open("rb") as stream:
        try:
            for row in read(stream, name):
                count += 1
                yield row
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise SourceError(f"{name} is damaged gzip after row {count}; fetch the file again") from error
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            what = type(error).__name__
            raise SourceError(f"{name} is damaged after row {count} ({what}); fetch the file again") from error
    if not count:
        raise SourceError(f"{name} is empty: it holds no rows")


def _parquet_rows(stream: IO[bytes], name: str) -> Iterator[RawRow | Quarantined]:
    with pq.ParquetFile(stream) as file:
        number = 0
        for batch in file.iter_batches(batch_size=100):
            small = batch.nbytes <= MAX_LINE
            for part in [batch] if small else (batch.slice(row, 1) for row in range(batch.num_rows)):
                for values in part.to_pylist():
                    number += 1
                    yield (
                        RawRow(name, number, values)
                        if small or _fits(values)
                        else Quarantined(name, number, _TOO_LONG)
                    )


def _fits(values: dict[str, Any]) -> bool:
    """Whether a row, written as a line of JSON, would be read."""
    return len(json.dumps(values, ensure_ascii=False, default=str).encode()) <= MAX_LINE


def _json_rows(stream: IO[bytes], name: str) -> Iterator[RawRow | Quarantined]:
    if name.lower().removesuffix(".gz").endswith(".json"):
        start = stream.read(4096).lstrip()
        stream.seek(0)
        if start.startswith(b"["):
            yield from _array_rows(stream, name)
            return
    for number, line in enumerate(_lines(stream), start=1):
        if line is None:
            yield Quarantined(name, number, _TOO_LONG)
        elif line.strip():
            try:
                yield RawRow(name, number, parse_object(line))
            except Unusable as fault:
                yield Quarantined(name, number, str(fault))


def _array_rows(stream: IO[bytes], name: str) -> Iterator[RawRow | Quarantined]:
    data = stream.read(MAX_JSON_ARRAY + 1)
    if len(data) > MAX_JSON_ARRAY:
        raise SourceError(f"{name} is a JSON array of more than {MAX_JSON_ARRAY // 2**20} MiB; write it as JSON lines")
    try:
        items = _parse(data)
    except Unusable as fault:
        raise SourceError(f"{name} can't be read: {fault}") from None
    for number, item in enumerate(items, start=1):
        yield RawRow(name, number, item) if isinstance(item, dict) else Quarantined(name, number, "not a JSON object")


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Lines of a file; None for one that is too long, whose rest is passed over in pieces."""
    while line := stream.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
        yield None


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        Unusable: anything but exactly one object of valid JSON in UTF-8 without repeated keys, NaN or lone surrogates.
    """
    value = _parse(line)
    if not isinstance(value, dict):
        raise Unusable("not a JSON object")
    return value


def _parse(data: bytes) -> Any:
    if data.startswith(_BYTE_ORDER_MARK):
        raise Unusable("starts with a byte order mark")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable("not valid UTF-8") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Unusable("a lone surrogate") from None
    except (ValueError, RecursionError):
        raise Unusable("not valid JSON (cut short, or followed by something else)") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Unusable("a JSON object with a repeated key")
    return values


def _refuse_constant(_: str) -> NoReturn:
    raise Unusable("NaN or Infinity in place of a number")
