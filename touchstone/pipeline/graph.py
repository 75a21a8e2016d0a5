"""The graph of `dvc.yaml`, read only: stages in topological order, with what they take and give.

for stage in read(Path("dvc.yaml"), Path("params.yaml")):
    print(stage.name, stage.sources)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from touchstone.errors import PipelineError

_VARIABLE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of `dvc.yaml`, its `${...}` resolved.

    Attributes:
        description: what it does, for people.
        cmd: the shell command.
        deps: paths that it depends on, as written.
        outs: paths that it writes, metrics included.
        uncached: those of the outs that DVC keeps in no cache (small metrics, for git).
        params: dotted names in params.yaml.
        sources: the deps that no stage produces: code, configuration, data.
        parents: names of the stages that produce the other deps, in the file's order.
    """

    name: str
    description: str
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    uncached: tuple[str, ...]
    params: tuple[str, ...]
    sources: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()


def read(pipeline: Path, params: Path) -> list[Stage]:
    """Stages in topological order; among those that could come next, in the file's order.

    Raises:
        PipelineError: a file is missing or unreadable, a variable is unknown, or the stages form a cycle.
    """
    values = _load(params)
    raw = _load(pipeline).get("stages")
    if not isinstance(raw, dict) or not raw:
        raise PipelineError(f"{pipeline.name} holds no stages")
    loose = [_stage(str(name), _resolve(entry, values)) for name, entry in raw.items()]
    stages = []
    for stage in loose:
        parents = tuple(feeder.name for feeder in loose if feeder is not stage and _feeds(feeder, stage.deps))
        sources = tuple(dep for dep in stage.deps if not any(_feeds(feeder, (dep,)) for feeder in loose))
        stages.append(replace(stage, sources=sources, parents=parents))
    return _sort(stages)


def upstream(stages: Sequence[Stage], output: str) -> list[str]:
    """Names of the stage that gives an output and of all stages before it."""
    by_name = {stage.name: stage for stage in stages}
    names: list[str] = []
    pending = [stage.name for stage in stages if output in stage.outs]
    while pending:
        name = pending.pop()
        if name not in names:
            names.append(name)
            pending += by_name[name].parents
    return names


def lookup(values: Mapping[str, Any], dotted: str) -> Any:
    """The value under a dotted name.

    Raises:
        PipelineError: there is none.
    """
    value: Any = values
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise PipelineError(f"dvc.yaml names {dotted}, which params.yaml does not hold")
        value = value[part]
    return value


def _load(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist; run this from the project's root") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise PipelineError(f"{path} is not YAML in UTF-8: {' '.join(str(error).split())}") from None
    return values if isinstance(values, dict) else {}


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    """`value` with every `${dotted.name}` replaced by what params.yaml holds, as DVC does."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: str(lookup(values, match[1].strip())), value)
    if isinstance(value, list):
        return [_resolve(item, values) for item in value]
    if isinstance(value, dict):
        return {_resolve(key, values): _resolve(item, values) for key, item in value.items()}
    return value


def _stage(name: str, entry: Mapping[str, Any]) -> Stage:
    outs = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    return Stage(
        name=name,
        description=str(entry.get("desc", name)),
        cmd=str(entry["cmd"]),
        deps=_paths(entry.get("deps", [])),
        outs=_paths(outs),
        uncached=tuple(
            p for out in outs if isinstance(out, dict) for p, how in out.items() if how.get("cache") is False
        ),
        params=_paths(entry.get("params", [])),
    )


def _paths(entries: Iterable[str | Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of a list whose entries are names, or mappings of one name to its options."""
    return tuple(entry if isinstance(entry, str) else next(iter(entry)) for entry in entries)


def _feeds(stage: Stage, deps: Iterable[str]) -> bool:
    """Whether an out of `stage` is one of the deps, lies inside one, or holds one."""
    return any(
        dep == out or dep.startswith(f"{out}/") or out.startswith(f"{dep}/") for dep in deps for out in stage.outs
    )


def _sort(stages: Sequence[Stage]) -> list[Stage]:
    ordered: list[Stage] = []
    left = list(stages)
    while left:
        done = {stage.name for stage in ordered}
        ready = next((stage for stage in left if done.issuperset(stage.parents)), None)
        if ready is None:
            raise PipelineError(f"the stages {', '.join(stage.name for stage in left)} of dvc.yaml form a cycle")
        ordered.append(ready)
        left.remove(ready)
    return ordered
