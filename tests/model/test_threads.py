"""One scorer in several threads at once: every kind of model gives each the scores that it gives alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.worlds.encoders import encoder_artifact
from tests.worlds.ensembles import ensemble_artifact
from tests.worlds.outcomes import outcome_artifact
from tests.worlds.registered import artifact
from tests.worlds.sealed import make_tiny_groups
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer

THREADS, ROUNDS = 4, 6
GROUPS = 12


def made(kind: str) -> Path:
    if kind == "plain":
        return artifact(0)
    if kind == "encoder":
        return encoder_artifact()
    if kind == "outcome":
        return outcome_artifact("mean")
    return ensemble_artifact(kind)


@pytest.mark.parametrize("kind", ["plain", "encoder", "outcome", "heads", "adapters", "seeds"])
def test_threads_don_t_meet(kind: str) -> None:
    scorer = Scorer.load(made(kind), prefix_cache_mib=8 if kind == "plain" else 0)
    items = [as_item(group) for group in make_tiny_groups(GROUPS, seed=3)]
    before = scorer.model.work.tokens
    alone = [scorer.score_encoded([group])[0] for group in scorer.encode(items)]
    once = scorer.model.work.tokens - before

    def score(offset: int) -> None:
        for number in range(ROUNDS * GROUPS):
            place = (offset + number) % GROUPS
            (row,) = scorer.score_encoded(scorer.encode([items[place]]))
            assert [score.reward for score in row] == pytest.approx([s.reward for s in alone[place]], abs=1e-5)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(score, range(THREADS)))
    if scorer.prefixes is None:
        assert scorer.model.work.tokens == before + once * (1 + THREADS * ROUNDS)

    # And batches of one call: the very bits of one after another.
    scorer.prefixes, scorer.token_budget = None, 64
    one_by_one = scorer.raw(items)
    scorer.at_once = THREADS
    assert scorer.raw(items) == one_by_one
