"""The decision as one static page: the verdict first, then every check, the baselines, pictures and provenance.

The page opens from a file, loads nothing from anywhere, and reads well on a telephone. All text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE = "decision_page.html.jinja"

MEANING = {
    "PROMOTE": "The version may become the champion, for exactly the digests below.",
    "REJECT": "The champion stays as it is. This candidate does not get further; a better one may.",
    "INCONCLUSIVE": "The champion stays as it is. The evidence is too thin for a yes or a no.",
    "ERROR": "The champion stays as it is. Something went wrong before a verdict could be reached.",
}

NAMES = {
    "model": "this model",
    "longer_wins": "length alone",
    "linear": "words and length",
    "bayes_optimal": "best possible (known reward)",
}


def render(record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page's HTML.

    Args:
        record: `decision.json`.
        pictures: PNG bytes by file name, as `evaluation.draw` gives them; none where nothing could be measured.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = _number
    measured = record["metrics"]["holdout"]
    return environment.get_template(TEMPLATE).render(
        record=record,
        meaning=MEANING[record["verdict"]],
        accuracies=_accuracies(measured) if measured else [],
        gap_closed=measured["gap_closed"] if measured else None,
        pictures=_pictures(measured, pictures) if measured else [],
    )


def _accuracies(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    results = {"model": measured, **measured["baselines"]}
    return [
        {"name": NAMES.get(name, name), "accuracy": result["accuracy"], "model": name == "model"}
        for name, result in results.items()
    ]


def _pictures(measured: Mapping[str, Any], pictures: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Pictures with what somebody who can't see them needs to know."""
    bars = "; ".join(f"{row['name']} {row['accuracy']:.1%}" for row in _accuracies(measured))
    correlation = measured["length_correlation"]
    length = "is undefined" if correlation is None else f"is {correlation:+.2f}"
    words = {
        "accuracy.png": (
            f"Accuracy with 95% intervals: {bars}.",
            "Lines that don't overlap are clearly apart.",
        ),
        "reliability.png": (
            f"Confidence against accuracy in 15 bins; the calibration error is {measured['calibration_error']:.3f}, "
            f"and a perfectly calibrated model stays below {measured['calibration_error_null_q95']:.3f}.",
            "On the dotted line, 80% confident means right in 80% of the cases.",
        ),
        "margins.png": (
            "Histogram of how far the model puts the preferred text above the other; "
            f"on average {measured['margin']:.2f} reward units.",
            "Far left is where the model contradicts the labels most: worth reading.",
        ),
        "length.png": (
            f"Reward against length in tokens; their rank correlation within a prompt {length}.",
            "A steep slope means that length buys reward.",
        ),
    }
    return [
        {"alt": alt, "caption": caption, "data": base64.b64encode(pictures[name]).decode("ascii")}
        for name, (alt, caption) in words.items()
        if name in pictures
    ]


def _number(value: object) -> str:
    """A number for people: whole ones with separators, others with three or four significant digits."""
    if value is None:
        return "unknown"
    if not isinstance(value, int | float):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.3g}"
