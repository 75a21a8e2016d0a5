"""The run's `data/`: from the checkout as it stands, from the cache, or imported anew.

`data.dvc` is a promise: what it names is brought back exactly, or there is an error. Where the settings name other
data than the checkout's, the source is read straight into the run's worktree.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.errors import DataError, PipelineError
from touchstone.pipeline import dvc, workspace
from touchstone.pipeline.hashes import hash_folder
from touchstone.runtime.files import write_atomic
from touchstone.settings import Settings
from touchstone.settings.data import Data, SandboxData

if TYPE_CHECKING:  # pyarrow comes with it, which a run whose data is there doesn't need
    from touchstone.data.importing import ImportSummary

POINTER = "data.dvc"
QUICKLY_HASHED_BYTES = 200 * 2**20


def import_data(settings: Settings, root: Path) -> ImportSummary:
    """Read the settings' source into the checkout's data/ and write its pointer.

    Raises:
        DataError: the source can't be read; data/ and the pointer are as they were.
        PipelineError: DVC refused.
    """
    from touchstone.data import importing

    summary = importing.import_source(settings, root, root / "data")
    dvc.add(root, "data")
    return summary


def settle(
    root: Path, worktree: Path, settings: Settings, committed: Settings, *, clean: bool, named: bool = False
) -> None:
    """Make the worktree's data.dvc name the run's data, with as little work as possible.

    Where the source is read, the run gets what `import_data` would have made of the checkout's data/ by then.

    Args:
        settings: of the run.
        committed: what the worktree's own params.yaml said before overrides.
        clean: take the committed pointer, and don't look at the checkout's data/.
        named: the run's own words name the data: it is read again even where params.yaml says the same.

    Raises:
        DataError: the source can't be read.
        PipelineError: DVC refused.
    """
    if named or settings.data != committed.data:
        _import(settings, root, worktree, clean=clean)
    elif not clean and (root / "data").is_dir():
        _check_source(root, settings.data)
        if not _is_as_committed(root):
            shutil.copytree(root / "data", worktree / "data")
            dvc.add(worktree, "data")
    elif dvc.pointer_hash(worktree / POINTER) is None:
        _import(settings, root, worktree, clean=clean)


def follow(root: Path, worktree: Path) -> None:
    """Let a run of HEAD take the checkout's data.dvc, which the inbox moves and nobody commits at night."""
    if (root / POINTER).is_file():
        shutil.copyfile(root / POINTER, worktree / POINTER)


def pin(root: Path, worktree: Path, settings: Settings, version: str) -> Settings:
    """Make the worktree's data.dvc name a past version's data, and name the model after it: it is no rival of the
    champion, whose data is another.

    Args:
        version: a git revision or a run's id.

    Returns:
        The settings with that name.

    Raises:
        PipelineError: there is no such version, or it has no data.dvc.
    """
    for revision in (version, f"{workspace.REFS}/{version}"):
        text = workspace.file_at(root, revision, POINTER)
        if text is not None:
            write_atomic(worktree / POINTER, text + "\n")
            pointed = str(dvc.pointer_hash(worktree / POINTER))
            return settings.model_copy(update={"name": f"{settings.name}-as-of-{pointed[:8]}"})
    raise PipelineError(f"{version} is no git revision and no run's id with a {POINTER}; see `git log` and runs/")


def bring(root: Path, worktree: Path, settings: Settings) -> None:
    """Put the data that the worktree's pointer names into its data/: from the cache, the remote or the checkout.

    The sandbox is generated again where none of them has it: its bytes are the same on any machine. Other sources may
    have changed since, so they are not asked.

    Raises:
        DataError: the data can't be had, or isn't what the pointer names.
        PipelineError: DVC refused.
    """
    data, pointer = worktree / "data", worktree / POINTER
    if data.is_dir():
        return
    if not dvc.checkout(worktree, POINTER) and not (dvc.fetch(worktree, POINTER) and dvc.checkout(worktree, POINTER)):
        shutil.rmtree(data, ignore_errors=True)  # DVC leaves what it could bring
        wanted = dvc.pointer_hash(pointer)
        if (root / "data").is_dir() and dvc.pointer_hash(root / POINTER) == wanted and _is_as_committed(root):
            shutil.copytree(root / "data", data)
        elif isinstance(settings.data, SandboxData):
            from touchstone.data import importing

            _say("data/ is in no cache: generating the sandbox again")
            importing.import_source(settings, root, data)
        else:
            raise DataError(
                f"data.dvc names {wanted}, which is neither in the cache nor in a remote; import it again with "
                f"`touchstone data import`"
            )
        dvc.add(worktree, "data")
        made = dvc.pointer_hash(pointer)
        if made != wanted:
            raise DataError(
                f"data.dvc names {wanted}, but the settings give {made}: params.yaml and data.dvc don't belong "
                f"together; run `touchstone data import` and commit both"
            )
    _check_source(worktree, settings.data)


def _import(settings: Settings, root: Path, worktree: Path, *, clean: bool) -> None:
    """Read the source into the worktree, on top of what the checkout holds; if `clean`, of what its commit names."""
    from touchstone.data import importing

    if clean and dvc.pointer_hash(worktree / POINTER) is not None:
        dvc.checkout(worktree, POINTER)  # where nothing has it, the source alone is what there is
    earlier = (worktree if clean else root) / "data"
    summary = importing.import_source(settings, root, worktree / "data", earlier)
    dvc.add(worktree, "data")
    _say(summary.render())


def _is_as_committed(root: Path) -> bool:
    pointed = dvc.pointer_hash(root / POINTER)
    if pointed is None:
        return False
    # Small data is hashed here, in less time than DVC takes to start; it is asked where that differs (.dvcignore).
    size = sum(path.stat().st_size for path in (root / "data").rglob("*") if path.is_file())
    if size <= QUICKLY_HASHED_BYTES and hash_folder(root / "data") == pointed:
        return True
    try:
        return not dvc.status(root, POINTER)
    except PipelineError:  # another DVC command holds the checkout; reading the data itself needs no leave
        return False


def _check_source(folder: Path, data: Data) -> None:
    """data/source.json says what was imported; `path` loses its folders there, and a hub's revision is pinned."""
    try:
        recorded = json.loads((folder / "data" / "source.json").read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # not written by an import of ours; validation looks at the groups themselves
    named = {key: value for key, value in data.model_dump(mode="json").items() if key not in ("path", "revision")}
    wrong = [key for key, value in named.items() if recorded.get(key) != value]
    if wrong:
        raise DataError(
            f"data/ was imported with other settings than params.yaml has now ({', '.join(wrong)}); "
            f"run `touchstone data import`, or configure the source that data/ came from"
        )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
