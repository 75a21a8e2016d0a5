"""What smells of misreading in an import, with the column and the setting that would use it.

    for alarm in alarms(reading, data): print(alarm)

| alarm | raised when |
|---|---|
| no_judgement | no group holds a comparison, and no completion a label of its outcome or its steps |
| only_ties | no comparison prefers a side |
| one_prompt | most groups have the same prompt |
| always_first | the first completion wins every comparison beside a label's column that is not used as one |
| unused_label, unused_score, unused_context | a column looks like one by name and values, and is not read |
| one_reason | many rows were set aside, all for the same reason |

A column is known by the words of its name and by what stands in it: `winner` with long texts in it is no label. What
models suggested is left behind by design. Nothing here looks at a text for what it says.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from touchstone.data.reading import Reading, row
from touchstone.data.sources import argilla, label_studio
from touchstone.data.sources.columns import MAX_VALUES, Column
from touchstone.data.sources.labels import NOUNS, TIES
from touchstone.errors import SuspicionError
from touchstone.pages.text import cell, percent
from touchstone.settings.checks import ALARMS, Import
from touchstone.settings.data import Data

MANY = 10
"""Groups, or decided comparisons, from which a share says something; half as many rows set aside do."""
ASIDE = 0.1
"""Share of the rows that is set aside for one reason, from which it is an alarm."""

Kind = Literal["label", "score", "context"]

_WORDS: dict[Kind, frozenset[str]] = {
    "score": frozenset({"score", "rating", "rank", "ranking", "star", "grade", "likert", "reward"}),
    "label": frozenset(
        {"winner", "label", "choice", "preference", "preferred", "better", "best", "safer", "verdict", "vote"}
        | {"judgement", "judgment", "selected", "selection", "chosen"}
    ),
    "context": frozenset({"input", "history", "context", "system", "background", "preamble", "passage"}),
}
"""Words, in the singular, of the names that such columns have."""
_BESIDE = frozenset(
    {"suggestion", "statement", "elaboration", "reason", "explanation", "comment", "rationale", "justification"}
)
"""Words of columns that stand beside a judgement: what a model suggested, and what people said of it."""
_JUDGING = ("field", "ties", "question")
"""The last names of settings whose columns say which completion is the better one."""
_ABOUT_TEXT = frozenset(
    {"id", "length", "token", "count", "type", "lang", "language", "name", "source", "hash", "index", "url"}
)
"""Words of columns that say something about a context, and hold none."""
_SIDES = ("chosen", "rejected")
_PLACES = frozenset(
    {noun + place for noun in (*NOUNS, "model", "assistant", "candidate", "text", "summary") for place in "ab"}
    | {noun + place for noun in NOUNS if noun for place in "12"}
    | {"left", "right", "first", "second"}
)
_EXPECTED = frozenset({*argilla.NO_LABELS.values(), label_studio.CANCELLED, label_studio.WITHOUT_RESULT})
"""Reasons that tell of a labelling tool's rows without a label, and not of misreading."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that smells of misreading.

    Attributes:
        name: one of `ALARMS`.
        text: what was seen and what to do, made safe to look at.
        columns: those that it is about, as the file has them; none where it is about all rows.
    """

    name: str
    text: str
    columns: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """What `importing.allow` says to expect exactly this."""
        return [f"{self.name}:{column}" for column in self.columns] or [self.name]

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def alarms(reading: Reading, data: Data, allow: Collection[str] = ()) -> list[Alarm]:
    """All alarms of an import that `allow` doesn't name, in the order of `ALARMS`."""
    unused = {name: kind for name in reading.columns.unread() if (kind := _kind(name, reading))}
    raised = [
        *_no_preference(reading, data, unused),
        *_one_prompt(reading, data, unused),
        *_always_first(reading, data, unused, allow),
        *_unused(reading, data, unused, allow),
        *_one_reason(reading, data),
    ]
    return sorted((alarm for alarm in raised if alarm.name not in allow), key=lambda alarm: ALARMS.index(alarm.name))


