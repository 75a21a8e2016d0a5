"""Everything that may read a file: the choices of configs/data/ whose columns it has, and what the rules say.

for proposal in proposals(profiles, choices, "../mine/pairs.csv", {}): ...
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from touchstone.data.look.proposals import Proposal
from touchstone.data.look.rules import Profiles, Table, answer_columns, by_rules, context_of, listed
from touchstone.data.sources.hh_rlhf import AXES
from touchstone.data.sources.paths import first_names

MAX_RULED = 60
"""Proposals of the rules that are read at most."""
_AT_HOME = frozenset({"ultrafeedback", "skywork_preference"})
"""Choices that read what every pair of chosen and rejected has: only their own data set is theirs."""


def proposals(profiles: Profiles, choices: Mapping[str, Table], path: str, places: Table) -> list[Proposal]:
    """All of them: of a file, a folder or a hub id at `path`; `places` say what of it is read (split, subset ...)."""
    table = {"path": path, **places}
    name = _name(path)
    everything = [
        *_presets(profiles, choices, table, name),
        *_exports(profiles, table, name),
        *islice(by_rules(profiles, table, name), MAX_RULED),
    ]
    changed = [replace(each, changes=_changed(each, choices)) for each in everything]
    unique = {repr((each.choice, sorted(each.changes.items(), key=str))): each for each in reversed(changed)}
    return list(reversed(unique.values()))


def _changed(proposal: Proposal, choices: Mapping[str, Table]) -> dict[str, Any]:
    """The changes that change something."""
    usual: Any = choices[proposal.choice]["data"]

    def at(name: str) -> Any:
        value = usual
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    return {name: value for name, value in proposal.changes.items() if value != at(name)}


def _name(path: str) -> str:
    """A name for the data, after the last part of where it lies that is no split's."""
    parts = [re.sub(r"\.[\w.]+$", "", part) for part in Path(path).parts]
    telling = [part for part in parts if part.strip("./~") and part not in ("data", "train", "test")]
    return re.sub(r"\W+", "_", telling[-1] if telling else "mine", flags=re.ASCII).strip("_") or "mine"


def _presets(profiles: Profiles, choices: Mapping[str, Table], table: Table, name: str) -> Iterator[Proposal]:
    columns = {path for path in profiles if "." not in path and "[]" not in path} | set(profiles)
    for choice, values in choices.items():
        data = values["data"]
        needed = _needed(choice, data, profiles)
        if needed is None or not all(first_names(path) & columns or path in columns for path in needed):
            continue
        is_at_home = data["path"] == table["path"]
        is_general = data["path"] == "???"
        changes = dict(table) if not is_at_home else {key: table[key] for key in table if key != "path"}
        if is_general:
            changes["name"] = name
        changes = {key: value for key, value in changes.items() if key in (*data, "path", "split", "subset")}
        changes |= {
            key: None for key in ("time", "cluster") if data.get(key) and not first_names(str(data[key])) & columns
        }
        if choice in _AT_HOME and not is_at_home:
            continue
        is_preset = choice not in ("preference", "table", "rated", "ranked") or is_at_home
        for more in _axes(data, str(table["path"])):
            yield Proposal(choice, changes | more, is_preset)


def _axes(data: Table, path: str) -> list[dict[str, Any]]:
    """The axes by which transcripts may be read: what a folder's name says, or either."""
    if data["source"] != "hh_rlhf":
        return [{}]
    named = [axis for part, axis in AXES.items() if part in Path(path).parts]
    return [{"axis": axis} for axis in named or ("harmlessness", "helpfulness")]


def _needed(choice: str, data: Table, profiles: Profiles) -> list[str] | None:
    """The paths that a choice can't do without; None where it isn't tried."""
    match data["source"]:
        case "table":
            needed = [*listed(data["prompt"]), *listed(data["completions"]), *listed(data["policies"])]
            if data["rows"] == "tree":
                return [f"{data['tree']['root']}.{data['tree']['replies']}"]
            needed += [path for each in data["judgements"].values() for path in listed(each["field"])]
            return [*needed, *listed(data["turn"])]
        case "preference":
            fields = [data.get("chosen_field", "chosen"), data.get("rejected_field", "rejected")]
            pair = [profiles[field] for field in fields if field in profiles]
            # Messages in JSON inside a text it would read as a text.
            is_pair = all(each.kind == "text" or not isinstance(each.example, str) for each in pair)
            return fields if is_pair and all(each.kind != "texts" for each in pair) else None
        case "hh_rlhf":
            text = profiles["chosen"].example if "chosen" in profiles else None
            is_transcript = isinstance(text, str) and text.startswith("\n\nHuman:")
            return ["chosen", "rejected"] if is_transcript else None
        case "pandalm":
            return ["instruction", "response1", "response2", "annotator1"]
    return None


def _exports(profiles: Profiles, table: Table, name: str) -> Iterator[Proposal]:
    """Exports of the labelling tools, by the objects that they have and others don't."""
    local = {"path": table["path"], "name": name}
    is_label_studio = {"data", "annotations"} <= profiles.keys()
    is_argilla = {"fields", "responses"} <= profiles.keys()
    is_flat = any(path.endswith(".responses") for path in profiles) or any(
        path.endswith("[].user_id") for path in profiles
    )
    before = "data." if is_label_studio else "fields." if is_argilla else ""
    if not (is_label_studio or is_argilla or is_flat or "annotation_id" in profiles):
        return
    inner = {path.removeprefix(before): each for path, each in profiles.items() if path.startswith(before)}
    choice = "label_studio" if is_label_studio or "annotation_id" in profiles else "argilla"
    for sides in answer_columns(inner):
        context = context_of(inner, sides.paths)
        prompt = context.get("prompt")
        if isinstance(prompt, str):
            changes = {**local, "prompt_field": prompt, "completion_fields": list(sides.paths)}
            yield Proposal(choice, changes, is_preset=before != "" or choice == "argilla")
            controls = profiles.get("annotations[].result[].from_name")
            for control in sorted(controls.values) if controls and len(controls.values) > 1 else []:
                yield Proposal(choice, changes | {"control": control}, is_preset=True)
