"""Texts that people read after a decision: where the candidate contradicts the labels."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from touchstone import statistics
from touchstone.gate.checks import Check
from touchstone.gate.rows import Rows
from touchstone.groups import Group
from touchstone.runtime.files import write_json
from touchstone.statistics import CalibrationMap

WORST = 20


def write_disagreements(
    path: Path,
    groups: Sequence[Group],
    rows: Rows,
    calibration_map: CalibrationMap,
    champion_map: CalibrationMap | None,
) -> None:
    """Write the pairs where the candidate is surest that the label is wrong, the surest first.

    Args:
        rows: of these groups.
        calibration_map, champion_map: the candidate's, and the champion's where there is one.
    """
    pairs, champion = rows.candidate(calibration_map), rows.champion(champion_map)
    known = {group.id: group for group in groups}
    chances = statistics.probability(pairs.differences, calibration_map)
    wrong = np.flatnonzero(pairs.decided & np.isfinite(pairs.differences) & (pairs.differences < 0))
    order = wrong[np.lexsort((wrong, pairs.differences[wrong]))][:WORST]
    plain = rows.plain()
    found = []
    for place in order:
        row = plain[place]
        group = known[row.group_id]
        rejected = row.first if row.chosen == row.second else row.second
        assert row.chosen is not None  # noqa: S101  decided pairs have one
        found.append(
            {
                "group_id": group.id,
                "prompt": [{"role": turn.role, "content": turn.content} for turn in group.prompt],
                "chosen": group.completions[row.chosen].text,
                "rejected": group.completions[rejected].text,
                "difference": float(pairs.differences[place]),
                "probability": float(chances[place]),
                "champion_difference": _finite(champion.differences[place]) if champion is not None else None,
                "strength": row.strength,
            }
        )
    write_json(path, found)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def short_slices(checks: Sequence[Check]) -> set[str]:
    """Slices that are undecided for want of prompts."""
    tables = (check.table for check in checks if check.name == "slices")
    return {str(row["slice"]) for table in tables for row in table if row["status"] == "undecided"}


def read_disagreements(path: Path) -> list[dict[str, Any]]:
    """The inverse of `write_disagreements`."""
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found
