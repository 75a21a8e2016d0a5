"""The stage: data/, build/ and the base's tokenizer in, the data page out.

    python -m touchstone.data.page     # -> build/data_page/index.html

`touchstone data page --previous REVISION` adds what has changed since another version.
"""

from __future__ import annotations

import sys
from pathlib import Path

from touchstone import settings
from touchstone.data.page.page import read, render
from touchstone.runtime.files import write_atomic
from touchstone.runtime.stage import run_stage

PAGE = Path("build") / "data_page" / "index.html"


def main() -> None:
    """Run the stage in the current folder."""
    write_atomic(PAGE, render(read(Path(), settings.load())))
    sys.stdout.write(f"data page: {PAGE}\n")


if __name__ == "__main__":
    run_stage(main)
