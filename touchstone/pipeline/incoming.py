"""What a run takes before it begins: the files of `loop.inbox`, each a version of the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from touchstone import settings as settings_module
from touchstone.pipeline import overrides

if TYPE_CHECKING:
    from touchstone.pipeline.inbox import Taken


def take(root: Path, words: list[str]) -> Taken | None:
    """Take what lies there; None where the settings name no inbox. A refused batch is said, and stops nothing.

    Args:
        words: overrides, as of a run.

    Raises:
        SettingsError: the settings' source reads no files, or the folder is missing.
        BusyError: another process is at it.
        PipelineError: DVC or git refused; what was taken until then stays.
    """
    committed = settings_module.load(root / "params.yaml")
    settings = overrides.apply(committed, words, root / "configs") if words else committed
    if settings.loop.inbox is None:
        return None
    from touchstone.pipeline import inbox  # "nothing to do" must not wait for what reads comparisons

    return inbox.take(root, settings, (root / settings.loop.inbox).resolve())
