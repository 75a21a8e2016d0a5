"""What a text is made of: the one rule by which every imported text is normalised, and the faults that are left.

    text = cleaned(text)              # the same meaning has the same digest
    group, changed = clean_group(group)
    faults(text)                      # ("role_marker",)

Special tokens and role markers are counted and shown, never removed: `templating` encodes what people wrote as text,
and a message that says `<|im_end|>` yields the ids of those characters, never the control token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from touchstone.groups import Group, make_group, prompt_digest

RULES = ("control_character", "invisible_character", "bidirectional_control", "line_ending", "composition")
"""What `cleaned` does, in its order: three kinds of characters are removed, line ends become LF, NFC is applied."""

FAULTS = ("lone_surrogate", "replacement_character", "one_character_run", "role_marker", "special_token")
"""What `faults` may name, in its order."""

UNUSABLE = ("lone_surrogate", "one_character_run")
"""The faults that set a row aside: the first can't be written as UTF-8, the second says nothing at any length."""

LONGEST_RUN = 1_000
"""Characters. A longer run of one character is a fault."""

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

_ROLE_TURN = re.compile(r"\n\n[ \t]*(?:Human|Assistant|User|System):")
_ROLE_MARKER = re.compile(
    r"### (?:Instruction|Input|Response|Human|Assistant|User|System)\b"
    r"|\[/?INST\]|<</?SYS>>"
    r"|<\|(?:user|assistant|system|human|start_header_id)\|>"
    r"|<\|im_start\|>(?:user|assistant|system)"
    r"|<start_of_turn>"
)
# <|...|> is the shape of GPT's, Llama's, Qwen's and Phi's, <\uff5c...\uff5c> of DeepSeek's, the rest of BERT's, T5's,
# Llama's and Gemma's.
_SPECIAL_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>|<\uff5c[A-Za-z0-9_\u2581]{1,40}\uff5c>"
    r"|</?s>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn|extra_id_\d{1,3})>"
    r"|\[(?:CLS|SEP|PAD|MASK|UNK|BOS|EOS)\]|\[/?INST\]|<</?SYS>>"
)


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


def clean_group(group: Group) -> tuple[Group, tuple[str, ...]]:
    """The group with every prompt and completion text cleaned, and the names among `RULES` that changed something.

    The same object where nothing changed. Ids follow as `with_texts` says.
    """
    texts = [*(message.content for message in group.prompt), *(completion.text for completion in group.completions)]
    dirty = [text for text in texts if cleaned(text) != text]
    if not dirty:
        return group, ()
    changed = set[str]().union(*map(_rules, dirty))
    return with_texts(group, cleaned), tuple(rule for rule in RULES if rule in changed)


def with_texts(group: Group, change: Callable[[str], str]) -> Group:
    """The group with `change` applied to every prompt and completion text.

    Its id is the hash of the new content. A cluster id that was the prompt's digest is the new prompt's; one that the
    source chose stays.
    """
    is_default = group.cluster_id == prompt_digest(group.prompt)
    return make_group(
        prompt=[replace(message, content=change(message.content)) for message in group.prompt],
        completions=[replace(completion, text=change(completion.text)) for completion in group.completions],
        comparisons=group.comparisons,
        source=group.source,
        axis=group.axis,
        cluster_id=None if is_default else group.cluster_id,
        created_at=group.created_at,
    )


def without_special_tokens(text: str) -> str:
    """The text without the control tokens that it spells out."""
    return _SPECIAL_TOKEN.sub("", text) if "<" in text or "[" in text else text


def faults(text: str) -> tuple[str, ...]:
    """What is wrong with a text, among `FAULTS` and in their order.

    lone_surrogate: half of a pair, which no encoding can write. replacement_character: U+FFFD, what a broken decoding
    leaves behind. one_character_run: more than `LONGEST_RUN` times the same character. role_marker: what looks like
    another speaker's turn. special_token: a control token of a common tokenizer, spelled out. `UNUSABLE` ones set a
    row aside; the others are counted and shown.
    """
    plain = text.isascii()
    marked = "<" in text or "[" in text or "#" in text
    present = (
        not plain and not _is_unicode(text),
        not plain and "\ufffd" in text,
        len(text) > LONGEST_RUN and _has_long_run(text),
        (marked and _ROLE_MARKER.search(text) is not None) or _ROLE_TURN.search("\n\n" + text) is not None,
        marked and _SPECIAL_TOKEN.search(text) is not None,
    )
    return (
        tuple(fault for fault, is_present in zip(FAULTS, present, strict=True) if is_present) if any(present) else ()
    )


def _rules(text: str) -> set[str]:
    """Which of `RULES` change a text."""
    changed = {rule for rule, pattern in _REMOVED.items() if pattern.search(text)}
    stripped = _ANY_REMOVED.sub("", text)
    if "\r" in stripped:
        changed.add("line_ending")
    if not unicodedata.is_normalized("NFC", stripped):
        changed.add("composition")
    return changed


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_long_run(text: str) -> bool:
    """A longer run holds a block of half the length that begins at a multiple of it: only those are looked at."""
    half = LONGEST_RUN // 2
    for start in range(0, len(text), half):
        if text.startswith(text[start] * half, start):
            before, after = text[max(0, start - LONGEST_RUN) : start], text[start : start + LONGEST_RUN + 1]
            character = text[start]
            run = len(before) - len(before.rstrip(character)) + len(after) - len(after.lstrip(character))
            if run > LONGEST_RUN:
                return True
    return False
