"""Uses of a holdout are counted by lineage of prompts, whatever is appended, removed or exchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.holdout import open_holdout
from touchstone.gate import holdout_ledger
from touchstone.runtime import ledger


def names(start: int, stop: int) -> list[str]:
    return [f"cluster {number}" for number in range(start, stop)]


def test_appended_removed_and_half_exchanged_rows_reset_nothing(tmp_path: Path) -> None:
    path = tmp_path / "use.jsonl"
    counts = [
        open_holdout(path, "a", names(0, 1000)),
        open_holdout(path, "b", names(0, 1001)),
        open_holdout(path, "c", names(0, 400)),
        open_holdout(path, "d", names(200, 700)),
        open_holdout(path, "e", names(500, 1500)),
    ]
    assert counts == [1, 2, 3, 4, 5]
    assert open_holdout(path, "f", names(5000, 6000)) == 1
    assert open_holdout(path, "a", names(0, 1000)) == 1
    assert len(ledger.read(path)) == 6


def test_a_holdout_that_joins_two_lineages_counts_both(tmp_path: Path) -> None:
    path = tmp_path / "use.jsonl"
    assert [open_holdout(path, "a", names(0, 100)), open_holdout(path, "b", names(100, 200))] == [1, 1]
    assert open_holdout(path, "c", names(0, 200)) == 3


def test_large_holdouts_are_compared_by_sample(tmp_path: Path) -> None:
    large, other = names(0, 30_000), names(12_000, 42_000)
    assert holdout_ledger.overlap(holdout_ledger.sketch(large), holdout_ledger.sketch(other)) == pytest.approx(
        0.6, abs=0.03
    )
    assert holdout_ledger.overlap(holdout_ledger.sketch(large), holdout_ledger.sketch(names(0, 50))) == 1
    assert holdout_ledger.overlap(holdout_ledger.sketch(large), holdout_ledger.sketch(names(50_000, 80_000))) == 0
    assert len(holdout_ledger.sketch(large)) == holdout_ledger.SKETCH
