"""Promotions and rollbacks under constant load, as `benchmarks/serving/swaps.py` measures them, for a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.swaps import measure


@pytest.mark.slow
def test_swaps_under_load_fail_no_request_and_mix_no_versions(tmp_path: Path) -> None:
    result = measure(tmp_path, swaps=6, seconds=12.0, rate=20.0, hidden=32, layers=2)
    assert result.faults == []
    assert (result.swaps, result.failed, result.mixed) == (6, 0, 0)
    assert result.requests > 150
