"""Pictures that stand in a page as SVG: the same numbers give the same bytes, and colours follow the reader's theme.

No text of the data is drawn, only numbers and our own words: names stand in the page's tables, escaped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from touchstone.pages.figures import BLUE, GREY, GRID, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_THEME = {
    BLUE: "blue",
    ORANGE: "orange",
    GREY: "grey",
    GRID: "grid",
    INK: "ink",
    "#000000": "ink",
    "#ffffff": "paper",
}
"""Colours that `style.css` defines for both themes."""


def themed(colour: str) -> str:
    """The colour as CSS that follows the reader's theme, where it has a counterpart there."""
    return f"var(--{_THEME[colour]})" if colour in _THEME else colour


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, what somebody who can't see it needs to know, and how to read it.

    Attributes:
        key: colours and what they stand for.
    """

    svg: Markup
    alt: str
    caption: str
    key: tuple[tuple[str, str], ...] = ()


def figure(
    width: float = 4.9, height: float = 3.1, ratios: tuple[float, ...] = (1.0,)
) -> tuple[Figure, tuple[Axes, ...]]:
    """Axes above each other, narrow, so that their words can still be read when they fill a telephone.

    Args:
        width, height: in inches; a point is about a pixel on a telephone.
        ratios: relative heights of the axes.
    """
    canvas = Figure(figsize=(width, height), layout="constrained")
    rows = canvas.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)
    axes: tuple[Axes, ...] = tuple(rows[:, 0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
        axis.tick_params(labelsize=9.5, colors=INK)
        axis.set_axisbelow(True)
        axis.grid(color=GRID)
    return canvas, axes


def svg(drawn: Figure, name: str) -> Markup:
    """The figure as an `svg` element whose ids and style are its own, so that several can stand in one page."""
    target = StringIO()
    # The salt makes the ids the same every time; words stay words, in the reader's own font.
    with mpl.rc_context({"svg.hashsalt": "touchstone", "svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawn.savefig(target, format="svg", transparent=True, metadata=nothing)
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' (?:width|height|xmlns(?::xlink)?)="[^"]*"', "", text[: text.index(">")]) + text[text.index(">") :]
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace('<style type="text/css">*{', f'<style type="text/css">#{name} *{{')
    for colour in _THEME:
        text = text.replace(colour.lower(), themed(colour))
    element = text.replace("<svg ", f'<svg id="{name}" aria-hidden="true" ', 1)
    return Markup(element)  # noqa: S704 - it holds no text of the data
