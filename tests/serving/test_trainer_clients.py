"""What trainers really send and how they try again, against a real endpoint: clients re-enacted, waits shortened."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import httpx
import pandas as pd
import pytest
import torch

from tests.worlds.bos import EOS, bos_artifact
from tests.worlds.served import Running, listening
from tests.worlds.trainers import Tries, llama_factory, openrlhf, openrlhf_keeps, slime, verl, verl_text
from touchstone.groups import Message
from touchstone.model.scoring import Scorer

PROMPT = [{"role": "user", "content": "How do I boil an egg?"}]
ASK = (Message("user", "How do I boil an egg?"),)
ANSWERS = ("Put it into hot water.", "king", "")
Reward = TypeVar("Reward")

with warnings.catch_warnings():  # of MLflow's own type hints, when it is imported
    warnings.simplefilter("ignore")
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with listening(tmp_path_factory.mktemp("trainers"), bos_artifact(0)) as running:
        yield running


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(bos_artifact(0))


@pytest.fixture(scope="module")
def rewards(scorer: Scorer) -> list[float]:
    """What the native route gives for the answers."""
    return [score.reward for score in scorer.score([(ASK, ANSWERS)])[0]]


@pytest.fixture(scope="module")
def asked(scorer: Scorer) -> str:
    """The prompt as a policy's tokenizer renders it to generate from."""
    return str(scorer.model.tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True))


def test_openrlhf_reads_raw_rewards_and_filters_by_percentiles(
    endpoint: Running, rewards: list[float], asked: str
) -> None:
    url = f"{endpoint.url}/get_reward"
    read = [asyncio.run(openrlhf([url], asked + answer + EOS, asked, None)) for answer in ANSWERS]
    assert [one["reward"] for one in read] == [[pytest.approx(reward, abs=1e-5)] for reward in rewards]
    assert openrlhf_keeps([one["scores"][0] for one in read])
    assert all(isinstance(value, list) and len(value) == 1 for one in read for value in one["extra_logs"].values())
    assert torch.tensor([value for one in read for value in one["extra_logs"]["length"]]).dtype == torch.float32


def test_openrlhf_with_several_urls_keeps_the_reward_although_the_others_get_empty_lists(
    endpoint: Running, rewards: list[float], asked: str
) -> None:
    tries = Tries()
    url = f"{endpoint.url}/get_reward"
    read = asyncio.run(openrlhf([url, url, url], asked + ANSWERS[0] + EOS, asked, "gold", tries=tries))
    assert read["reward"] == [pytest.approx(rewards[0], abs=1e-5)]
    assert tries.statuses == [200, 200, 200]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_verl_reads_the_raw_logit(endpoint: Running, scorer: Scorer, rewards: list[float], engine: str) -> None:
    address = endpoint.url.removeprefix("http://")
    texts = [verl_text(scorer.model.tokenizer, PROMPT, answer + EOS, EOS) for answer in ANSWERS]
    for flag in ("activation", "use_activation"):  # of January and of later in 2026
        read = [asyncio.run(verl(address, engine, "rm", text, flag=flag)) for text in texts]
        assert read == pytest.approx(rewards, abs=1e-5)


def test_verl_never_tries_a_4xx_again(endpoint: Running) -> None:
    tries = Tries()
    address = endpoint.url.removeprefix("http://")
    with pytest.raises(aiohttp.ClientResponseError):
        asyncio.run(verl(address, "vllm", "rm", "egg", second=0.001, tries=tries, unheard_of=1))
    assert tries.statuses == [422]


def test_slime_reads_the_body_as_the_reward(endpoint: Running, rewards: list[float], asked: str) -> None:
    for url, prompt in ((f"{endpoint.url}/slime", PROMPT), (f"{endpoint.url}/slime?rendered=true", asked)):
        read = [asyncio.run(slime(url, prompt, answer + EOS, {"gold": "4"})) for answer in ANSWERS]
        assert read == pytest.approx(rewards, abs=1e-5)
        assert all(isinstance(reward, float) for reward in read)
    keyed = asyncio.run(slime(f"{endpoint.url}/slime?detailed=true", PROMPT, ANSWERS[0], None))
    assert keyed["reward"] == pytest.approx(rewards[0], abs=1e-5)  # --reward-key reward


def test_llama_factory_reads_a_whole_mini_batch(endpoint: Running, rewards: list[float], asked: str) -> None:
    texts = [asked + answer + EOS for answer in ANSWERS]
    assert llama_factory(f"{endpoint.url}/v1/score/evaluation", texts) == pytest.approx(rewards, abs=1e-5)


