"""Which code a project's stages run, where that is the installed package's and lies outside the project.

installed/version        the version that the project was made for
installed/STAGE.sha256   digests of exactly the files that a stage runs, as sha256sum writes them: what it depends on

A checkout of Touchstone itself has no such folder: its stages depend on touchstone/.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import touchstone
from touchstone.errors import PipelineError
from touchstone.runtime.files import digest_file
from touchstone.runtime.places import PACKAGE

FOLDER = "installed"
INSTALLED = touchstone.__version__
"""The installed version."""
VERSION = f"{FOLDER}/version"


def list_of(stage: str) -> str:
    """The file with the digests of a stage's code, below the project's root."""
    return f"{FOLDER}/{stage}.sha256"


def digests(names: Iterable[str]) -> str:
    """The text of such a file, for files of the installed package, named touchstone/..."""
    return "".join(f"{digest_file(PACKAGE.parent / name)}  {name}\n" for name in sorted(names))


def check(project: Path, stage: str | None = None) -> None:
    """See that the code which the project names is the installed one; a project that names none passes.

    Args:
        stage: look at the files of this stage only; None: at all of them and the version.

    Raises:
        PipelineError: it is another; names the first file that differs.
    """
    version = project / VERSION
    if not version.is_file():
        return
    made_for = version.read_text(encoding="utf-8").strip()
    lists = sorted((project / FOLDER).glob("*.sha256")) if stage is None else [project / list_of(stage)]
    different = next((name for path in lists for name in _different(path)), None)
    if different is None and (stage is not None or made_for == INSTALLED):
        return
    what = f"its {different} is another" if different else f"the installed one is {INSTALLED}"
    raise PipelineError(
        f"this project is made for touchstone {made_for}, and {what}: install touchstone-rm=={made_for}, or bring the "
        "project up to date by `touchstone init --update` in its folder, and commit that"
    )


def _different(path: Path) -> list[str]:
    """The files of a list that the installation doesn't have, or has otherwise."""
    entries = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    places = {name: PACKAGE.parent / name for _, name in entries}
    return [name for digest, name in entries if not places[name].is_file() or digest_file(places[name]) != digest]
