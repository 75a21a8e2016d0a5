"""Write the reference pages: settings, commands, HTTP, errors, Python.

make references                             # writes docs/reference/; a test compares them with the code
python -m scripts.references --check        # says which pages differ, and writes nothing
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from scripts.references.commands import commands_page
from scripts.references.python import errors_page, python_page
from scripts.references.routes import http_page
from scripts.references.settings import settings_page
from scripts.references.words import ROOT

FOLDER = ROOT / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "http.md": http_page,
    "errors.md": errors_page,
    "python.md": python_page,
}


def main() -> int:
    """Write the pages, or say which ones differ."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page differs")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    different = []
    for name, page in PAGES.items():
        text, path = page(), FOLDER / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            different.append(name)
            if not given.check:
                path.write_text(text, encoding="utf-8")
    for name in different:
        sys.stdout.write(f"docs/reference/{name} {'differs from the code' if given.check else 'written'}\n")
    return 1 if given.check and different else 0


if __name__ == "__main__":
    sys.exit(main())
