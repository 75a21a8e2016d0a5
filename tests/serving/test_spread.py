"""An ensemble behind the endpoint: registered, served, and its spread in every native reply."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.ensembles import MEMBERS, ensemble_artifact
from tests.worlds.registered import NAME, artifact, open_registry
from tests.worlds.served import one_version, running, serve_settings
from touchstone.client import Client
from touchstone.groups import Message
from touchstone.model.scoring import Scorer

PROMPT, COMPLETIONS = "how do i boil an egg?", ["water", "the king", "soft yolk minutes"]
ASKED = {"inputs": [{"prompt": PROMPT, "completions": COMPLETIONS}]}


def test_the_spread_of_the_members_is_served_with_each_score(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    version = registry.publish(NAME, "fingerprint-ensemble", ensemble_artifact("seeds", "worst"))
    registry.set_alias(NAME, "champion", version.version, expected=None)
    (expected,) = Scorer.load(ensemble_artifact("seeds", "worst")).score([((Message("user", PROMPT),), COMPLETIONS)])
    with running(registry, serve_settings()) as endpoint:
        (result,) = endpoint.post(ASKED).json()["results"]
        assert [score["spread"] for score in result["scores"]] == pytest.approx([s.spread for s in expected], abs=1e-4)
        assert [score["reward"] for score in result["scores"]] == pytest.approx([s.reward for s in expected], abs=1e-4)
        compared = endpoint.post({"prompt": PROMPT, "a": "water", "b": "the king"}, "/v1/compare").json()
        assert compared["a"]["spread"] == pytest.approx(expected[0].spread, abs=1e-4)
        ranked = endpoint.post({"prompt": PROMPT, "completions": COMPLETIONS}, "/v1/rank").json()["ranking"]
        assert all(entry["score"]["spread"] > 0 for entry in ranked)
        (model,) = endpoint.get("/v1/models").json()["models"]
        assert (model["ensemble"]["kind"], model["ensemble"]["members"]) == ("seeds", MEMBERS)
        with Client(endpoint.url) as client:
            ((score, *_),) = client.rewards([(PROMPT, COMPLETIONS)]).scores
            assert score.spread == pytest.approx(expected[0].spread, abs=1e-4)


def test_a_single_model_says_nothing_of_a_spread(tmp_path: Path) -> None:
    with running(one_version(tmp_path), serve_settings()) as endpoint:
        (result,) = endpoint.post(ASKED).json()["results"]
        compared = endpoint.post({"prompt": PROMPT, "a": "water", "b": "the king"}, "/v1/compare").json()
        assert "spread" not in result["scores"][0]
        assert "spread" not in compared["a"]
        assert Scorer.load(artifact(0)).score([((Message("user", PROMPT),), ["x"])])[0][0].spread is None
