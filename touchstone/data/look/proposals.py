"""A proposal: a choice of configs/data/ with changes, as settings, as a command to copy, and as a file to keep."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from touchstone.settings.data import Data

WIDTH = 80

_PLAIN = re.compile(r"[A-Za-z_./~][\w./~-]*", re.ASCII)
_KEY = re.compile(r"[\w./ -]*[\w./-]", re.ASCII)
_WORDS = frozenset({"null", "true", "false", "nan", "inf"})
_DATA: TypeAdapter[Any] = TypeAdapter(Data)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Settings that may read a file.

    Attributes:
        choice: of configs/data/.
        changes: what is set beside, by the dotted names below `data`.
        is_preset: the choice knows the shape by itself.
        remark: what it rests on.
        question: what the rows don't say, with the setting that decides it; proposals with the same question are
            readings of the same columns.
    """

    choice: str
    changes: Mapping[str, Any]
    is_preset: bool = False
    remark: str = ""
    question: str = ""

    def data(self, choices: Mapping[str, Mapping[str, Any]], **more: Any) -> Data:
        """The settings of the source; `more` are laid over them.

        Raises:
            pydantic.ValidationError: they don't go together.
        """
        values = copy.deepcopy(dict(choices[self.choice]["data"]))
        for name, value in self.changes.items():
            _set(values, name.split("."), copy.deepcopy(value))
        settings: Data = _DATA.validate_python({**values, **more})
        return settings

    def command(self) -> str:
        """The command that imports it, over several lines; with a file to write before where no command can say it."""
        if not all(map(_can_be_said, self.changes.values())):
            return self._as_file()
        words = [f"{_plus(name)}data.{name}={spelt(value)}" for name, value in self.changes.items()]
        return _over_lines(["touchstone", "data", "import", self.choice], words)

    def _as_file(self) -> str:
        """A configuration for configs/data/: Hydra's command line has no quoted keys."""
        where = {name: value for name, value in self.changes.items() if name == "path"}
        values: dict[str, Any] = {}
        for name, value in self.changes.items():
            if name not in where:
                _set(values, name.split("."), value)
        name = str(values.get("name", "mine"))
        text = yaml.safe_dump(
            {"defaults": [self.choice], "data": values}, sort_keys=False, allow_unicode=True, width=WIDTH
        )
        head = f"# @package _global_\n#   touchstone data import {name}\n"
        words = [f"data.{key}={spelt(value)}" for key, value in where.items()]
        command = _over_lines(["touchstone", "data", "import", name], words)
        return f"cat > configs/data/{name}.yaml <<'END'\n{head}{text}END\n{command}"


def _plus(name: str) -> str:
    """Hydra wants to be told that a key is meant that the choice doesn't have: that of a further axis."""
    return "+" if name.startswith("judgements.") and name.count(".") == 1 else ""


@cache
def choices_in(configs: Path) -> dict[str, dict[str, Any]]:
    """The choices of configs/data/, each with what it is based on laid under it."""
    files = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(configs.glob("data/*.yaml"))
    }
    choices = {}
    for name, values in files.items():
        based_on = [files[base] for base in values.pop("defaults", []) if base != "_self_"]
        choices[name] = _laid_over(values, *based_on)
    return choices


def spelt(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case list():
            return f"[{','.join(map(spelt, value))}]"
        case dict():
            return "{" + ",".join(f"{key}: {spelt(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.casefold() not in _WORDS:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _can_be_said(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_KEY.fullmatch(str(key)) and _can_be_said(item) for key, item in value.items())
    return True


def _over_lines(start: list[str], words: list[str]) -> str:
    lines = [" ".join(start)]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _set(values: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        values = values.setdefault(name, {})
    values[names[-1]] = value


def _laid_over(values: dict[str, Any], *based_on: dict[str, Any]) -> dict[str, Any]:
    laid = copy.deepcopy(values)
    for base in based_on:
        for name, value in base.items():
            if name not in laid:
                laid[name] = copy.deepcopy(value)
            elif isinstance(value, dict) and isinstance(laid[name], dict):
                laid[name] = _laid_over(laid[name], value)
    return laid
