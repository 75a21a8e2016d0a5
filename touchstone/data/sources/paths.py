"""Dotted paths into a row, with list steps: `info.post`, `completions[].response`, `turns[-1].content`.

    value_at(row, "scores.overall")          # the value, or None where the path leads nowhere
    value_at(row, "completions[].response")  # a list with one value for each item of the list
    values_at(row, ["chosen", "rejected[]"]) # what several paths lead to, in one list

A field whose name holds a dot, or ends like a list step, is found before the path is taken apart. A path that goes on
into a text goes into the JSON that the text holds: that is how CSV files carry lists.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from touchstone.data.sources.rows import Unusable

_STEPS = re.compile(r"(?:\[(?:-?\d+)?\])+$")


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """What a path leads to; None where it leads nowhere, or to a null.

    Raises:
        Unusable: a list step stands at what is no list, or the path goes on into a text that is no JSON.
    """
    if path in values:
        return None if is_null(values[path]) else values[path]
    return _walk(values, _names(path), path)


def values_at(values: Mapping[str, Any], paths: Sequence[str]) -> list[tuple[str, Any]]:
    """What paths lead to, each with its path: a path with a list step has a value for each item.

    Raises:
        Unusable: as `value_at`, or a path leads nowhere.
    """
    listed: list[tuple[str, Any]] = []
    for path in paths:
        value = value_at(values, path)
        if value is None:
            raise Unusable(f"no field '{path}'")
        if has_list_step(path):
            listed += [(path, item) for item in value]
        else:
            listed.append((path, value))
    return listed


def has_list_step(path: str) -> bool:
    """Whether a path has a value for each item of a list."""
    return "[]" in path


def first_names(path: str) -> set[str]:
    """The names of columns that a path may begin with: `a.b[].c` may begin in `a.b[].c`, `a.b[]`, `a.b` or `a`."""
    names = _names(path)
    beginnings = {".".join(names[:count]) for count in range(1, len(names) + 1)}
    return beginnings | {_STEPS.sub("", name) for name in beginnings}


def is_null(value: Any) -> bool:
    """Whether a value stands for nothing: null, or the NaN by which tables write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def parse_json(text: str, field: str) -> Any:
    """The JSON that a text holds.

    Raises:
        Unusable: it is none, or holds NaN or a lone surrogate.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Unusable(f"'{field}' holds no valid JSON") from None
    return value


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


@cache
def _names(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


@cache
def _parts(name: str) -> tuple[str, tuple[int | None, ...]]:
    """A name without its list steps, and these: an index, or None for all items."""
    steps = _STEPS.search(name)
    if steps is None:
        return name, ()
    indices = steps[0][1:-1].split("][")
    return name[: steps.start()], tuple(int(index) if index else None for index in indices)


def _walk(value: Any, names: tuple[str, ...], path: str) -> Any:
    if not names or is_null(value):
        return None if is_null(value) else value
    if isinstance(value, str):
        value = parse_json(value, path)
    if not isinstance(value, Mapping):
        return None
    for count in range(len(names), 0, -1):
        name = ".".join(names[:count])
        if name in value:
            return _walk(value[name], names[count:], path)
        stem, steps = _parts(name)
        if steps and stem in value:
            return _step(value[stem], steps, names[count:], path)
    return None


def _step(value: Any, steps: tuple[int | None, ...], names: tuple[str, ...], path: str) -> Any:
    if not steps or is_null(value):
        return _walk(value, names, path)
    if isinstance(value, str):
        value = parse_json(value, path)
    if not isinstance(value, list):
        raise Unusable(f"'{path}' has a list step at what is not a list")
    if steps[0] is None:
        return [_step(item, steps[1:], names, path) for item in value]
    inside = -len(value) <= steps[0] < len(value)
    return _step(value[steps[0]], steps[1:], names, path) if inside else None
