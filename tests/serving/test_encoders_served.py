"""An encoder through the endpoint: a real process on loopback serves what was sealed."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.worlds.encoders import encoder_artifact
from tests.worlds.registered import NAME, open_registry, tiny_settings
from tests.worlds.sealed import make_tiny_groups
from touchstone.groups import Message
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.serving import temporary_endpoint


@pytest.mark.slow
def test_an_encoder_serves_its_offline_scores(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "project")
    version = registry.publish(NAME, "fingerprint", encoder_artifact())
    registry.set_alias(NAME, "champion", version.version, expected=None)
    offline = Scorer.load(encoder_artifact())
    assert offline.card.rule["pooling"] == "mean"
    asked = (Message("user", "how do i boil an egg?"),)
    items = [as_item(group) for group in make_tiny_groups(12, seed=103)]
    items += [(asked, ["", "[SEP] [CLS] water", "egg " * 200])]

    with temporary_endpoint(registry.root, tiny_settings(), NAME) as client:
        reply = client.rewards(items)
        alone = [client.rewards([item]).scores[0] for item in items]
        pair = {"prompt": "how do i boil an egg?", "a": "water", "b": "the king lived in Paris"}
        answer = httpx.post(f"{client.url}/v1/compare", json=pair, trust_env=False).json()

    assert (reply.version, reply.digest) == (version.version, offline.card.digest)
    expected = [score for row in offline.score(items) for score in row]
    assert len({round(score.reward, 6) for score in expected}) > 20
    for rows in (reply.scores, alone):
        for served, score in zip((one for row in rows for one in row), expected, strict=True):
            assert served.reward == pytest.approx(score.reward, abs=1e-5)
            assert served.centered == pytest.approx(score.centered, abs=1e-4)
            assert (served.truncated, served.tokens) == (score.truncated, score.tokens)
    assert reply.scores[-1][2].truncated
    ((first, second),) = offline.score([(asked, [pair["a"], pair["b"]])])
    assert answer["probability"] == pytest.approx(offline.probability(first.reward, second.reward), abs=1e-5)
