"""A run's own settings: the checkout's `params.yaml` with overrides laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from touchstone import settings as settings_module
from touchstone.errors import SettingsError
from touchstone.settings import Settings


def apply(current: Settings, overrides: list[str], configs: Path) -> Settings:
    """`current` with `group=choice` and `key=value` overrides.

    A group replaces every section that one of its choices speaks of by the composed one, with the keys of those
    sections among the overrides. Any other key changes its one value. The rest stays as it is: composing everything
    anew would silently undo what `touchstone configure` or a person had chosen in params.yaml. The name follows the
    data's name and the axis.

    Raises:
        SettingsError: an override names no group, choice or key, or a value is wrong.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    # Which overrides choose a group, and which sections the choices speak of.
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise SettingsError(f"overrides can't be read: {str(error).strip().splitlines()[0]}") from None
    groups = {override.key_or_group for override in parsed if (configs / override.key_or_group).is_dir()}
    sections = {section for group in groups for section in _sections(configs / group)}
    composing = [
        override
        for override in parsed
        if override.key_or_group in groups or override.key_or_group.partition(".")[0] in sections
    ]

    # Those sections composed anew, then single values into the others.
    values = current.model_dump(mode="json")
    if composing:
        lines = [override.input_line or "" for override in composing]
        composed = settings_module.compose(lines, configs).model_dump(mode="json")
        values |= {section: composed[section] for section in sections}
    for override in parsed:
        if override in composing:
            continue
        if not override.is_add() and not override.is_delete() and not override.is_sweep_override():
            _put(values, override.key_or_group, override.value())
        else:
            raise SettingsError(f"{override.input_line}: only group=choice and key=value can be given here")
    changed = settings_module.parse(values)
    if any(override.key_or_group == "name" for override in parsed):
        return changed
    return settings_module.parse({**values, "name": current.name.removesuffix(current.subject) + changed.subject})


def name_data(overrides: list[str]) -> bool:
    """Whether overrides say which data to read, or that its file is the whole truth."""
    keys = [word.partition("=")[0] for word in overrides]
    return any(key.partition(".")[0] == "data" or key == "importing.replace" for key in keys)


def _sections(group: Path) -> set[str]:
    """The sections that any choice of a group sets."""
    files = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in group.glob("*.yaml")]
    return {key for file in files for key in file} - {
        "defaults",
        "name",
    }  # what a choice builds on; the name follows from the rest


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        values = values.get(section, {}) if isinstance(values, dict) else {}
    if not isinstance(values, dict) or (last not in values and sections[-1:] != ["assign"]):
        raise SettingsError(f"{dotted} is no setting of this configuration; params.yaml holds all of them")
    values[last] = value
