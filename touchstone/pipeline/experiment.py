"""Takes back the values that `dvc exp run -S` has written into params.yaml, once a stage has refused them.

    python -m touchstone.pipeline.experiment

DVC writes before it runs anything, and leaves a refused value where it is: every later command would stumble over it.
A stage that can't read its settings starts this, inside the experiment's own processes. What the command line named
gets the committed value again; what a person had edited beside it stays. DVC tells its stages of an experiment by
DVC_EXP_BASELINE_REV.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from touchstone import settings as settings_module
from touchstone.errors import SettingsError
from touchstone.pipeline.workspace import file_at
from touchstone.runtime.files import write_atomic

PARAMS = "params.yaml"
_OPTIONS = ("-S", "--set-param")


def undo(folder: Path, baseline: str, names: list[str]) -> bool:
    """Give the named settings in params.yaml their values of the commit `baseline`; True where that could be done."""
    text = file_at(folder, baseline, PARAMS)
    committed, present = yaml.safe_load(text or ""), yaml.safe_load((folder / PARAMS).read_text(encoding="utf-8"))
    if not names or not isinstance(committed, dict) or not isinstance(present, dict):
        return False
    for name in names:
        _copy(committed, present, name.split("."))
    if present == committed:  # to the letter: nothing is left to commit
        write_atomic(folder / PARAMS, f"{text}\n")
        return True
    try:
        sound = settings_module.parse(present)
    except SettingsError:  # something else is wrong too, and that is the person's own edit
        return False
    write_atomic(folder / PARAMS, settings_module.dump(sound))
    return True


def named(commands: list[list[str]]) -> list[str]:
    """The settings of params.yaml that the first of some commands to be `dvc exp run` sets.

    Args:
        commands: the words of each process, from the nearest upwards.
    """
    experiment = next((words for words in commands if {"exp", "experiments"} & set(words) and "run" in words), [])
    values = [after for word, after in pairwise(experiment) if word in _OPTIONS]
    values += [word.removeprefix("--set-param=") for word in experiment if word.startswith("--set-param=")]
    values += [word[2:] for word in experiment if word.startswith("-S") and len(word) > 2]
    keys = [value.partition("=")[0].removeprefix(f"{PARAMS}:").lstrip("+~") for value in values]
    return [key for key in keys if ":" not in key]  # another file's


def _copy(source: dict[str, Any], target: dict[str, Any], path: list[str]) -> None:
    """Make the value at a path in `target` the one in `source`; absent there is absent here."""
    *sections, last = path
    for section in sections:
        source, target = source.get(section) or {}, target.get(section) or {}
    if last in source:
        target[last] = source[last]
    else:
        target.pop(last, None)


def main() -> None:
    """Undo the experiment that this process belongs to, and say so on stdout."""
    commands = [process.cmdline() for process in psutil.Process().parents()]
    names = named(commands)
    if undo(Path.cwd(), os.environ["DVC_EXP_BASELINE_REV"], names):
        sys.stdout.write(f"{PARAMS} has the committed {', '.join(names)} again")


if __name__ == "__main__":
    main()
