"""Words of the code as Markdown."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MADE = "<!-- Written by scripts/references from the code: `make references`. -->\n"


def cell(text: str) -> str:
    """A text that stands in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[[", "[ [")


def code(value: object) -> str:
    """Something to type, in a cell."""
    return f"`{str(value).replace('|', chr(92) + '|')}`"


def sentence(text: str | None) -> str:
    """A docstring's first paragraph on one line."""
    return cell((text or "").strip().partition("\n\n")[0])
