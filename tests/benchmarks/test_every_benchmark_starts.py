"""Every benchmark can be started: long ones are run by hand, and must not be found broken then."""

from __future__ import annotations

import importlib

import pytest

from tests.places import ROOT

FOLDER = ROOT / "benchmarks"
NAMES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


@pytest.mark.parametrize("name", NAMES)
def test_its_imports_are_there(name: str) -> None:
    assert importlib.import_module(name).__doc__
