"""Small bars that stand in tables: an estimate, its bounds and the threshold on one line, as SVG with words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from touchstone.pages.text import visible

Side = Literal["least", "most", "within"]
Mark = Literal["dot", "hollow", "diamond"]

WIDTH, HEIGHT, EDGE = 220, 22, 8
MIDDLE = HEIGHT / 2


@dataclass(frozen=True, slots=True)
class Scale:
    """The numbers at a bar's left and right end."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Where a number lies, in pixels of the drawing."""
        return EDGE + (WIDTH - 2 * EDGE) * (value - self.low) / (self.high - self.low)


def scale(values: Iterable[float | None], *, from_zero: bool = False) -> Scale:
    """A scale that all values fit on, with some room."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    room = 0.12 * (high - low) or abs(high) or 1.0
    return Scale(0.0 if from_zero else low - room, high + room)


def bar(
    ends: Scale,
    value: float,
    words: str,
    *,
    interval: Sequence[float] | None = None,
    threshold: float | None = None,
    side: Side | None = None,
    line: float | None = None,
    mark: Mark = "dot",
) -> Markup:
    """One bar.

    Args:
        words: what somebody who can't see it needs to know.
        interval: bounds of the estimate.
        threshold, side: where the limit lies, and whether the value must be at least there, at most there, or within
            it on both sides of zero.
        line: a number to compare with, drawn dotted.
    """
    parts = [f'<line class="rail" x1="{EDGE}" x2="{WIDTH - EDGE}" y1="{MIDDLE:g}" y2="{MIDDLE:g}"/>']
    limits = [] if threshold is None else [threshold] if side != "within" else [-threshold, threshold]
    if limits and side is not None:
        start = EDGE if side == "most" else ends.x(limits[0])
        end = WIDTH - EDGE if side == "least" else ends.x(limits[-1])
        parts.insert(
            0, f'<rect class="allowed" x="{start:.1f}" y="2" width="{end - start:.1f}" height="{HEIGHT - 4}"/>'
        )
    if line is not None:
        parts.append(_upright("reference", ends.x(line)))
    parts += [_upright("threshold", ends.x(limit)) for limit in limits]
    x = ends.x(value)
    if interval is not None:
        low, high = (ends.x(bound) for bound in interval)
        parts.append(f'<line class="bounds" x1="{low:.1f}" x2="{high:.1f}" y1="{MIDDLE:g}" y2="{MIDDLE:g}"/>')
        parts += [
            f'<line class="bounds end" x1="{end:.1f}" x2="{end:.1f}" y1="{MIDDLE - 4:g}" y2="{MIDDLE + 4:g}"/>'
            for end in (low, high)
        ]
    if mark == "diamond":
        parts.append(f'<path class="mark" d="M{x - 7:.1f} {MIDDLE:g}l7-6 7 6-7 6z"/>')
    else:
        parts.append(f'<circle class="mark {mark}" cx="{x:.1f}" cy="{MIDDLE:g}" r="4.5"/>')
    return _drawing("".join(parts), words)


def ruler(ends: Scale, form: str) -> Markup:
    """The axis under bars of one scale, in hundredths; `form` is the format of its numbers."""
    ticks = [tick for tick in MaxNLocator(4).tick_values(ends.low, ends.high) if ends.low <= tick <= ends.high]
    labels = [format(round(100 * tick, 6), form if round(tick, 8) else "g") for tick in ticks]
    parts = [f'<line class="rail" x1="{EDGE}" x2="{WIDTH - EDGE}" y1="1" y2="1"/>']
    parts += [
        f'<line class="rail" x1="{ends.x(tick):.1f}" x2="{ends.x(tick):.1f}" y1="1" y2="6"/>'
        f'<text x="{ends.x(tick):.1f}" y="19" text-anchor="middle">{label}</text>'
        for tick, label in zip(ticks, labels, strict=True)
    ]
    return _drawing("".join(parts), f"Axis with {', '.join(labels)}")


def _upright(kind: str, x: float) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>'


def _drawing(parts: str, words: str) -> Markup:
    opening = f'<svg class="bar" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(visible(words))}">'
    return Markup(f"{opening}{parts}</svg>")  # noqa: S704 - numbers, and words that are escaped
