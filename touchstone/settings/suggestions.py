"""What an override that names nothing may have meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml


def fault_of(overrides: Sequence[str], configs: Path) -> str | None:
    """The first override that names no group, choice or setting, in a sentence with what is near it.

    None where all of them name something, as far as `configs/` tells: it can't list keys that a user makes up
    (`split.assign.`) and those below a setting that is null there (`serve.shadow.`).
    """
    groups, known = _groups(configs), _known(configs)
    sections = {key.partition(".")[0] for key in known}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in groups:
            choices = _choices(key, configs)
            if value not in choices:
                return f"{key}={value}: no such choice{near(value, choices)}. There are {', '.join(choices)}"
        elif "." not in key and key not in sections:
            words = sorted({*groups, *sections})
            return f"{key} is neither a group nor a setting{near(key, words)}. The groups are {', '.join(groups)}"
        elif key not in known and not any(key.startswith(f"{name}.") for name, is_open in known.items() if is_open):
            return f"{key} is no setting{near(key, known)}. params.yaml holds all of them"
    return None


def completions(word: str, configs: Path) -> list[str]:
    """How a half-typed override may go on: groups and settings up to their `=`, and after it a group's choices."""
    key, equals, _ = word.partition("=")
    groups = _groups(configs)
    if equals:
        return [f"{key}={choice}" for choice in _choices(key, configs)] if key in groups else []
    settings = sorted(name for name in _known(configs) if "." in name and not name.startswith("defaults"))
    return [f"{name}=" for name in [*groups, *settings]]


def _groups(configs: Path) -> list[str]:
    defaults = yaml.safe_load((configs / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return sorted(group for entry in defaults if isinstance(entry, dict) for group in entry)


def _choices(group: str, configs: Path) -> list[str]:
    return sorted(file.stem for file in (configs / group).glob("*.yaml"))


def _known(configs: Path) -> dict[str, bool]:
    """Every setting that a file names, and whether anything may stand below it."""
    known: dict[str, bool] = {}
    for file in configs.rglob("*.yaml"):
        known |= dict(_dotted(yaml.safe_load(file.read_text(encoding="utf-8"))))
    return known


def near(word: str, words: Iterable[str]) -> str:
    """` (did you mean ...?)` where a known word is close to `word`, else nothing."""
    close = get_close_matches(word, sorted(words), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _dotted(values: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Every setting of a file, by its dotted name, and whether anything may stand below it."""
    for key, value in values.items():
        if key != "defaults":
            yield f"{prefix}{key}", value is None or value == {}
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
