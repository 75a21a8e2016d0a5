"""Text of strangers, made safe to look at: on the page, in a terminal, and in a spreadsheet that it is copied into."""

from __future__ import annotations

import unicodedata

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
    shown = visible(text[:limit]) + ("…" if len(text) > limit else "")
    return "'" + shown if shown.lstrip().startswith(_FORMULA) else shown
