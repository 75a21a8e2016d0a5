"""Uses of a holdout, as the ledger has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from touchstone.gate import holdout_ledger

CONTENT = {
    "who": "ada",
    "time": "2026-01-01T00:00:00+00:00",
    "name": "reward-sandbox",
    "artifact": "a" * 64,
    "champion": None,
}


def open_holdout(path: Path, key: str, clusters: Sequence[str]) -> int:
    """Note a use of a holdout with those clusters of prompts; which use of its lineage it is, from 1."""
    return holdout_ledger.open_holdout(path, key=key, prompts=clusters, content=CONTENT).count
