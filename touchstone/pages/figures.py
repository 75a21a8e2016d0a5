"""The drawing kit of every picture: colours, figures, titles, PNG bytes.

Drawn without pyplot, so nothing global is touched; colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#7F7F7F", "#222222"


GRID = "#E6E6E6"


DPI = 144


LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1}


DENSITY = LinearSegmentedColormap.from_list("density", [to_rgba(BLUE, 0.25), to_rgba(BLUE, 1.0)])
"""One colour, less and less transparent: it shows on light and on dark, and a cell with one completion is seen."""


def figure_of(width: float = 7.0, height: float = 4.2, rows: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    axes = list(np.atleast_1d(figure.subplots(rows, 1, **grid)).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
        axis.tick_params(labelsize=10, colors=INK)
        axis.set_axisbelow(True)
    return figure, axes


def add_title(axis: Axes, title: str, note: str = "") -> None:
    """What is seen, in bold; below it, smaller, how to read it."""
    axis.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=24 if note else 8)
    if note:
        axis.annotate(
            note, (0, 1), xytext=(0, 7), xycoords="axes fraction", textcoords="offset points", fontsize=9.5, color=GREY
        )


def to_png(figure: Figure) -> bytes:
    target = BytesIO()
    # The default metadata name matplotlib's version, which would change the bytes without changing the picture.
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
