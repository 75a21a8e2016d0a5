"""Sources of comparisons: each reads its own format and yields groups.

Each module below has `ABOUT`, what it says of itself, and `read`: groups and quarantined rows, one at a time.
`touchstone.data.importing` writes them to `data/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from touchstone.data.sources import (
    argilla,
    benchmarks,
    finegrained_qa,
    gsm8k,
    hh_rlhf,
    label_studio,
    pandalm,
    preference,
    principles,
    sandbox,
    step_labels,
    table,
    ukpconvarg1,
)
from touchstone.data.sources.rows import About, Quarantined
from touchstone.groups import Group
from touchstone.settings.data import Data
from touchstone.settings.table import TableData

__all__ = ["Quarantined", "Row", "about", "read_source"]

Row = Group | Quarantined


class _Source(Protocol):
    """What each module or benchmark below has."""

    @property
    def ABOUT(self) -> About:
        """What it says of itself."""

    def read(self, settings: Any, root: Path) -> Iterator[Row]:
        """Groups and quarantined rows, one at a time."""


_SOURCES: dict[str, _Source] = {
    "sandbox": sandbox,
    "sandbox_steps": sandbox,
    "table": table,
    "preference": preference,
    "hh_rlhf": hh_rlhf,
    "ukpconvarg1": ukpconvarg1,
    "pandalm": pandalm,
    "finegrained_qa": finegrained_qa,
    "bigbench_mistake": step_labels.BIGBENCH_MISTAKE,
    "prmbench": step_labels.PRMBENCH,
    "gsm8k": gsm8k,
    "principles": principles,
    "argilla": argilla,
    "label_studio": label_studio,
    "reward_bench_2": benchmarks.REWARD_BENCH_2,
    "rm_bench": benchmarks.RM_BENCH,
    "llm_bar": benchmarks.LLM_BAR,
    "judge_bench": benchmarks.JUDGE_BENCH,
}


def about(data: Data) -> About:
    """What a source says of itself, its data's licence for one; a table says what its settings state."""
    return table.about(data) if isinstance(data, TableData) else _SOURCES[data.source].ABOUT


def read_source(data: Data, root: Path) -> Iterator[Row]:
    """Groups and quarantined rows of the source that the settings name, one at a time.

    Raises:
        SourceError: the source is missing, damaged, or can't be reached.
    """
    return _SOURCES[data.source].read(data, root)
