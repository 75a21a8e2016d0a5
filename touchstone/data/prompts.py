"""Prompts as texts that can be compared."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from touchstone.groups import Message
from touchstone.runtime.files import digest_value


def normalised_prompt(prompt: Iterable[Message]) -> str:
    """Digest of a prompt after NFKC, casefold and collapsed whitespace: equal for prompts that read the same."""
    turns = [[m.role, " ".join(unicodedata.normalize("NFKC", m.content).casefold().split())] for m in prompt]
    return digest_value(turns)[:24]