def check(reading: Reading, data: Data, importing: Import) -> list[Alarm]:
    """The alarms that `importing.allow` doesn't expect, where they are only to be said.

    Raises:
        SuspicionError: there are some, and importing.suspicion is `stop`; says what was understood.
    """
    unexpected = [] if importing.suspicion == "off" else alarms(reading, data, importing.allow)
    if not unexpected or importing.suspicion == "warn":
        return unexpected
    count = "an alarm says" if len(unexpected) == 1 else f"{len(unexpected)} alarms say"
    lines = [f"{count} that {data.name} may be misread; nothing was changed. This was understood:", reading.render()]
    lines += [row("alarm", str(alarm)) for alarm in unexpected]
    names = ",".join(alarm.name for alarm in unexpected)
    lines += [f"If it is right as it is: importing.allow=[{names}], or importing.suspicion=warn"]
    raise SuspicionError("\n".join(lines))


def _no_preference(reading: Reading, data: Data, unused: dict[str, Kind]) -> list[Alarm]:
    if not reading.groups or reading.decided or (reading.outcomes and not reading.comparisons):
        return []
    if not reading.comparisons and (reading.outcomes or reading.steps):
        return []  # judged one by one
    name, seen = (
        ("only_ties", f"all {reading.comparisons:,} comparisons are ties")
        if reading.comparisons
        else ("no_judgement", f"none of {reading.groups:,} groups holds a comparison")
    )
    judging = [column for column, kind in unused.items() if kind != "context"]
    if judging:
        hint = _setting(data, unused[judging[0]], judging[0])
        return [Alarm(name, f"{seen}, and {_quoted(judging)} {_verb(judging)} not read; to use it: {hint}")]
    unread = list(reading.columns.unread())
    which = f"one of {_quoted(unread)}" if unread else "a column"
    return [Alarm(name, f"{seen}; if {which} says which is the better one: {_setting(data, 'label', 'COLUMN')}")]


def _one_prompt(reading: Reading, data: Data, unused: dict[str, Kind]) -> list[Alarm]:
    most = reading.prompts.most
    if reading.groups < MANY or 2 * most <= reading.groups:
        return []
    seen = f"{most:,} of {reading.groups:,} groups ({percent(most / reading.groups)}) have the same prompt"
    context = [name for name, kind in unused.items() if kind == "context"]
    texts = [
        name for name, column in reading.columns.unread().items() if column.long or len(column.values) > MAX_VALUES
    ]
    columns = context or texts
    if not columns:
        return [Alarm("one_prompt", f"{seen}; name the column of the question in {_prompt_setting(data)}")]
    hint = _setting(data, "context", context[0]) if context else f"{_prompt_setting(data)}={cell(texts[0])}"
    return [Alarm("one_prompt", f"{seen}, and {_quoted(columns)} {_verb(columns)} not read; to use it: {hint}")]


def _always_first(reading: Reading, data: Data, unused: dict[str, Kind], allow: Collection[str]) -> list[Alarm]:
    """The first always wins, and a column that looks like a label is not read, or read as something else."""
    if not _only_first(reading):
        return []
    names = [name for name, kind in unused.items() if kind == "label"]
    elsewhere = _used_elsewhere(data)
    names += [
        name
        for name, column in reading.columns.columns.items()
        if name in elsewhere and len(column.values) > 1 and _is_label(name, column, reading)
    ]
    names = [name for name in names if f"always_first:{name}" not in allow]
    if not names:
        return []
    seen = f"the first completion wins all {reading.decided:,} comparisons, and {_quoted(names)}, which "
    seen += "looks like a label" if len(names) == 1 else "look like labels"
    text = f"{seen}, {_verb(names)} not used as such; to use it: {_setting(data, 'label', names[0])}"
    return [Alarm("always_first", text, tuple(names))]


def _unused(reading: Reading, data: Data, unused: dict[str, Kind], allow: Collection[str]) -> list[Alarm]:
    """Columns that look like something and aren't read; a label's where the first always wins is named above."""
    raised = []
    for kind in _WORDS:
        names = [name for name in unused if unused[name] == kind and f"unused_{kind}:{name}" not in allow]
        if names and not (kind == "label" and _only_first(reading)):
            looks = f"looks like a {kind}" if len(names) == 1 else f"look like {kind}s"
            text = f"{_quoted(names)} {looks} and {_verb(names)} not read; to use it: {_setting(data, kind, names[0])}"
            raised.append(Alarm(f"unused_{kind}", text, tuple(names)))
    return raised


def _only_first(reading: Reading) -> bool:
    return reading.decided >= MANY and reading.first_wins == reading.decided


