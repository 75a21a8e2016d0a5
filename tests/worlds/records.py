"""What functions gave on fixed evidence, kept in a file: a stored decision is recomputed later and must come out the
same.

Whoever changes a word, a key or a number changes what `touchstone verify` finds of earlier decisions. The file is
written anew with `TOUCHSTONE_WRITE_RECORD=1 pytest` of the tests that read it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from touchstone.gate.checks import Check

DIGITS = 7


def plain(value: Any) -> Any:
    """Values as JSON has them, floats to DIGITS significant digits: machines differ below."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def said(check: Check) -> dict[str, Any]:
    """Everything that a check says."""
    fields = [
        *("name", "status", "reason", "value", "interval", "threshold"),
        *("n", "needed", "required", "details", "table", "sizes"),
    ]
    return {field: getattr(check, field) for field in fields}


def assert_recorded(file: Path, name: str, value: Any) -> None:
    """A value is the one that the file has by this name."""
    found = json.loads(json.dumps(plain(value)))
    if os.environ.get("TOUCHSTONE_WRITE_RECORD"):
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**known, name: found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert found == json.loads(file.read_text(encoding="utf-8"))[name]
