"""Ten times too much for a few seconds, as `benchmarks/serving/overload.py` measures it; speed is said there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.overload import measure


@pytest.mark.slow
def test_ten_times_too_much_fails_no_request_and_fills_no_memory(tmp_path: Path) -> None:
    result = measure(tmp_path, seconds=5.0, factor=10.0, max_wait=1.0, hidden=64, layers=2)
    assert result.failures == {}
    assert min(result.accepted, result.refused) > 50
    assert result.memory_growth < 0.1
    assert result.exit_code == 0
    assert result.sigterm_answered > 0
