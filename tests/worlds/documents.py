"""The project's Markdown pages, for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.places import ROOT


def _pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file())


PAGES = _pages()
"""All that git knows or would take."""
