"""What a text is made of: imported groups in normal form (`runtime.texts`), and the faults that are left.

    group, changed = clean_group(group)   # the same meaning has the same digest
    faults(text)                      # ("role_marker",)

Special tokens and role markers are counted and shown, never removed: `templating` encodes what people wrote as text,
and a message that says `<|im_end|>` yields the ids of those characters, never the control token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from touchstone.groups import Group, make_group, prompt_digest
from touchstone.runtime.texts import RULES, cleaned, rules_that_change

FAULTS = ("lone_surrogate", "replacement_character", "one_character_run", "role_marker", "special_token")
"""What `faults` may name, in its order."""

UNUSABLE = ("lone_surrogate", "one_character_run")
"""The faults that set a row aside: the first can't be written as UTF-8, the second says nothing at any length."""

LONGEST_RUN = 1_000
"""Characters. A longer run of one character is a fault."""

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


def clean_group(group: Group) -> tuple[Group, tuple[str, ...]]:
    """The group with every prompt and completion text cleaned, and the names among `texts.RULES` that changed it.

    The same object where nothing changed. Ids follow as `with_texts` says.
    """
    texts = [*(message.content for message in group.prompt), *(completion.text for completion in group.completions)]
    dirty = [text for text in texts if cleaned(text) != text]
    if not dirty:
        return group, ()
    changed = set[str]().union(*map(rules_that_change, dirty))
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
