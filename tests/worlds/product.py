"""The product as it stands, in a repository of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.places import ROOT
from touchstone.pipeline import workspace


def copy_product(target: Path) -> Path:
    """Copy what git knows or would take, without data, and commit it; returns the folder."""
    listed = workspace.git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        if (ROOT / name).is_file() and name != "data.dvc":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    workspace.git(target, "init", "--quiet")
    workspace.git(target, "add", "--all")
    workspace.git(target, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "start")
    return target
