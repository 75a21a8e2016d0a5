"""An outcome model behind the endpoint: rewards, the probability of being correct, and what each token says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.worlds.outcomes import make_outcome_groups, outcome_artifact
from tests.worlds.registered import NAME, open_registry, publish
from tests.worlds.served import Running, rewards_body, running, serve_settings
from touchstone.client import Client
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer

TEXTS = ("0 water boil good", "0 water boil", "")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    registry = open_registry(tmp_path_factory.mktemp("served"))
    version = registry.publish(NAME, "outcomes", outcome_artifact("min"))
    registry.set_alias(NAME, "champion", version.version, expected=None)
    with running(registry, serve_settings()) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def offline() -> Scorer:
    return Scorer.load(outcome_artifact("min"))


def test_scores_are_the_aggregated_ones_and_say_how_likely_correct(endpoint: Running, offline: Scorer) -> None:
    items = [as_item(group) for group in make_outcome_groups(12, seed=9)]
    with Client(endpoint.url) as client:
        reply = client.rewards(items)
    expected = [score for row in offline.score(items) for score in row]
    for served, score in zip((score for row in reply.scores for score in row), expected, strict=True):
        assert served.reward == pytest.approx(score.reward, abs=1e-5)
        assert served.correct == pytest.approx(score.correct, abs=1e-5)
        assert served.token_probabilities is None


def test_every_token_is_answered_for_whoever_asks(endpoint: Running) -> None:
    (row,) = endpoint.post(rewards_body(*TEXTS, prompt="0 boil an egg", tokens=True)).json()["results"]
    for score in row["scores"]:
        assert len(score["token_probabilities"]) == score["tokens"]
        worst = min(score["token_probabilities"])
        assert score["reward"] == pytest.approx(np.log(worst / (1 - worst)), abs=1e-4)


def test_compare_and_rank_put_the_correct_answer_first(endpoint: Running) -> None:
    pair = endpoint.post({"prompt": "0 boil an egg", "a": TEXTS[0], "b": TEXTS[1]}, "/v1/compare").json()
    assert pair["probability"] > 0.5
    assert pair["a"]["correct"] > pair["b"]["correct"]
    assert "token_probabilities" not in pair["a"]
    ranking = endpoint.post({"prompt": "0 boil an egg", "completions": TEXTS[::-1]}, "/v1/rank").json()["ranking"]
    assert ranking[0]["index"] == 2


def test_a_model_with_one_value_an_answer_refuses_to_give_several(tmp_path_factory: pytest.TempPathFactory) -> None:
    registry = open_registry(tmp_path_factory.mktemp("plain"))
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    with running(registry, serve_settings()) as plain:
        refused = plain.post(rewards_body("4", tokens=True))
        assert (refused.status_code, refused.json()["error"]["type"]) == (422, "no_token_values")
        (score,) = plain.post(rewards_body("4")).json()["results"][0]["scores"]
        assert score.keys() == {"reward", "centered", "percentile", "truncated", "tokens"}
