"""What stands in the columns of a file: of each dotted path the kind of its values, how full it is, and an example.

    profiles = profile(rows)
    profiles["completions[].rating"].is_numeric

Lists of objects and JSON inside texts are gone into, as the table source's paths go into them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from touchstone.data.sources.dialogues import CONTENT_KEYS, ROLE_KEYS
from touchstone.data.sources.paths import is_null

MAX_PATHS = 200
"""Dotted paths that are told apart at most: keys of a dictionary may be data."""
MAX_DEPTH = 4
MAX_VALUES = 50
"""Different short values of a path that are counted."""
SHORT = 40
"""Characters of the longest text that may be a label."""
FEW = 20
"""Different values that a label has at most."""
MAX_DISTINCT = 5_000
"""Different texts of a path that are told apart."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SPEECH = frozenset({"text", "messages", "texts"})


@dataclass(slots=True)
class Profile:
    """What a dotted path leads to in the rows that were looked at; null, NaN and blank texts are nothing.

    Attributes:
        rows: those in which it leads to something.
        filled: values; a path with a list step has several a row.
        kinds: of these values: text, number, truth, messages, texts, numbers, objects, object, list.
        values: the short ones as text, with how often each came; at most `MAX_VALUES` and one more.
        distinct: hashes of its texts and numbers, at most `MAX_DISTINCT`.
        characters: of all texts together.
        example: the first value.
    """

    path: str
    rows: int = 0
    filled: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    distinct: set[int] = field(default_factory=set)
    characters: int = 0
    example: Any = None

    @property
    def kind(self) -> str:
        """The most frequent kind."""
        return self.kinds.most_common(1)[0][0] if self.kinds else "nothing"

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers, be it written as text."""
        return self.kinds.keys() <= {"number"} and self.filled > 0

    @property
    def is_truth(self) -> bool:
        """Whether all values are true or false, be it written as text."""
        return self.kinds.keys() <= {"truth"} and self.filled > 0

    @property
    def is_speech(self) -> bool:
        """Whether it may hold prompts or completions: texts of different content, or messages."""
        return self.kind in _SPEECH and not (self.kind == "text" and self.is_choice)

    @property
    def is_choice(self) -> bool:
        """Whether it holds few different short values, of which some come again."""
        is_short = sum(self.values.values()) == self.filled and len(self.values) <= FEW
        return self.filled > 0 and is_short and (len(self.values) < self.filled or self.filled == 1)

    @property
    def length(self) -> float:
        """The mean length of its texts."""
        return self.characters / self.filled if self.filled else 0.0

    @property
    def numbers(self) -> list[float]:
        """Its different short values as numbers, in order; none unless all are."""
        if not self.is_numeric or sum(self.values.values()) < self.filled:
            return []
        return sorted({float(value) for value in self.values})

    def add(self, value: Any) -> None:
        """Count a value that is not nothing."""
        self.filled += 1
        kind = kind_of(value)
        self.kinds[kind] += 1
        if self.example is None:
            self.example = value
        if isinstance(value, str | int | float):
            text = str(value).strip()
            self.characters += len(text)
            if len(self.distinct) < MAX_DISTINCT:
                self.distinct.add(hash(text))
            if len(text) <= SHORT and "\n" not in text and (text in self.values or len(self.values) <= MAX_VALUES):
                self.values[text] += 1


def profile(rows: Iterable[Mapping[str, Any]]) -> dict[str, Profile]:
    """The profiles of all dotted paths of the rows, in the order in which they first come."""
    profiles: dict[str, Profile] = {}
    for values in rows:
        seen: set[str] = set()
        for path, value in _paths(values, "", 0):
            if path not in profiles and len(profiles) >= MAX_PATHS:
                continue
            entry = profiles.setdefault(path, Profile(path))
            if not _is_nothing(value):
                entry.add(value)
                entry.rows += path not in seen
                seen.add(path)
    return profiles


def kind_of(value: Any) -> str:
    """What a value is, in the words of `Profile.kinds`."""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        held = _held(value)
        if held is not None:
            return kind_of(held)
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return "number"
        return "truth" if text.casefold() in ("true", "false") else "text"
    if isinstance(value, Mapping):
        return "messages" if is_message(value) else "object"
    if isinstance(value, Sequence) and value:
        if all(isinstance(item, Mapping) for item in value):
            return "messages" if all(is_message(item) for item in value) else "objects"
        if all(isinstance(item, str) for item in value):
            return "texts"
        if all(isinstance(item, int | float) for item in value):
            return "numbers"
    return "list"


def is_message(value: Mapping[str, Any]) -> bool:
    """Whether an object is a message of a dialogue."""
    return any(isinstance(value.get(key), str) for key in ROLE_KEYS) and any(key in value for key in CONTENT_KEYS)


def words_of(name: str) -> tuple[str, ...]:
    """The words of a column's name: `response_1`, `response-1`, `response1` and `Response 1` have the same."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", name)
    return tuple(word.casefold() for word in re.split(r"[\W_]+", parted) if word)


def _is_nothing(value: Any) -> bool:
    return is_null(value) or (isinstance(value, str) and not value.strip()) or value in ([], {})


def _held(text: str) -> Any:
    """The list or dictionary that a text holds as JSON; None where it holds none."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list | dict) and value else None


def _paths(values: Mapping[str, Any], before: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Each value below `values` with its path."""
    for name, value in values.items():
        path = f"{before}{name}"
        yield path, value
        if depth < MAX_DEPTH:
            yield from _below(value, path, depth)


def _below(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    held = _held(value) if isinstance(value, str) else value
    if isinstance(held, Mapping) and not is_message(held):
        yield from _paths(held, f"{path}.", depth + 1)
    elif isinstance(held, list):
        if kind_of(held) == "objects":
            for item in held:
                yield from _paths(item, f"{path}[].", depth + 1)
        elif kind_of(held) in ("texts", "numbers"):
            yield from ((f"{path}[]", item) for item in held)
