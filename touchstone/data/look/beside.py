"""What a row says beside its judgement: further axes, when it was judged, and what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from touchstone.data.look.profile import Profile, words_of
from touchstone.data.look.verdicts import Reading, readings
from touchstone.data.sources.rows import Unusable
from touchstone.data.sources.table import created_at

AXES = {
    "safe": "safety", "safer": "safety", "safety": "safety", "safest": "safety",
    "harmless": "harmlessness", "harmlessness": "harmlessness", "honest": "honesty", "honesty": "honesty",
    "truthful": "truthfulness", "truthfulness": "truthfulness", "factuality": "factuality", "accuracy": "accuracy",
    "style": "style", "fluency": "fluency", "coherence": "coherence", "relevance": "relevance",
    "creativity": "creativity", "verbosity": "verbosity", "tone": "tone",
}  # fmt: skip
"""Words by which a column says on what axis it judges."""
TIMES = frozenset({"time", "timestamp", "date", "datetime", "created", "utc", "tstamp", "at"})
BELONGS = frozenset(
    {"conversation", "dialogue", "dialog", "thread", "session", "topic", "cluster", "document", "article", "passage"}
    | {"post"}
)
"""Words of columns that name what several rows belong to."""
FEWEST = 10
"""Different values of such a column, from which the seven sets can be cut by it."""
OLDEST = 1e8
"""Seconds since 1970 of the earliest time that a bare number may be: what is less is a duration."""

Profiles = Mapping[str, Profile]


def axis_of(path: str) -> str | None:
    """The axis that a column's name says; None where it says none."""
    return next((AXES[word] for word in words_of(path) if word in AXES), None)


def further_axes(
    column: Profile, reading: Reading, columns: Sequence[Profile], words: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Judgements of other columns on the axes that their names say, read as `reading` reads its own column.

    Args:
        columns: those that may hold labels.
        words, names: see `verdicts.readings`.
    """
    axes: dict[str, dict[str, Any]] = {}
    for beside in columns if axis_of(column.path) is None else ():
        axis = axis_of(beside.path)
        if axis is None or axis in axes:
            continue
        likewise = [
            each
            for each in readings(beside, words, names=names)
            if not each.question or _meaning(each) == _meaning(reading)
        ]
        if likewise:
            axes[axis] = likewise[0].judgement
    return axes


def _meaning(reading: Reading) -> dict[str, Any]:
    return {name: value for name, value in reading.judgement.items() if name != "field"}


def time_and_cluster(profiles: Profiles, used: set[str]) -> dict[str, str]:
    """The columns of a row's date, and of what it belongs to, where there are such.

    Args:
        used: columns that are something else.
    """
    single = [each for path, each in profiles.items() if "[]" not in path and path not in used]
    changes = {}
    if time := next((each for each in single if _is_time(each)), None):
        changes["time"] = time.path
    rows = max((each.rows for each in profiles.values()), default=0)
    if cluster := next((each for each in single if _is_cluster(each, rows)), None):
        changes["cluster"] = cluster.path
    return changes


def _is_time(column: Profile) -> bool:
    words = set(words_of(column.path))
    if (
        not words & TIMES
        or words & {"zone", "limit", "spent", "taken"}
        or not column.kinds.keys() <= {"text", "number"}
    ):
        return False
    seen = [column.example, *column.values]
    if column.is_numeric:
        return all(float(value) >= OLDEST for value in seen) and all(map(_is_date, seen))
    return column.kinds.keys() == {"text"} and all(map(_is_date, seen))


def _is_date(value: Any) -> bool:
    try:
        return created_at({"value": value}, "value") is not None
    except Unusable:
        return False


def _is_cluster(column: Profile, rows: int) -> bool:
    """Whether every row belongs to one of several, and some of them come again."""
    is_named = bool(set(words_of(column.path)) & BELONGS)
    names_one = column.kinds.keys() <= {"text", "number"} and not isinstance(column.example, float)
    different = len(column.distinct)
    return is_named and names_one and column.rows == rows and different >= FEWEST and 2 * different <= column.filled
