"""How the values of a column may name a winner: what each means, and where the rows don't say it, all readings.

    readings(profile, ("a", "b"))    # [Reading({"kind": "label", "field": "winner", "labels": None}, "", "")]

Words are understood where they name a side or a tie and nothing that turns it round ("worse"). Bare numbers and
truth values may count from 0, from 1, or say whether the first won: unless the columns' own names settle it, there are
two readings, with the question between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from touchstone.data.look.profile import Profile, words_of
from touchstone.data.sources.labels import TIES, named, plain
from touchstone.data.sources.rows import Unusable
from touchstone.settings.table import label_key

_TURNED = frozenset({"worse", "worst", "bad", "not", "no", "loses", "lost", "loser", "rejected", "less", "than"})
_TIES = TIES | {"ties", "tied", "equally", "neutral", "bothequal", "nodifference", "nowinner", "bothbad", "allbad"}
_TIE_WORDS = frozenset({"tie", "tied", "ties", "equal", "equally", "same", "draw", "both", "neither", "similar"})
_UNJUDGED = frozenset(
    {"skip", "skipped", "unsure", "invalid", "unknown", "na", "none", "null", "cannottell", "canttell", "dontknow"}
    | {"notsure", "unclear", "flagged", "discarded", "reject", "error", "unjudged", "pending"}
)
_SIGNS = re.compile(r"\W*([A-Za-z0-9]+)\s*([<>=≈~]+)\s*([A-Za-z0-9]+)\W*")
_AMOUNTS = frozenset({"strength", "score", "margin", "confidence", "difference"})
_PLACES = ({"a", "first", "left", "one"}, {"b", "second", "right", "two"})
_INDEX = frozenset({"id", "index", "idx"})


@dataclass(frozen=True, slots=True)
class Reading:
    """A judgement's settings, what they rest on, what they leave open, and judgements on further axes."""

    judgement: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    question: str = ""
    axes: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def readings(column: Profile, words: Sequence[str], *, names: Sequence[str] = ()) -> list[Reading]:
    """All readings of a label's column.

    Args:
        words: what tells the completions apart.
        names: what else they are called: their columns, and who wrote them.
    """
    where = {"kind": "label", "field": column.path}
    if column.is_truth:
        return _of_truth(column, words, where)
    if column.is_numeric:
        return _of_numbers(column, words)
    labels = label_map(list(column.values), words, names)
    if labels is None:
        return []
    return [Reading(where | ({"labels": labels} if labels else {}))]


def label_map(values: Sequence[str], words: Sequence[str], names: Sequence[str] = ()) -> dict[str, Any] | None:
    """What values mean that the table source wouldn't understand by itself; None where too little is understood.

    A value that nobody understands stays out of the map: its rows are set aside with a reason.
    """
    labels: dict[str, Any] = {}
    understood = sides = 0
    for value in values:
        if value in names:
            understood += 1
            sides += 1
            continue
        meaning, is_known = _meaning(value, words)
        if meaning is None:
            continue
        understood += 1
        sides += isinstance(meaning, int)
        if not is_known:
            labels[label_key(value)] = meaning
    return labels if sides and 2 * understood > len(values) else None


def _meaning(value: str, words: Sequence[str]) -> tuple[int | str | None, bool]:
    """A place from 1, "tie" or "none"; None where it is not understood; and whether the reader knows it unaided."""
    word = plain(value)
    if word in _UNJUDGED:
        return "none", False
    if match := _SIGNS.fullmatch(value):
        return _by_signs(match, words), False
    if word in _TIES:
        return ("tie", word in TIES)
    columns = [f"response_{side}" for side in words]
    try:
        place = named(value, columns)
    except Unusable:
        place = -1
    if place is None:
        return "tie", True
    if place >= 0:
        return place + 1, True
    parts = words_of(value)
    places = {number for number, side in enumerate(words, start=1) if side in parts}
    if set(parts) & _TURNED:
        return None, False
    if len(places) == 1:
        return places.pop(), False
    return ("tie", False) if set(parts) & _TIE_WORDS else (None, False)


