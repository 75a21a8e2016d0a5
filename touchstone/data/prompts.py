"""Prompts and texts as they are compared: which words count, and which prompts are the same.

docs/text_forms.md says which of the product's normal forms is for what.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from touchstone.groups import Message
from touchstone.runtime.files import digest_value


def words_of(text: str) -> list[str]:
    """The words that count when texts are compared: NFKC, case folded, cut at blanks."""
    # ASCII is its own NFKC, and most texts are ASCII.
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().split()


def dialogue_text(prompt: Sequence[Message]) -> str:
    """The contents of a prompt's messages, one after the other, by which near duplicates are found.

    Without system messages, which thousands of different prompts may share, unless there is nothing else.
    """
    contents = [message.content for message in prompt if message.role != "system"]
    return "\n".join(contents or [message.content for message in prompt])


def normalised_prompt(prompt: Iterable[Message]) -> str:
    """Digest of a prompt's roles and words: equal for prompts that read the same."""
    return digest_value([[message.role, " ".join(words_of(message.content))] for message in prompt])[:24]