def _one_reason(reading: Reading, data: Data) -> list[Alarm]:
    reasons = {reason: count for reason, count in reading.quarantined.items() if reason not in _EXPECTED}
    if len(reasons) != 1:
        return []
    ((reason, count),) = reasons.items()
    rows = max(reading.columns.rows, reading.groups + count)
    if 2 * count < MANY or count < ASIDE * rows:
        return []
    settings = [f"data.{path}" for path, name in _named(data) if f"'{name}'" in reason]
    where = f"look at {settings[0]}" if settings else "look at how the settings of the source read it"
    return [Alarm("one_reason", f"{count:,} of {rows:,} rows were set aside, all because of: {reason}; {where}")]


def _kind(name: str, reading: Reading) -> Kind | None:
    """What an unread column looks like."""
    column = reading.columns.columns[name]
    words = set(_words(name))
    if words & _BESIDE or not column.filled:
        return None
    if words & _WORDS["score"] and not column.long and all(map(_is_number, column.values)):
        return "score"
    if _is_label(name, column, reading):
        return "label"
    if words & _WORDS["context"] and not words & _ABOUT_TEXT and (column.texts or column.structures):
        return "context"
    return None


def _is_label(name: str, column: Column, reading: Reading) -> bool:
    """Whether a column looks like a judgement: by its name, if its values are few, or by its values alone."""
    few = not column.long and len(column.values) <= MAX_VALUES
    words = _words(name)
    if set(words) & _WORDS["label"] and (few or column.structures) and not _is_of_a_side(words, reading):
        return name not in _SIDES or not column.structures
    values = {_plain(value) for value in column.values if isinstance(value, str)}
    return bool(few and column.texts and len(values & _PLACES) > 1 and values <= _PLACES | TIES)


def _is_of_a_side(words: list[str], reading: Reading) -> bool:
    """Whether the name says something of the chosen completion as another column does of the rejected one."""
    twin = ["rejected" if word == "chosen" else word for word in words]
    return twin != words and any(_words(name) == twin for name in reading.columns.columns)


def _setting(data: Data, kind: Kind, column: str) -> str:
    """What to set so that a column is used: by the source's own settings, or by those of a table."""
    fields = type(data).model_fields
    if kind == "context":
        words = set(_words(column))
        use = next((use for use in ("system", "history") if use in words), "input")
        return f"{'' if use in fields else 'data=table '}data.{use}={cell(column)}"
    table = "" if "judgements" in fields else "data=table "
    judgement = "data.judgements.helpfulness"
    if kind == "label":
        return f"{table}{judgement}.kind=label {judgement}.field={cell(column)}"
    return f"{table}{judgement}.kind=ratings (or its margin, or its aspects) with the path {cell(column)}"


def _prompt_setting(data: Data) -> str:
    names = ("prompt_field", "prompt")
    return next((f"data.{name}" for name in names if name in type(data).model_fields), "data.path")


def _named(data: Data) -> list[tuple[str, str]]:
    """Settings that hold a text, by their dotted names: what may name a column."""

    def texts(value: Any, path: str) -> list[tuple[str, str]]:
        if isinstance(value, dict):
            return [pair for key, item in value.items() for pair in texts(item, f"{path}.{key}" if path else str(key))]
        if isinstance(value, list):
            return [pair for item in value for pair in texts(item, path)]
        return [(path, value)] if isinstance(value, str) else []

    return texts(data.model_dump(mode="json"), "")


def _used_elsewhere(data: Data) -> set[str]:
    """The columns that settings name, but as something else than a judgement: as a margin, an annotator, a policy."""
    named = _named(data)
    judging = {name for path, name in named if path.rpartition(".")[2] in _JUDGING}
    return {name for _, name in named} - judging


def _words(name: str) -> list[str]:
    """The words of a name, in the singular: `response_ids`, `responseId` and `response-id` have the same."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.casefold().removesuffix("s") for word in re.split(r"[\W_]+", parted) if word]


def _plain(text: str) -> str:
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def _is_number(value: str | float) -> bool:
    return not isinstance(value, str) or bool(re.fullmatch(r"[+-]?\d+([.,]\d+)?", value))


def _quoted(columns: list[str]) -> str:
    more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
    return ", ".join(f"'{cell(name, 60)}'" for name in columns[:5]) + more


def _verb(columns: list[str]) -> str:
    return "is" if len(columns) == 1 else "are"
