"""Where things lie, wherever a test lies."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
REAL_DATA = ROOT.parent / "shared" / "data"
"""Downloaded data sets; tests that read them are skipped where there are none."""
