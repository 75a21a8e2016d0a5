"""/v1/steps: a score per step by a process model, through the same queue, limits and stamps as every other route."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.served import Running, Slowed, one_version, running, serve_settings
from tests.worlds.steps import make_chain_groups, process_artifact
from touchstone.client import AsyncClient, Client
from touchstone.errors import RefusedError
from touchstone.groups import Completion, steps_of
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer

GROUPS = make_chain_groups(8, seed=11)
INPUTS = [(group.prompt, [completion.text for completion in group.completions]) for group in GROUPS]


@pytest.fixture(scope="module")
def artifact() -> Path:
    return process_artifact()


@pytest.fixture(scope="module")
def endpoint(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    scorer = Slowed(Scorer.load(artifact), 0.0)
    settings = serve_settings(max_completions=40, max_text_characters=2_000)
    with running(one_version(tmp_path_factory.mktemp("registry")), settings, scorer) as served:
        yield served


def test_every_step_has_the_score_that_it_has_offline(endpoint: Running, artifact: Path) -> None:
    scorer = Scorer.load(artifact)
    assert scorer.card.process is not None
    rows = scorer.raw([as_item(group) for group in GROUPS], values=True)
    with Client(endpoint.url) as client:
        reply = client.steps(INPUTS)
        rewards = client.rewards(INPUTS).scores
    assert reply.aggregation == "min"
    assert reply.version == 1
    for chains, row, scores in zip(reply.chains, rows, rewards, strict=True):
        for chain, offline, score in zip(chains, row, scores, strict=True):
            odds = [step.log_odds for step in chain.steps if step is not None]
            assert odds == pytest.approx(offline.values, abs=1e-5)
            assert chain.score.reward == pytest.approx(offline.reward, abs=1e-5)
            assert chain.score.reward == pytest.approx(min(odds), abs=1e-5)  # the aggregate
            assert chain.score == score  # the same as /v1/rewards gives
            assert all(0 < step.probability < 1 for step in chain.steps if step is not None)
            below = [place for place, value in enumerate(odds) if value < scorer.card.process.threshold]
            assert chain.first_error == (below[0] if below else None)


def test_a_list_of_steps_is_their_text(endpoint: Running) -> None:
    as_lists = [(prompt, [steps_of(text) for text in texts]) for prompt, texts in INPUTS]

    async def ask() -> Any:
        async with AsyncClient(endpoint.url) as client:
            return await client.steps(as_lists)

    with Client(endpoint.url) as client:
        assert client.steps(INPUTS).chains == asyncio.run(ask()).chains


def test_each_given_step_has_its_place_in_the_answer(endpoint: Running) -> None:
    chain = ["1 how do\n\nI boil good", "1 an egg bad", *["1 water good"] * 40]
    answer = endpoint.post({"inputs": [{"prompt": "0 egg", "completions": [chain]}]}, "/v1/steps").json()
    (scored,) = answer["results"][0]["chains"]
    assert len(scored["steps"]) == 42
    assert scored["steps"][-1] is None  # beyond the token limit
    assert scored["score"]["truncated"] is True
    assert scored["first_error"] == 1


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": [{"prompt": "2+2?", "completions": [["4", " "]]}]}, 422, "empty_step"),
        ({"inputs": [{"prompt": "2+2?", "completions": [[]]}]}, 422, None),
        ({"inputs": [{"prompt": "2+2?", "completions": []}]}, 422, None),
        ({"inputs": []}, 422, None),
        ({"inputs": [{"prompt": "2+2?", "completions": [["4"]], "more": 1}]}, 422, None),
        ({"inputs": [{"prompt": "2+2?", "completions": [["4"]] * 41}]}, 422, "too_many_completions"),
        ({"inputs": [{"prompt": "2+2?", "completions": [["4" * 1500, "5" * 600]]}]}, 422, "text_too_long"),
        ({"inputs": [{"prompt": "2+2?", "completions": [["4"]]}], "model": "other@champion"}, 404, "unknown_model"),
    ],
)
def test_what_can_t_be_scored_is_refused(endpoint: Running, body: object, status: int, kind: str | None) -> None:
    answer = endpoint.post(body, "/v1/steps")
    assert answer.status_code == status, answer.text
    assert kind is None or answer.json()["error"]["type"] == kind


def test_values_of_steps_are_not_given_as_values_of_tokens(endpoint: Running) -> None:
    body = {"inputs": [{"prompt": "0 egg", "completions": ["Boil it."]}], "tokens": True}
    refused = endpoint.post(body)
    assert (refused.status_code, refused.json()["error"]["type"]) == (422, "no_token_values")
    assert "/v1/steps" in refused.json()["error"]["message"]


def test_another_pinned_version_is_refused(endpoint: Running) -> None:
    with Client(endpoint.url, version=7) as client, pytest.raises(RefusedError, match="isn't in memory"):
        client.steps(INPUTS)


def test_a_model_without_steps_says_so(tmp_path: Path) -> None:
    refused = pytest.raises(RefusedError, match="not trained on steps")
    with running(one_version(tmp_path), serve_settings()) as served, Client(served.url) as client, refused:
        client.steps(INPUTS)


def test_a_text_without_steps_has_a_score_too(endpoint: Running) -> None:
    with Client(endpoint.url) as client:
        ((chain,),) = client.steps([("2+2?", [Completion("").text])]).chains
    assert len(chain.steps) == 1
