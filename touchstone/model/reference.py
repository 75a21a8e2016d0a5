"""What people name a model by: a registered name with an alias or a version, or the folder of a sealed artifact.

read_reference("models:/reward-sandbox@champion", root)    # a registered model and the alias that is meant
read_reference("build/artifact", root)                     # a folder: no registry is needed
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from touchstone.errors import SettingsError

CHAMPION = "champion"

_REGISTERED = re.compile(
    r"(?P<scheme>models:/)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})"
    r"(?:@(?P<alias>[A-Za-z0-9._-]+)|(?(scheme)/(?P<number>[0-9]{1,18})|(?!)))?"  # NAME/7 alone may be a folder
)


@dataclass(frozen=True)
class Reference:
    """The model that somebody means.

    Attributes:
        name: the model's.
        which: an alias, or a version's number.
        folder: the sealed artifact's; None for a registered model.
    """

    name: str
    which: str = CHAMPION
    folder: Path | None = None


def read_reference(model: str, root: Path, name: str | None = None) -> Reference:
    """What a setting or an option names: NAME, models:/NAME, models:/NAME@ALIAS, models:/NAME/VERSION, or a folder.

    Args:
        root: relative folders count from here.
        name: what a folder's model is called; default: the folder's own name.

    Raises:
        SettingsError: none of these, or another name for a registered model.
    """
    folder = root / model
    if folder.is_dir():
        return Reference(name or folder.resolve().name, folder=folder.resolve())
    match = _REGISTERED.fullmatch(model)
    if match is None:
        raise SettingsError(
            f"{model!r} is no folder and names no registered model; write a sealed artifact's folder, "
            "models:/NAME@champion or models:/NAME/VERSION"
        )
    if name not in (None, match["name"]):
        raise SettingsError(f"{model} has its name from the registry; --name {name} goes with a folder only")
    return Reference(match["name"], match["alias"] or match["number"] or CHAMPION)
