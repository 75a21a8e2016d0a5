"""Sources of comparisons: each reads its own format and yields groups.

`import_source` writes them to `data/`, the pipeline's one input:

    data/groups.jsonl       one group per line
    data/quarantine.jsonl   rows that can't be read or used: file, line, reason
    data/source.json        where they come from, and how many

Importing twice changes nothing. Importing more of the same source, with the same settings but for where it lies and
how much of it is read, appends what is new and leaves what was there; another source replaces it. Texts are brought
into one normal form (`hygiene.py`) and counted where that changed them. Nothing is merged or judged here: that is
validation's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from touchstone.data.hygiene import clean_group
from touchstone.data.sources import (
    argilla,
    benchmarks,
    finegrained_qa,
    hh_rlhf,
    hub,
    label_studio,
    pandalm,
    preference,
    ranked,
    rated,
    sandbox,
    ukpconvarg1,
)
from touchstone.data.sources.rows import About, Quarantined, local_path
from touchstone.errors import QuarantineError, SourceError
from touchstone.groups import Group, judged_pairs, to_line
from touchstone.runtime.files import canonical_json, write_folder, write_json
from touchstone.runtime.progress import progress
from touchstone.settings import Settings
from touchstone.settings.data import Data, SandboxData

__all__ = ["ImportSummary", "Quarantined", "Row", "import_source", "read_source"]

Row = Group | Quarantined


class _Source(Protocol):
    """What each module or benchmark below has."""

    ABOUT: About

    def read(self, settings: Any, root: Path) -> Iterator[Row]:
        """Groups and quarantined rows, one at a time."""


_SOURCES: dict[str, _Source] = {
    "sandbox": sandbox,
    "preference": preference,
    "hh_rlhf": hh_rlhf,
    "ukpconvarg1": ukpconvarg1,
    "pandalm": pandalm,
    "finegrained_qa": finegrained_qa,
    "ranked": ranked,
    "rated": rated,
    "argilla": argilla,
    "label_studio": label_studio,
    "reward_bench_2": benchmarks.REWARD_BENCH_2,
    "rm_bench": benchmarks.RM_BENCH,
    "llm_bar": benchmarks.LLM_BAR,
    "judge_bench": benchmarks.JUDGE_BENCH,
}


def about(source: str) -> About:
    """What a source says of itself, its data's licence for one."""
    return _SOURCES[source].ABOUT


def read_source(data: Data, root: Path) -> Iterator[Row]:
    """Groups and quarantined rows of the source that the settings name, one at a time.

    Raises:
        SourceError: the source is missing, damaged, or can't be reached.
    """
    return _SOURCES[data.source].read(data, root)
