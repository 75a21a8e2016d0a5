"""Ten times too much, as `benchmarks/serving/overload.py` measures it, for a few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.overload import measure


@pytest.mark.slow
def test_ten_times_too_much_is_refused_at_once_and_nobody_is_lost(tmp_path: Path) -> None:
    result = measure(tmp_path, seconds=5.0, factor=10.0, max_wait=1.0, hidden=64, layers=2)
    assert result.failures == {}
    assert min(result.accepted, result.refused) > 50
    assert result.accepted_p99 < 1.5 * result.target
    assert result.refusal_p50 < 100  # beside other work; alone it is a fraction
    assert result.memory_growth < 0.1
    assert result.recovery_seconds < 5
    assert (result.sigterm_lost, result.exit_code) == (0, 0)
    assert result.sigterm_answered > 0