def _by_signs(match: re.Match[str], words: Sequence[str]) -> int | str | None:
    """What A>B, A>>B, B<A and A=B say."""
    left, sign, right = match[1].casefold(), match[2], match[3].casefold()
    if left not in words or right not in words or left == right:
        return None
    if set(sign) == {">"}:
        return list(words).index(left) + 1
    if set(sign) == {"<"}:
        return list(words).index(right) + 1
    return "tie"


def _of_truth(column: Profile, words: Sequence[str], where: dict[str, Any]) -> list[Reading]:
    if len(words) != 2:
        return []
    named = set(words_of(column.path))
    sides = [place for place, side in enumerate(words, start=1) if named & ({side} | _PLACES[place - 1])]
    if len(sides) == 1 and not named & _TURNED:
        (place,) = sides
        return [Reading(where | {"labels": {"true": place, "false": 3 - place}})]
    return _both(column, where, [{"true": 1, "false": 2}, {"true": 2, "false": 1}])


def _of_numbers(column: Profile, words: Sequence[str]) -> list[Reading]:
    numbers, count = column.numbers, len(words)
    where = {"kind": "label", "field": column.path}
    if not numbers or any(number < 0 for number in numbers):
        return _of_strength(column) if count == 2 and numbers else []
    if any(number != int(number) for number in numbers) or set(words_of(column.path)) & _AMOUNTS:
        return []
    values = [int(number) for number in numbers]
    from_zero = {str(place): place + 1 for place in range(count)}
    from_one = {str(place): place for place in range(1, count + 1)}
    if values[-1] <= count - 1:
        by_name = words[0] == "0" and set(words_of(column.path)) & _INDEX
        if by_name or (count > 2 and values[0] == 0):
            return [Reading(where | {"labels": from_zero}, f"{column.path} counts the completions from 0")]
        second = {"1": 1, "0": 2} if count == 2 else from_one
        return _both(column, where, [from_zero, second])
    if values[0] >= 1 and values[-1] <= count:
        return [Reading(where | {"labels": from_one}, f"{column.path} counts the completions from 1")]
    if count == 2 and values[-1] == 2:
        return _both(column, where, [{"0": "tie", **from_one}, {**from_zero, "2": "tie"}])
    if count == 2 and values == [1, 2, 3]:
        return _both(column, where, [{**from_one, "3": "tie"}, {"1": 1, "2": "tie", "3": 2}])
    if count == 2 and values[-1] - values[0] >= 3 and values[-1] <= 10:
        return _of_scale(column, where, values)
    return []


def _of_strength(column: Profile) -> list[Reading]:
    where = {"kind": "strength", "field": column.path}
    question = f"the sign of '{column.path}' that prefers the first: judgements.helpfulness.first_is"
    return [
        Reading(where | {"first_is": sign}, f"below 0 prefers the {side}", question)
        for sign, side in (("negative", "first"), ("positive", "second"))
    ]


def _of_scale(column: Profile, where: dict[str, Any], values: Sequence[int]) -> list[Reading]:
    """A scale between the two: its middle is a tie."""
    low, high = min(values[0], 1), values[-1]
    middle = (low + high) / 2

    def labels(small: int) -> dict[str, Any]:
        return {
            str(value): "tie" if value == middle else small if value < middle else 3 - small
            for value in range(low, high + 1)
        }

    return _both(column, where, [labels(1), labels(2)])


def _both(column: Profile, where: dict[str, Any], maps: Sequence[dict[str, Any]]) -> list[Reading]:
    question = f"what '{column.path}' means: judgements.helpfulness.labels"
    return [Reading(where | {"labels": labels}, _in_words(labels), question) for labels in maps]


def _in_words(labels: dict[str, Any]) -> str:
    places = {1: "the first", 2: "the second", "tie": "a tie"}
    meanings = list(dict.fromkeys(labels.values()))
    values = {meaning: [value for value, place in labels.items() if place == meaning] for meaning in meanings}
    return ", ".join(f"{' and '.join(values[meaning])} is {places.get(meaning, meaning)}" for meaning in meanings)
