"""Every command with its arguments, options and examples."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from scripts.references.words import MADE, cell, code, sentence

HEAD = """\
# Commands

`touchstone COMMAND --help` says the same. Exit codes: 0 done (also "nothing to do"), 1 error, 2 wrong use, 3 blocked
by the gate. `group=choice` and `key=value` are in [settings](settings.md).
"""


def commands_page() -> str:
    """Every command with its arguments, options and examples."""
    import typer.main

    from touchstone.cli.main import app

    lines = [
        MADE,
        *HEAD.splitlines(),
    ]
    root = typer.main.get_command(app)
    walked = sorted(_walk(root, "touchstone"), key=lambda entry: entry[0])
    lines += ["", "| command | what it does |", "|---|---|"]
    lines += [f"| [`{name}`](#{name.replace(' ', '-')}) | {_summary(command)} |" for name, command in walked]
    for name, command in walked:
        lines += ["", f"## {name}", "", *_command(name, command)]
    return "\n".join(lines) + "\n"


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if getattr(command, "commands", None):
        for inner, child in command.commands.items():
            yield from _walk(child, f"{name} {inner}")
    else:
        yield name, command


def _summary(command: Any) -> str:
    return sentence(command.help)


def _command(name: str, command: Any) -> list[str]:
    help_text = inspect.cleandoc(command.help or "")
    paragraphs = [" ".join(part.split()) for part in help_text.split("\n\n")]
    examples = [part.removeprefix("Example: ") for part in paragraphs if part.startswith("Example: ")]
    lines = [part + "\n" for part in paragraphs if not part.startswith("Example: ")]
    if examples:
        lines += ["```", *examples, "```", ""]
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = parameter.metavar or parameter.name.upper()
            rows.append(f"| {code(shown)} | {cell(getattr(parameter, 'help', '') or '')} |")
        elif parameter.name != "help":
            names = ", ".join(code(option) for option in (*parameter.opts, *parameter.secondary_opts))
            default = parameter.default
            words = cell(parameter.help or "")
            if isinstance(default, str | int | float) and not isinstance(default, bool) and default != "":
                words += f" Default: {code(default)}."
            if parameter.required:
                words += " Required."
            rows.append(f"| {names} | {words} |")
    return [*lines, "| argument or option | |", "|---|---|", *rows] if rows else lines
