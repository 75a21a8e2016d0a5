"""Where the package lies, for what runs or digests its code as a whole."""

from __future__ import annotations

from pathlib import Path

import touchstone

PACKAGE = Path(touchstone.__file__).resolve().parent
"""The folder touchstone/. What goes on PYTHONPATH is its parent: inside it, statistics/ would hide Python's own."""
