"""The environment that pages are rendered in."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from touchstone.pages.svg import themed
from touchstone.pages.text import cell, number, percent, points, visible


def environment(folder: Path) -> Environment:
    """Templates of `folder`, which may use `style.css` and `figure.html.jinja`.

    All text is escaped, and what acts or hides is spelt out.
    """
    templates = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    templates.filters.update(cell=cell, number=number, percent=percent, points=points, themed=themed)
    return templates


def _shown(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
