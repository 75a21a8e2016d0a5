"""Labels that were asked for, added to `data/` beside what its source gave.

`source.json` counts them with the rest and says what was added, so that the data page shows it. What the source gives
later doesn't touch them. Groups that stand there already are left out: the same call again changes nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from touchstone.data.hygiene import clean_group
from touchstone.data.known import GROUPS, RECORD, read_record
from touchstone.errors import DataError
from touchstone.groups import Group, judged_pairs, to_line
from touchstone.runtime.files import write_folder, write_json

APPENDED = "appended"
"""Where `source.json` says what was added, the oldest first; it isn't there before."""


def append(data: Path, groups: Sequence[Group], origin: str) -> int:
    """Add judged groups to the project's data/; returns how many were new.

    Args:
        origin: what they are, in words, for the record.

    Raises:
        DataError: `data` holds no import.
    """
    record = read_record(data)
    if record is None:
        raise DataError(f"{data} holds no import to add labels to; `make data` brings it")
    with (data / GROUPS).open(encoding="utf-8") as lines:
        present = set(lines)
    fresh: dict[str, Group] = {}
    for group in groups:
        cleaned = clean_group(group)[0]
        line = to_line(cleaned)
        if line not in present:
            fresh[line] = cleaned
    if not fresh:
        return 0
    counts: dict[str, Any] = dict(record["counts"])
    edges = [edge for group in fresh.values() for edge in group.comparisons]
    added = {
        "groups": len(fresh),
        "completions": sum(len(group.completions) for group in fresh.values()),
        "comparisons": len(edges),
        "pairs": sum(len(judged_pairs(group)) for group in fresh.values()),
        "ties": sum(edge.ties > 0 for edge in edges),
    }
    counts |= {name: counts[name] + number for name, number in added.items()}
    entry = {"origin": origin, **added}
    written = json.loads((data / RECORD).read_text(encoding="utf-8"))

    def fill(folder: Path) -> None:
        shutil.copytree(data, folder, dirs_exist_ok=True)
        with (folder / GROUPS).open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(fresh)
        write_json(folder / RECORD, {**written, "counts": counts, APPENDED: [*written.get(APPENDED, []), entry]})

    write_folder(data, fill)
    return len(fresh)
