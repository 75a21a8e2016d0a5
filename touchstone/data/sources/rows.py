"""Rows of other people's data, and their values, read strictly.

A row that can't be read or used becomes a `Quarantined` with file, line and reason. Never a best effort.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from touchstone.groups import OUT_OF_ORDER, ROLES, Message, in_order

MAX_LINE = 16 * 2**20
"""Bytes of the longest line, or row of a table, that is read; a longer one is set aside."""
_MESSAGES = re.compile(r"\s*\[\s*\{")
_SPEAKERS = {"role", "from"}
MAX_COMPLETIONS = 1_000
"""Completions of one prompt; they imply half a million pairs."""
TOO_LONG = f"line longer than {MAX_LINE // 2**20} MiB"


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


class Cell(str):
    """The text of a cell in a file without types, where a number can't be written as anything else."""

    __slots__ = ()


Made = TypeVar("Made")


class Unusable(Exception):
    """Raised while a row is turned into a group; its message becomes the reason in quarantine."""


def groups_of(
    rows: Iterable[RawRow | Quarantined], make: Callable[[dict[str, Any]], Made]
) -> Iterator[Made | Quarantined]:
    """A group for each row, or what `make` reads of it; a row that it refuses as `Unusable`, or that couldn't be read,
    stays set aside."""
    for row in rows:
        if isinstance(row, Quarantined):
            yield row
            continue
        try:
            yield make(row.values)
        except Unusable as fault:
            yield Quarantined(row.file, row.line, str(fault))


def answer_text(value: Any, field: str) -> str:
    """The value of a field that must hold text with content.

    Raises:
        Unusable: it doesn't.
    """
    if not isinstance(value, str):
        raise Unusable(f"'{field}' is not text")
    if not value.strip():
        raise Unusable(f"'{field}' is empty")
    return str(value)


def field_text(value: Any, field: str) -> str:
    """The value of a row's field that must hold text with content, and not a dialogue that is written as JSON.

    A file without types holds messages so; taken for text, the model would learn to read braces.

    Raises:
        Unusable: it doesn't.
    """
    text = answer_text(value, field)
    if _MESSAGES.match(text):
        try:
            turns = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if isinstance(turns, list) and all(isinstance(turn, dict) and turn.keys() & _SPEAKERS for turn in turns):
            raise Unusable(f"'{field}' holds messages as JSON inside a text; data=table reads them")
    return text


def finite_number(value: Any, field: str) -> float:
    """The value of a field that must hold a number, or the text of one where the file has no types.

    Raises:
        Unusable: it holds something else, or a number that is not finite or too large for a float.
    """
    if isinstance(value, Cell):
        try:
            value = float(value)
        except ValueError:
            raise Unusable(f"'{field}' is not a number") from None
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
    return (Message("user", field_text(value, field)),)


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
