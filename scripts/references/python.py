"""The tree of errors, and the public names with signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from typing import Any

from scripts.references.words import MADE, sentence

ERRORS = """\
# Errors

Every error that Touchstone raises on purpose is in one tree (`touchstone.errors`). The command line prints its message
as one sentence on standard error and ends with exit code 1; from Python, catch `TouchstoneError` or a branch of it. A
message says what happened, where (file, row, setting) and what to do, and never quotes an example's text. What typical
mistakes get is on the page [Troubleshooting](../troubleshooting.md).

"""


def errors_page() -> str:
    """The tree of errors, and each class with what it means."""
    from touchstone import errors

    tree = inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1]
    classes = [
        value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    lines = [
        MADE,
        *ERRORS.splitlines(),
        "```",
        *inspect.cleandoc(tree).splitlines(),
        "```",
        "",
        "| class | is a | raised when |",
        "|---|---|---|",
        *[
            f"| `{value.__name__}` | `{value.__bases__[0].__name__}` | {sentence(value.__doc__)} |"
            for value in classes
        ],
        "",
        "What the endpoint refuses is in [HTTP](http.md#refusals).",
    ]
    return "\n".join(lines) + "\n"


def python_page() -> str:
    """The public names, with signatures and docstrings."""
    lines = [
        MADE,
        "# Python",
        "",
        "What may be imported and relied on. Everything else is the product's own and may move without notice",
        "([compatibility](../compatibility.md)).",
    ]
    seen: set[int] = set()
    for module in ("touchstone", "touchstone.client"):
        loaded = importlib.import_module(module)
        members = [(name, getattr(loaded, name)) for name in getattr(loaded, "__all__", [])]
        members = [(name, value) for name, value in members if id(value) not in seen]
        seen |= {id(value) for _, value in members}
        if not members:
            continue
        lines += ["", f"## `{module}`", "", *_doc(loaded.__doc__)]
        for name, value in members:
            lines += ["", f"### `{name}`", "", *_member(name, value)]
    return "\n".join(lines) + "\n"


def _member(name: str, value: Any) -> list[str]:
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return ["```python", f"{name}: {type(value).__name__} = {value!r}", "```"]
    kind = "class" if inspect.isclass(value) else "async def" if inspect.iscoroutinefunction(value) else "def"
    lines = ["```python", f"{kind} {name}{_signature(value)}", "```", "", *_doc(value.__doc__)]
    if inspect.isclass(value):
        for method, function in vars(value).items():
            shown = function.__func__ if isinstance(function, classmethod | staticmethod) else function
            if method.startswith("_") or not (inspect.isfunction(shown) or isinstance(shown, property)):
                continue
            if isinstance(shown, property):
                lines += ["", f"**`.{method}`**: {sentence(shown.__doc__)}"]
                continue
            start = "async def" if inspect.iscoroutinefunction(shown) else "def"
            lines += ["", "```python", f"{start} {method}{_signature(shown)}", "```", "", *_doc(shown.__doc__)]
    return lines


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except ValueError:
        return "(...)"
    text = re.sub(r"\btouchstone(?:\.\w+)*\.(\w+)", r"\1", text).replace("'", "")
    text = re.sub(r"<(?:function|object) (\w+)[^>]*>", r"\1", text)
    if len(text) < 90:
        return text
    inner, _, answer = text.rpartition(" -> ") if " -> " in text else (text, "", "")
    parts = _split(inner[1:-1])
    return "(\n" + "".join(f"    {part},\n" for part in parts) + ")" + (f" -> {answer}" if answer else "")


def _split(text: str) -> list[str]:
    """Parameters at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _doc(doc: str | None) -> list[str]:
    """A docstring as Markdown: its words as they are, its sections as code so that their layout stays."""
    text = inspect.cleandoc(doc or "")
    if not text:
        return []
    words, *rest = re.split(
        r"^(?=(?:Args|Returns|Raises|Attributes|Yields|Example|Examples):$)", text, flags=re.MULTILINE
    )
    lines: list[str] = []
    for paragraph in words.strip().split("\n\n"):
        if re.search(r"^(?: {4}|with |async with |>>> |\w+\(|GRPO)", paragraph, re.MULTILINE):
            lines += ["```python", *textwrap.dedent(paragraph).splitlines(), "```", ""]
        else:
            lines += [" ".join(paragraph.split()), ""]
    for section in rest:
        lines += ["```text", *section.rstrip().splitlines(), "```", ""]
    return lines[:-1]
