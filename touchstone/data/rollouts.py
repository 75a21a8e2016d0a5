"""Rows to be scored: a prompt, and what somebody's policy wrote to it. A file of any format that sources read.

| field | holds |
|---|---|
| `prompt` | a text, or chat messages |
| `completion` | a text, or a list of one chat message of the assistant, as TRL writes it |
| `completions`, if there is no `completion` | a list of texts, or of {"text": ...}, as groups hold them |

A row that can't be read or used is set aside, with the reason. An empty completion is one: a policy may write nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from touchstone.data.sources.formats import READABLE, file_rows, is_data, stem_of
from touchstone.data.sources.rows import Quarantined, Unusable, chat_messages, check_turns, prompt_messages
from touchstone.data.sources.streams import lines, unpacked
from touchstone.errors import SourceError
from touchstone.groups import Message

ONE, SEVERAL = "completion", "completions"
"""Fields of a row's completion, or completions, unless another is named."""

_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Rollout:
    """A row that can be scored.

    Attributes:
        line: where it stands in its file: the line, or the row's number where the format has no lines, from 1.
    """

    line: int
    prompt: tuple[Message, ...]
    completions: list[str]


def read_rollouts(
    file: Path, prompt_field: str = "prompt", completion_field: str | None = None
) -> Iterator[Rollout | Quarantined]:
    """The rows of a file, one at a time.

    Args:
        completion_field: None: `ONE`, or `SEVERAL` in a row that has no such field.

    Raises:
        SourceError: the file's format can't be read, or it is damaged or empty.
    """
    if not is_data(file.name):
        raise SourceError(f"{file} is none of {READABLE}")
    for row in file_rows(file, file.name):
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            prompt = prompt_messages(_field(row.values, prompt_field), prompt_field)
            check_turns(prompt)
            field = completion_field or (ONE if row.values.get(ONE) is not None else SEVERAL)
            yield Rollout(row.line, prompt, _texts(_field(row.values, field), field))
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))


def count_rows(file: Path) -> int | None:
    """About how many rows a file has, where that is quickly found out: for a progress bar.

    Raises:
        SourceError: the file is damaged.
    """
    try:
        if file.name.lower().endswith(".parquet"):
            return int(pq.read_metadata(file).num_rows)
        if file.name[len(stem_of(file.name)) :].lower().startswith(_LINES):
            with unpacked(file) as stream:
                return sum(1 for _ in lines(stream))
    except (pa.ArrowException, OSError, EOFError) as error:
        raise SourceError(f"{file.name} is damaged ({type(error).__name__}); fetch the file again") from error
    return None


def _field(values: dict[str, Any], name: str) -> Any:
    if values.get(name) is None:
        raise Unusable(f"no field '{name}'")
    return values[name]


def _texts(value: Any, field: str) -> list[str]:
    """The completions that a field holds."""
    match value:
        case str():
            return [str(value)]
        case [{"role": "assistant"}]:
            return [chat_messages(value, field)[0].content]
        case []:
            raise Unusable(f"'{field}' holds no completion")
        case list() as items:
            return [_text(item, field) for item in items]
    raise Unusable(f"'{field}' is neither a text nor a list of texts")


def _text(item: Any, field: str) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise Unusable(f"'{field}' holds what is no text")
    return text
