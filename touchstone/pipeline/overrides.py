"""A run's own settings: the checkout's `params.yaml` with overrides laid over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from touchstone import settings as settings_module
from touchstone.errors import SettingsError
from touchstone.runtime.files import write_atomic
from touchstone.settings import Settings, suggestions


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
        if bare := next((word for word in overrides if "=" not in word), None):
            raise SettingsError(f"{bare} has no value: write group=choice or key=value") from None
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
            _put(values, override.key_or_group, override.value(), configs)
        else:
            raise SettingsError(f"{override.input_line}: only group=choice and key=value can be given here")
    changed = settings_module.parse(values)
    if any(override.key_or_group == "name" for override in parsed):
        return changed
    return settings_module.parse({**values, "name": current.name.removesuffix(current.subject) + changed.subject})


@dataclass(frozen=True)
class Change:
    """A setting that `configure` has changed; None before or after also stands for one that isn't there."""

    setting: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Configured:
    """What params.yaml is about now, and what has changed in it.

    Attributes:
        changes: None where there was nothing to compare with.
    """

    name: str
    data: str
    model: str
    changes: tuple[Change, ...] | None

    def to_json(self) -> dict[str, Any]:
        """For other programs."""
        return asdict(self)

    def render(self) -> str:
        """For people."""
        lines = [f"params.yaml: {self.name}, data {self.data}, model {self.model}"]
        lines += [
            f"  {change.setting}: {_said(change.before)} -> {_said(change.after)}"
            for change in self.changes or ()
            if (change.before, change.after) != (None, None)  # a setting that has come, or gone, without a value
        ]
        if self.changes == ():
            lines.append("  nothing has changed; `touchstone configure --help` shows an example")
        return "\n".join(lines)


def _said(value: Any) -> str:
    return "not set" if value is None else str(value)


def configure(root: Path, overrides: list[str], *, reset: bool) -> Configured:
    """Write params.yaml, with overrides laid over it or over the defaults of `configs/`, and say what has changed.

    Args:
        reset: compose `configs/` anew; also where there is no params.yaml yet. The changes are then those from the
            params.yaml that was there, if it can be read.

    Raises:
        SettingsError: params.yaml can't be read and isn't reset, an override names nothing, or a value is wrong.
    """
    path, configs = root / "params.yaml", root / "configs"
    try:
        before = settings_module.load(path) if path.exists() else None
    except SettingsError:
        if not reset:
            raise
        before = None
    if reset or before is None:
        after = settings_module.compose(overrides, configs)
    else:
        after = apply(before, overrides, configs) if overrides else before
    write_atomic(path, settings_module.dump(after))
    changes = None if before is None else _changes(before, after)
    return Configured(after.name, after.data.source, after.model.kind, changes)


def _changes(before: Settings, after: Settings) -> tuple[Change, ...]:
    """The settings that differ."""
    old, new = (dict(_leaves(settings.model_dump(mode="json"))) for settings in (before, after))
    return tuple(
        Change(key, old.get(key), new.get(key))
        for key in [*new, *(key for key in old if key not in new)]
        if key not in old or key not in new or old[key] != new[key]
    )


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


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


def _put(values: dict[str, Any], dotted: str, value: Any, configs: Path) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        values = values.get(section, {}) if isinstance(values, dict) else {}
    if not isinstance(values, dict) or (last not in values and sections[-1:] != ["assign"]):
        fault = suggestions.fault_of([f"{dotted}={value}"], configs)
        raise SettingsError(fault or f"{dotted} is no setting of this configuration; params.yaml holds all of them")
    values[last] = value
