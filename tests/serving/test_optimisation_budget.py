"""What the endpoint says of how far its versions may be optimised."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds.budgets import made_budget
from tests.worlds.registered import NAME, artifact, open_registry, publish, tiny_settings
from tests.worlds.served import Served, running, serve_settings, served
from touchstone.client import Client
from touchstone.model import optimisation_budget
from touchstone.pipeline.budget import attach
from touchstone.registry import Registry
from touchstone.serving.live import Live
from touchstone.serving.models import open_models

ASK = {"inputs": [{"prompt": "2+2?", "completions": ["4", "5"]}]}
RANK = {"prompt": "2+2?", "completions": ["4", "5", "6", "7", "8", "9", "10", "11", "12"]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A champion with a budget of a few samples, and a challenger whose budget nobody has measured."""
    registry = open_registry(tmp_path_factory.mktemp("project"))
    champion, challenger = publish(registry, 0), publish(registry, 1)
    registry.set_alias(NAME, "champion", champion.version, expected=None)
    registry.set_alias(NAME, "challenger", challenger.version, expected=None)
    attach(registry, champion, made_budget(blind=0.05, digest=champion.digest))
    return registry


@pytest.fixture(scope="module")
def endpoint(registry: Registry) -> Iterator[Served]:
    live = Live(registry, NAME, tokens_per_batch=1024)
    live.open()
    with served(live) as running:
        yield running


def test_the_models_say_how_far_they_may_be_optimised(endpoint: Served) -> None:
    champion, challenger = endpoint.ask("/v1/models").json()["models"]
    budget = champion["optimisation_budget"]
    assert budget["n"] in (2, 4)
    assert budget["gold"] == "numbers"
    assert challenger["optimisation_budget"] is None


def test_who_says_that_they_go_beyond_it_is_warned(endpoint: Served) -> None:
    warned = endpoint.ask("/v1/rewards", {**ASK, "best_of": 1000}).json()
    assert len(warned["warnings"]) == 1
    assert warned["warnings"][0].startswith(f"{NAME}@champion: the best of 1,000 is beyond")
    assert "a KL of 9 nats" in endpoint.ask("/v1/rewards", {**ASK, "kl": 9.0}).json()["warnings"][0]
    for within in ({}, {"best_of": 2}, {"kl": 0.1}):
        reply = endpoint.ask("/v1/rewards", {**ASK, **within}).json()
        assert "warnings" not in reply
        assert reply["results"] == warned["results"]


def test_a_ranking_of_many_is_the_best_of_many(endpoint: Served) -> None:
    assert "the best of 9 " in endpoint.ask("/v1/rank", RANK).json()["warnings"][0]
    assert "warnings" not in endpoint.ask("/v1/rank", {**RANK, "completions": ["4", "5"]}).json()
    assert "the best of 256 " in endpoint.ask("/v1/rank", {**RANK, "best_of": 256}).json()["warnings"][0]


def test_what_nobody_has_measured_warns_of_nothing(endpoint: Served) -> None:
    reply = endpoint.ask("/v1/rewards", {**ASK, "model": f"{NAME}@challenger", "best_of": 10**6}).json()
    assert "warnings" not in reply


@pytest.mark.parametrize("field", [{"best_of": 0}, {"best_of": 1.5}, {"kl": -1.0}, {"kl": "much"}, {"n": 3}])
def test_nonsense_is_refused(endpoint: Served, field: dict[str, object]) -> None:
    assert endpoint.ask("/v1/rewards", {**ASK, **field}).status_code == 422


def test_the_client_passes_it_on_and_hands_the_warning_out(registry: Registry) -> None:
    with running(registry, serve_settings()) as endpoint, Client(endpoint.url) as client:
        inputs = [("2+2?", ["4", "5"])]
        assert client.rewards(inputs).warnings == ()
        (warning,) = client.rewards(inputs, best_of=64).warnings
        assert "the best of 64 is beyond" in warning
        assert client.rewards(inputs, kl=8.0).warnings != ()
        assert client.rank("2+2?", ["4", "5"], best_of=64).warnings == (warning,)


def test_a_folder_is_served_with_what_was_measured_of_it_even_later(tmp_path: Path) -> None:
    root, folder = tmp_path / "project", tmp_path / "artifact"
    root.mkdir()
    shutil.copytree(artifact(0), folder)
    live, _ = open_models(root, tiny_settings(), model=str(folder), name=NAME)
    assert live.budgets == {}
    (present,) = live.memory
    budget = made_budget(blind=0.05, digest=present.version.digest)
    optimisation_budget.write(optimisation_budget.folder_of(root / "runs"), budget)
    live._budgets_at = -1e9  # a while later
    live.refresh()
    assert live.budgets == {present.version.digest: budget}
