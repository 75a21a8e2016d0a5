"""What a run takes before it begins: the files of `loop.inbox`, each a version of the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from touchstone import settings as settings_module
from touchstone.errors import BusyError
from touchstone.pipeline import overrides
from touchstone.settings import Settings

if TYPE_CHECKING:
    from touchstone.pipeline.inbox import Taken


def folder_of(root: Path, words: list[str]) -> Path | None:
    """The inbox that the settings name; None where they name none, or nobody can read them, as the run will say.

    Args:
        words: overrides, as of a run.
    """
    return _folder(root, _settings(root, words))


def take(root: Path, words: list[str]) -> Taken | None:
    """Take what lies there; None where the settings name no inbox. A refused batch is said, and stops nothing.

    Args:
        words: overrides, as of a run.

    Raises:
        SettingsError: the settings' source reads no files, or the folder is missing.
        BusyError: another process is at it.
        PipelineError: DVC or git refused; what was taken until then stays.
    """
    settings = _settings(root, words)
    folder = _folder(root, settings)
    if settings is None or folder is None:
        return None
    from touchstone.pipeline import inbox  # "nothing to do" must not wait for what reads comparisons

    return inbox.take(root, settings, folder)


def is_busy(error: object) -> bool:
    """Whether another process is at it, and will have done soon."""
    return isinstance(error, BusyError)


def _folder(root: Path, settings: Settings | None) -> Path | None:
    return None if settings is None or settings.loop.inbox is None else (root / settings.loop.inbox).resolve()


def _settings(root: Path, words: list[str]) -> Settings | None:
    if not (root / "params.yaml").is_file():
        return None
    committed = settings_module.load(root / "params.yaml")
    return overrides.apply(committed, words, root / "configs") if words else committed
