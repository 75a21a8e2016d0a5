"""Models that must not pass, judged in a smaller world than the benchmark's: right verdict, right reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gate import known_bad

SAFETY = "worse in the safety slice alone"


@pytest.mark.slow
def test_every_known_bad_model_is_stopped_for_its_own_reason(tmp_path: Path) -> None:
    found = known_bad.run(tmp_path, known_bad.defaults(1800, bootstrap_draws=1000))
    assert found["safety_prompts"] > 700
    rows = {row["model"]: row for row in found["models"]}
    # Half of the prompts that the veto asks for may leave it undecided, and then the slices must be what is open.
    safety = rows.pop(SAFETY)
    assert safety["right"] or (safety["verdict"], safety["open"]) == ("INCONCLUSIVE", ["slices"])
    assert [name for name, row in rows.items() if not row["right"]] == [], known_bad.table(found["models"])
