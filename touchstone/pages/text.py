"""Text of strangers, made safe to look at: on a page, in a terminal, and in a spreadsheet that it is copied into."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from markupsafe import Markup, escape

SHOWN = 200
"""Characters of a text that are shown at most."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that act or hide instead of being seen."""
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def visible(text: str) -> str:
    """The text with every control, format, private and unassigned character, and every lone surrogate, spelt out.

    An escape becomes ␛, a line's end ␊, a right-to-left override ⟨U+202E⟩: nothing moves a cursor, turns a line round
    or hides.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(char) for char in text)


def _spelt(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"⟨U+{code:04X}⟩" if unicodedata.category(char) in _UNSEEN else char


def cell(text: str, limit: int = SHOWN) -> str:
    """The first `limit` characters, visible, and with an apostrophe before what a spreadsheet would calculate."""
    return uncalculated(visible(text[:limit]) + ("…" if len(text) > limit else ""))


def uncalculated(text: str) -> str:
    """The text with an apostrophe before what a spreadsheet would calculate."""
    return "'" + text if text.lstrip().startswith(_FORMULA) else text


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A text for reading, escaped, its lines kept: for elements that show them (`white-space: pre-wrap`).

    Attributes:
        start, rest: what is shown at once, and what unfolds; `rest` is empty where there is no more.
        characters: of the whole text.
        cut: whether some of it is not shown at all.
    """

    start: Markup
    rest: Markup
    characters: int
    cut: bool


def excerpt(text: str, first: int, most: int) -> Excerpt:
    """A text, visible, cut after `most` characters, of which `first` are shown at once."""
    shown = "\n".join(visible(line) for line in text[:most].split("\n"))
    cut = max(len(text), len(shown)) > most
    return Excerpt(escape(shown[:first]), escape(shown[first:most]), len(text), cut)


def number(value: object) -> str:
    """A number for people: whole ones with separators, others with three or four significant digits; a text as
    `cell` has it."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return cell(str(value))
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """A share for people; what is not nothing never reads 0%."""
    if share is None:
        return "unknown"
    digits = 0 if share in (0, 1) else 1 if 0.001 <= share <= 0.999 else 3
    return f"{share:.{digits}%}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"
