"""Text in a terminal, where a Chinese character or an emoji takes two columns and an accent by itself none."""

from __future__ import annotations

from rich.cells import cell_len, chop_cells, set_cell_size

WIDTH = 80
"""Columns of a screen."""


def columns_of(text: str) -> int:
    """How many columns a text takes."""
    return cell_len(text)


def cut(text: str, columns: int) -> str:
    """The text, or of a longer one its beginning and an ellipsis, in at most so many columns."""
    return text if cell_len(text) <= columns else set_cell_size(text, columns - 1).rstrip() + "…"


def padded(text: str, columns: int) -> str:
    """The text with blanks after it, in exactly so many columns; a longer one is cut."""
    return set_cell_size(cut(text, columns), columns)


def wrapped(text: str, columns: int = WIDTH, *, first: str = "", later: str = "") -> list[str]:
    """The text in lines of at most so many columns, broken between words where one fits.

    Args:
        first, later: what stands before the first line, and before the others.
    """
    room = columns - max(cell_len(first), cell_len(later))
    lines: list[str] = []
    line = ""
    for piece in (piece for word in text.split() for piece in chop_cells(word, room)):
        longer = f"{line} {piece}" if line else piece
        if line and cell_len(longer) > room:
            lines.append(line)
            longer = piece
        line = longer
    lines += [line] if line else []
    return [(later if number else first) + each for number, each in enumerate(lines)]