def test_mlflows_own_client_reads_predictions(endpoint: Running, rewards: list[float]) -> None:
    host, _, port = endpoint.url.removeprefix("http://").partition(":")
    client = ScoringServerClient(host, port)
    client.wait_server_ready(timeout=5)
    assert client.get_version()
    for column in ("response", "completion"):
        frame = pd.DataFrame({"prompt": [PROMPT[0]["content"]] * 3, column: ANSWERS})
        read = client.invoke(frame).get_predictions()
        assert list(read[0]) == pytest.approx(rewards, abs=1e-5)


# --- when it can't answer --------------------------------------------------------------------------------------------


def crowded(
    tmp_path: Path, act: Callable[[Running], Awaitable[Reward]], tries: Tries, refusals: int
) -> tuple[Reward, Running]:
    """What a client reads from an endpoint whose queue is full until it has been refused so many times."""
    with listening(tmp_path, bos_artifact(0), started=False, max_wait_seconds=1e-4) as running:

        async def scenario() -> Reward:
            async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client:
                first = asyncio.create_task(
                    client.post("/v1/rewards", json={"inputs": [{"prompt": "2+2?", "completions": ["4"]}]})
                )
                while not running.batcher.queued_requests:
                    await asyncio.sleep(0.01)
                asking = asyncio.ensure_future(act(running))
                while len(tries.statuses) < refusals and not asking.done():
                    await asyncio.sleep(0.005)
                running.batcher.start()
                assert (await first).status_code == 200
                return await asking

        result = asyncio.run(scenario())
        running.batcher.stop()
        return result, running


def test_openrlhf_verl_and_slime_get_through_an_overload(
    tmp_path: Path, scorer: Scorer, rewards: list[float], asked: str
) -> None:
    text = verl_text(scorer.model.tokenizer, PROMPT, ANSWERS[0], EOS)
    clients: dict[str, Callable[[Running, Tries], Awaitable[Any]]] = {
        "openrlhf": lambda running, tries: openrlhf(
            [f"{running.url}/get_reward"], asked + ANSWERS[0] + EOS, asked, None, second=0.05, tries=tries
        ),
        "verl": lambda running, tries: verl(
            running.url.removeprefix("http://"), "vllm", "rm", text, second=0.02, tries=tries
        ),
        "slime": lambda running, tries: slime(
            f"{running.url}/slime", PROMPT, ANSWERS[0], None, second=0.02, tries=tries
        ),
    }
    for name, client in clients.items():
        tries = Tries()
        read, _ = crowded(tmp_path / name, lambda running: client(running, tries), tries, refusals=2)  # noqa: B023
        assert set(tries.statuses[:-1]) == {503}, name
        assert tries.statuses[-1] == 200, name
        reward = read["reward"][0] if name == "openrlhf" else read
        assert reward == pytest.approx(rewards[0], abs=1e-5), name


def test_llama_factory_which_tries_once_waits_for_its_place(tmp_path: Path, rewards: list[float], asked: str) -> None:
    tries = Tries()

    async def act(running: Running) -> list[float]:
        begun = time.monotonic()
        texts = [asked + answer + EOS for answer in ANSWERS]
        asking = asyncio.to_thread(llama_factory, f"{running.url}/v1/score/evaluation", texts)
        threading.Timer(0.5, lambda: tries.statuses.append(0)).start()
        read = await asking
        assert time.monotonic() - begun > 0.4  # it waited while the queue was full
        return read

    read, _ = crowded(tmp_path, act, tries, refusals=1)
    assert read == pytest.approx(rewards, abs=1e-5)


def test_no_client_takes_a_failure_for_a_reward(tmp_path: Path, asked: str) -> None:
    whole = asked + ANSWERS[0] + EOS
    with listening(tmp_path, bos_artifact(0)) as running:
        with torch.no_grad():
            running.live.served["champion"].scorer.model.network.score.weight.fill_(math.nan)
        tries = Tries()
        read = asyncio.run(openrlhf([f"{running.url}/get_reward"], whole, asked, None, second=0.001, tries=tries))
        assert (read["reward"], tries.statuses) == (None, [500] * 5)
        for engine in ("vllm", "sglang"):
            tries = Tries()
            with pytest.raises(aiohttp.ClientResponseError):
                asyncio.run(verl(running.url.removeprefix("http://"), engine, "rm", whole, second=0.0001, tries=tries))
            assert tries.statuses == [500] * 16
        tries = Tries()
        with pytest.raises(aiohttp.ClientResponseError):
            asyncio.run(slime(f"{running.url}/slime", PROMPT, "4", None, second=0.0001, tries=tries))
        assert tries.statuses == [500] * 10
        with pytest.raises(KeyError, match="scores"):
            llama_factory(f"{running.url}/v1/score/evaluation", [whole])
        host, _, port = running.url.removeprefix("http://").partition(":")
        with pytest.raises(Exception, match="non_finite_score"):
            ScoringServerClient(host, port).invoke(pd.DataFrame({"prompt": ["a"], "response": ["b"]}))
