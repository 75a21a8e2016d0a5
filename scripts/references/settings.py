"""Every group with its choices, every section with its settings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from scripts.references.words import MADE, ROOT, cell, code, sentence


def field_words(model: type[BaseModel]) -> dict[str, str]:
    """What the code says about each field: the string below it, or its entry under "Attributes:" of the class."""
    words: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        words |= _attributes(cls.__doc__ or "")
        body = next(ast.iter_child_nodes(ast.parse(textwrap.dedent(inspect.getsource(cls)))))
        statements = [node for node in ast.iter_child_nodes(body) if isinstance(node, ast.stmt)]
        for field, text in pairwise(statements):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                words[ast.unparse(field.target)] = cell(str(text.value.value))
    return words


def _attributes(doc: str) -> dict[str, str]:
    """The entries under "Attributes:" of a docstring; one entry may name several."""
    _, _, listed = inspect.cleandoc(doc).partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: cell(text) for names, text in entries for name in names.split(", ")}


def comments(path: Path) -> dict[str, str]:
    """The comment behind each setting of a configuration, by its dotted path."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"^( *)([\w]+):(.*)$", line)
        if match is None:
            continue
        indent, key, rest = len(match[1]), match[2], match[3]
        parents = [(depth, name) for depth, name in parents if depth < indent] + [(indent, key)]
        if "  # " in rest:
            found[".".join(name for _, name in parents)] = cell(rest.partition("  # ")[2])
    return found


def kind_of(annotation: Any, metadata: list[Any]) -> str:
    """What values a setting takes, in words."""
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in _flat(metadata)
        for name, sign in (("gt", ">"), ("ge", "at least"), ("lt", "<"), ("le", "at most"))
        if getattr(item, name, None) is not None
    ]
    return _plain(annotation) + (f" ({', '.join(bounds)})" if bounds else "")


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from getattr(item, "metadata", [item])


def _plain(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(code(_value(value)) for value in arguments)
    if hasattr(annotation, "__metadata__"):
        return kind_of(arguments[0], list(annotation.__metadata__))
    if origin in (Union, UnionType):
        return " or ".join("null" if part is type(None) else _plain(part) for part in arguments)
    if origin is list:
        return f"list of {_plain(arguments[0])}"
    if origin is tuple:
        return " and ".join(_plain(part) for part in arguments)
    if origin is dict:
        return f"{_plain(arguments[0])}: {_plain(arguments[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}
    if annotation in names:
        return names[annotation]
    return f"see {annotation.__name__}" if inspect.isclass(annotation) else str(annotation)


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _default(value: object) -> str:
    if isinstance(value, dict | list):
        return code(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip())
    return code(_value(value))


def table_of(model: type[BaseModel], path: str, values: dict[str, Any], notes: dict[str, str]) -> list[str]:
    """One section's table; sections inside it follow, as `section.inner`."""
    lines = ["| setting | default | values | what it means |", "|---|---|---|---|"]
    after: list[str] = []
    said = field_words(model)
    for name, field in model.model_fields.items():
        dotted = f"{path}.{name}"
        inner = next((part for part in _parts(field.annotation) if _is_section(part)), None)
        words = _joined(said.get(name, ""), notes.get(dotted, ""))
        value = values.get(name, None if field.is_required() else field.get_default(call_default_factory=True))
        default = _default(value) if name in values or not field.is_required() else ""
        if inner is not None and isinstance(value, dict):
            after += ["", f"### `{dotted}`", "", sentence(inner.__doc__), ""]
            after += table_of(inner, dotted, value, notes)
            continue
        lines.append(f"| `{name}` | {default} | {kind_of(field.annotation, field.metadata)} | {words} |")
    return (lines if len(lines) > 2 else []) + after


def _joined(words: str, note: str) -> str:
    """What the code and the configuration say; once where they say the same."""
    if not words or note.rstrip(".").lower() in words.lower():
        return words or note
    return f"{words} *{note}*" if note else words


def _is_section(part: Any) -> bool:
    return inspect.isclass(part) and issubclass(part, BaseModel)


def _parts(annotation: Any) -> list[Any]:
    if hasattr(annotation, "__metadata__"):
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for part in get_args(annotation) for inner in _parts(part)]
    return [annotation]


HEAD = """\
# Settings

All settings stand in `params.yaml`, which `touchstone configure` writes from `configs/`. A **group** is chosen by name
(`objective=davidson`), a **setting** by its path (`train.learning_rate=5e-4`); both work after `configure`, `plan`,
`retrain` and in `OVERRIDES`, and `dvc exp run -S` takes settings. An unknown name, or a value out of range, is refused
before anything runs.

## Groups and their choices

"""


def settings_page() -> str:
    """Every group with its choices, every section with its settings."""
    from touchstone import settings

    configs = ROOT / "configs"
    defaults = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    notes = dict(comments(configs / "config.yaml"))
    chosen = {
        group: choice
        for entry in yaml.safe_load((configs / "config.yaml").read_text())["defaults"]
        if isinstance(entry, dict)
        for group, choice in entry.items()
    }
    lines = [
        MADE,
        *HEAD.splitlines(),
        "| group | choice | what it is |",
        "|---|---|---|",
    ]
    for group in sorted(path.name for path in configs.iterdir() if path.is_dir() and path.name in chosen):
        for path in sorted((configs / group).glob("*.yaml")):
            mark = " (default)" if chosen[group] == path.stem else ""
            lines.append(f"| {group} | `{group}={path.stem}`{mark} | {_head(path)} |")
            if path.stem == chosen[group]:
                notes |= comments(path)
    lines += ["", "`train.accelerate` names a file of `configs/accelerate/`: "]
    lines[-1] += ", ".join(f"`{path.stem}`" for path in sorted((configs / "accelerate").glob("*.yaml"))) + "."
    for name, field in settings.Settings.model_fields.items():
        sections = [part for part in _parts(field.annotation) if _is_section(part)]
        if not sections:
            continue
        lines += ["", f"## `{name}`"]
        for section in sections:
            title = _tag(section) if len(sections) > 1 else None
            if title:
                lines += ["", f"### `{name}`: {title}"]
            lines += ["", sentence(section.__doc__), ""]
            own = defaults.get(name) or {}
            values, found = (own, notes) if title is None else _values(section, name, own)
            lines += table_of(section, name, values, found)
    return "\n".join(lines) + "\n"


def _head(path: Path) -> str:
    """A configuration's first comment: what it is."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line == "# @package _global_":
            continue
        if not line.startswith("# "):
            break
        words.append(line[2:])
    return cell(" ".join(words))


def _tag(section: type[BaseModel]) -> str:
    """Which values of source or kind choose this member of a union."""
    for name in ("source", "kind"):
        if name in section.model_fields:
            values = get_args(section.model_fields[name].annotation)
            return ", ".join(code(f"{name}: {value}") for value in values)
    return code(section.__name__)


def _values(section: type[BaseModel], name: str, own: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The defaults and comments of the configuration that brings this member of a union."""
    field = "source" if "source" in section.model_fields else "kind"
    tags = get_args(section.model_fields[field].annotation)
    folder = {"data": "data", "model": "model", "llm_judge": "llm_judge"}[name]
    names = {"remote": "remote", "local": "local"}
    for path in (ROOT / "configs" / folder / f"{names.get(tag, tag)}.yaml" for tag in tags):
        if path.is_file():
            values = (yaml.safe_load(path.read_text()) or {}).get(name) or {}
            return {key: value for key, value in values.items() if value != "???"}, comments(path)
    return (own if own.get(field) in tags else {}), {}
