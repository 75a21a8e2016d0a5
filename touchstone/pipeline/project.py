"""A project made from the installed package, and brought up to date after another version was installed.

    print(make(Path("demo")))        # touchstone init demo
    print(update(Path("demo")))      # touchstone init --update demo

The files are those of Touchstone's own checkout. Two differ: dvc.yaml, whose stages depend on the installed code by
`installed/STAGE.sha256`, and the page README.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import yaml

from touchstone.errors import PipelineError
from touchstone.pipeline import workspace
from touchstone.runtime import installed
from touchstone.runtime.files import digest_file, digest_text, write_atomic
from touchstone.runtime.places import PACKAGE

OWN = ("params.yaml", "data.dvc")
"""What commands write and people commit: never touched again."""

MADE = f"{installed.FOLDER}/project.txt"
"""Digests of the files as they were made: what still has its digest is the package's to replace."""

HEAD = """\
# The only definition of the graph from data to artifact: `dvc repro` runs it, the flow makes a task per stage from it.
# The code of a stage is installed: installed/STAGE.sha256 has the digests of exactly the files that it runs. Another
# version of touchstone reruns what it changes and nothing else; `touchstone init --update` writes those lists anew.
"""
_COMMENT = re.compile(r"\A(#.*\n)+")
_CODE = re.compile(r"^      - touchstone/\S+( +#.*)?\n", re.MULTILINE)
_STAGE = re.compile(r"^  (?=\w+:$)", re.MULTILINE)


def make(folder: Path) -> str:
    """Make a project in a folder that is new or holds none of its files, and commit it; returns what to do next.

    Raises:
        PipelineError: a file is already there, or git failed.
    """
    files = _files()
    if present := sorted(name for name in files if (folder / name).exists()):
        more = f" and {len(present) - 1} more files of a project" if len(present) > 1 else ""
        raise PipelineError(
            f"{folder} already holds {present[0]}{more}; name another folder, or say `touchstone init --update` to "
            "bring a project up to date"
        )
    for name, text in files.items():
        write_atomic(folder / name, text)
    what = f"a project for touchstone {installed.INSTALLED}"
    workspace.found(folder, sorted(files), what.capitalize())
    return f"{folder}: {what}, committed; next: cd {folder} && touchstone retrain"


def update(folder: Path) -> str:
    """Bring a project's files to the installed version, without committing; returns what was done.

    A file that was changed in the project stays as it is, and one that was removed stays away.

    Raises:
        PipelineError: the folder holds no project that `make` made.
    """
    if not (folder / MADE).is_file():
        raise PipelineError(f"{folder} is no project that `touchstone init` made ({MADE} is missing)")
    earlier = dict(
        line.split("  ", 1)[::-1] for line in (folder / MADE).read_text(encoding="utf-8").splitlines() if line
    )
    before = (folder / installed.VERSION).read_text(encoding="utf-8").strip()
    files = _files()
    written, conflicts = [], []
    for name, text in files.items():
        path = folder / name
        if name in OWN or (name in earlier and not path.exists()):
            continue
        present = digest_file(path) if path.exists() else None
        if present == digest_text(text):
            continue
        if present is None or present == earlier.get(name) or name.startswith(f"{installed.FOLDER}/"):
            write_atomic(path, text)
            written.append(name)
        elif earlier.get(name) != digest_text(text):
            conflicts.append(name)
    gone = [
        name
        for name, digest in earlier.items()
        if name not in files and (folder / name).is_file() and digest_file(folder / name) == digest
    ]
    for name in gone:
        (folder / name).unlink()
    lines = [f"{folder}: from touchstone {before} to {installed.INSTALLED}; look at `git diff`, and commit"]
    lines += [f"  {name}: the new version's" for name in written]
    lines += [f"  {name}: removed" for name in gone]
    lines += [f"  {name}: changed by you and by the new version; yours is kept" for name in conflicts]
    return "\n".join(lines)


def _files() -> dict[str, str]:
    """Every file of a project by its path: its text."""
    root = _template()
    files = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in _paths(root)}
    stages = yaml.safe_load(files["dvc.yaml"])["stages"]
    files["dvc.yaml"] = _graph(files["dvc.yaml"])
    files["README.md"] = (PACKAGE / "pipeline" / "project.md").read_text(encoding="utf-8")
    files[installed.VERSION] = installed.INSTALLED + "\n"
    for name, stage in stages.items():
        code = [dep for dep in stage["deps"] if dep.startswith("touchstone/")]
        files[installed.list_of(name)] = installed.digests(code)
    files[MADE] = "".join(f"{digest_text(text)}  {name}\n" for name, text in sorted(files.items()))
    return files


def _template() -> Path:
    """Where a project's files lie: inside an installed package, around the package in a checkout."""
    inside = PACKAGE / "template"
    return inside if inside.is_dir() else PACKAGE.parent


def _paths(root: Path) -> Iterator[Path]:
    if root != PACKAGE.parent:
        yield from (path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
        return
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for name in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["files"]:
        inside = sorted((root / name).rglob("*")) if (root / name).is_dir() else [root / name]
        yield from (path for path in inside if path.is_file() and "__pycache__" not in path.parts)


def _graph(text: str) -> str:
    """dvc.yaml, in which each stage depends on one list of its code's digests instead of on the code."""
    head, *stages = _STAGE.split(_COMMENT.sub(HEAD, text, count=1))
    changed = []
    for stage in stages:
        name, _, rest = stage.partition(":")
        once = _CODE.sub(f"      - {installed.list_of(name)}\n", rest, count=1)
        changed.append(f"  {name}:{_CODE.sub('', once)}")
    return head + "".join(changed)
