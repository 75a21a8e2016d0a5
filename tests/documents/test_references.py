"""The reference pages say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.references.__main__ import FOLDER, PAGES
from tests.places import ROOT
from touchstone import errors


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    page = (FOLDER / name).read_text(encoding="utf-8")
    assert page == PAGES[name](), f"docs/reference/{name} is out of date: `make references` writes it"


def test_every_setting_has_its_row_and_every_choice_its_name() -> None:
    page = (FOLDER / "settings.md").read_text(encoding="utf-8")
    assert "| `learning_rate` | `0.0003` | number (> 0) |" in page
    for path in (ROOT / "configs").glob("*/*.yaml"):
        if path.parent.name not in ("accelerate", "principles"):
            assert f"`{path.parent.name}={path.stem}`" in page


def test_a_number_s_default_is_a_number() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \| ([^|]*)", (FOLDER / "settings.md").read_text(), re.MULTILINE)
    numbers = [(name, default) for name, default, kind in rows if kind.startswith(("number", "whole number"))]
    assert len(numbers) > 100
    assert [row for row in numbers if row[1] in ("true", "false")] == []


def test_every_error_has_its_row() -> None:
    page = (FOLDER / "errors.md").read_text(encoding="utf-8")
    for name, value in vars(errors).items():
        if isinstance(value, type):
            assert re.search(rf"^\| `{name}` \| `{value.__bases__[0].__name__}` \| .+ \|$", page, re.MULTILINE)


def _variables(folders: tuple[str, ...]) -> set[str]:
    """Our own environment variables that code reads or sets."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {name for path in files for name in _named(path)}


def _named(path: Path) -> list[str]:
    return re.findall(r"[\"'](TOUCHSTONE_[A-Z_]+)[\"']", path.read_text(encoding="utf-8"))


def test_the_environments_page_names_every_variable_of_ours() -> None:
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(TOUCHSTONE_[A-Z_]+)`", page))
    assert named == _variables(("touchstone", "flows", "tasks"))
