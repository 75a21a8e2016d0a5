"""The one normal form of a text: what the import stores, and what is scored wherever a text comes from.

    text = cleaned(text)              # the same meaning has the same digest, and the same score

A sealed scoring rule names the form by its number (`FORM`): whoever changes what `cleaned` does to any text raises it,
and keeps the old one for artifacts that were sealed with it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Form = Literal[0, 1]
"""0: the text as it stands. 1: `cleaned`."""

FORM: Form = 1
"""What new scoring rules name."""

RULES = ("control_character", "invisible_character", "bidirectional_control", "line_ending", "composition")
"""What `cleaned` does, in its order: three kinds of characters are removed, line ends become LF, NFC is applied."""

# Tab, LF and CR are no dirt; CR is dealt with as a line end.
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
# Zero-width space, word joiner and byte-order mark. Not ZWNJ and ZWJ (U+200C, U+200D): Persian, the scripts of India
# and emoji spell with them.
_INVISIBLE = "\u200b\u2060\ufeff"
# Overrides, embeddings and isolates, which reorder what a reader sees. Not the marks U+200E and U+200F, which reorder
# nothing but their neighbours and stand in ordinary Hebrew and Arabic.
_BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069"

_REMOVED = {
    "control_character": re.compile(f"[{_CONTROL}]+"),
    "invisible_character": re.compile(f"[{_INVISIBLE}]+"),
    "bidirectional_control": re.compile(f"[{_BIDIRECTIONAL}]+"),
}
_ANY_REMOVED = re.compile(f"[{_CONTROL}{_INVISIBLE}{_BIDIRECTIONAL}]+")
_ASCII_DIRT = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F])
_LINE_ENDING = re.compile("\r\n?")


def cleaned(text: str) -> str:
    """The text by the one declared rule; the same object where there is nothing to do.

    Control characters other than tab and newline, zero-width spaces, word joiners, byte-order marks and bidirectional
    overrides, embeddings and isolates are removed; CRLF and CR become LF; then NFC is applied (Unicode, UAX 15). In
    this order, so that cleaning twice changes nothing: what is removed may part a CR from its LF, or a letter from its
    accent. ZWJ and ZWNJ stay, because they carry meaning. Lone surrogates stay too, for `faults` to name.
    """
    if text.isascii():
        if len(text.encode().translate(None, _ASCII_DIRT)) == len(text):
            return text
        return _LINE_ENDING.sub("\n", _REMOVED["control_character"].sub("", text))
    clean = _LINE_ENDING.sub("\n", _ANY_REMOVED.sub("", text))
    return clean if unicodedata.is_normalized("NFC", clean) else unicodedata.normalize("NFC", clean)


def rules_that_change(text: str) -> set[str]:
    """Which of `RULES` change a text."""
    changed = {rule for rule, pattern in _REMOVED.items() if pattern.search(text)}
    stripped = _ANY_REMOVED.sub("", text)
    if "\r" in stripped:
        changed.add("line_ending")
    if not unicodedata.is_normalized("NFC", stripped):
        changed.add("composition")
    return changed
