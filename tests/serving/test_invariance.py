"""A score doesn't depend on the protocol, nor on what else is asked for at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.invariance import LIMIT, measure, random_groups
from tests.worlds.bos import bos_artifact
from tests.worlds.served import listening
from touchstone.model.scoring import Scorer


@pytest.mark.parametrize(
    ("groups", "alone"), [(30, 3), pytest.param(80, 80, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_every_protocol_gives_the_offline_scores_alone_and_in_random_batches(
    tmp_path: Path, groups: int, alone: int
) -> None:
    scorer = Scorer.load(bos_artifact(0))
    with listening(tmp_path, bos_artifact(0)) as running:
        differences = measure(running.url, scorer, random_groups(groups, seed=3), alone=alone, seed=5)
    assert len(differences) == 9
    assert {name: found for name, found in differences.items() if not found["largest"] <= LIMIT} == {}
