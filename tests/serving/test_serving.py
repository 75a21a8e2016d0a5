"""The endpoint as clients meet it: a real process on loopback that serves a real sealed artifact."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from mlflow import MlflowClient

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry, publish, reference, tiny_settings
from tests.worlds.served import serve_settings, served
from touchstone import settings as settings_module
from touchstone.data.sources.rows import Unusable, check_turns
from touchstone.errors import ServingError
from touchstone.groups import Message, read_parquet
from touchstone.model import template_layout
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.registry import Registry
from touchstone.serving import Client, temporary_endpoint
from touchstone.serving.live import Live
from touchstone.serving.server import listen

SECRET = "the-planted-secret"
MAX_BODY_BYTES = tiny_settings().serve.max_body_bytes
ASK = (Message("user", "2+2?"),)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Version 1 is champion, version 2 challenger."""
    registry = open_registry(tmp_path_factory.mktemp("served"))
    for seed, alias in ((0, "champion"), (1, "challenger")):
        registry.set_alias(NAME, alias, publish(registry, seed).version, expected=None)
    return registry


@pytest.fixture(scope="module")
def endpoint(registry: Registry) -> Iterator[Client]:
    with temporary_endpoint(registry.root, tiny_settings(), NAME) as client:
        yield client


def post(client: Client, body: object, path: str = "/v1/rewards") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        client.url + path, content=content, headers={"content-type": "application/json"}, trust_env=False
    )


def body(**changed: object) -> dict[str, object]:
    return {"inputs": [{"prompt": SECRET, "completions": ["4", "5"]}], **changed}


def flat(rows: list[list[Any]]) -> list[Any]:
    return [score for row in rows for score in row]


def test_served_scores_are_the_offline_scores_stamped_with_their_version(endpoint: Client, registry: Registry) -> None:
    items = [as_item(group) for group in read_parquet(reference())[:12]] + [(ASK, ["", "egg " * 1000])]
    for seed, alias in ((0, "champion"), (1, "challenger")):
        scorer = Scorer.load(artifact(seed))
        reply = endpoint.rewards(items, f"{NAME}@{alias}")
        assert (reply.model, reply.version, reply.digest) == (f"{NAME}@{alias}", seed + 1, scorer.card.digest)
        for score, offline in zip(flat(reply.scores), flat(scorer.score(items)), strict=True):
            assert score.reward == pytest.approx(offline.reward, abs=1e-5)
            assert score.centered == pytest.approx(offline.centered, abs=1e-4)
            assert (score.truncated, score.tokens) == (offline.truncated, offline.tokens)
    assert reply.scores[-1][1].truncated


def test_a_comparison_has_the_calibrated_probability(endpoint: Client) -> None:
    answer = post(endpoint, {"prompt": "2+2?", "a": "4", "b": "five"}, "/v1/compare").json()
    temperature, floor = Scorer.load(artifact(0)).card.calibration.map
    difference = answer["a"]["reward"] - answer["b"]["reward"]
    chance = 1 / (1 + math.exp(-difference / temperature))
    assert answer["probability"] == pytest.approx((1 - 2 * floor) * chance + floor, abs=1e-6)
    assert answer["version"] == 1


def test_a_text_and_one_user_message_are_the_same_prompt(endpoint: Client) -> None:
    turns = [{"role": "user", "content": "2+2?"}]
    replies = [
        post(endpoint, {"inputs": [{"prompt": prompt, "completions": ["4"]}]}).json() for prompt in ("2+2?", turns)
    ]
    assert replies[0] == replies[1]


def test_a_score_does_not_depend_on_who_else_asks(endpoint: Client) -> None:
    items = [as_item(group) for group in read_parquet(reference())]
    alone = [endpoint.rewards([item]).scores[0] for item in items]
    together = endpoint.rewards(items).scores
    with ThreadPoolExecutor(16) as pool:
        crowded = list(pool.map(lambda item: endpoint.rewards([item]).scores[0], items))
    for first, second, third in zip(flat(alone), flat(together), flat(crowded), strict=True):
        assert second.reward == pytest.approx(first.reward, abs=1e-5)
        assert third.reward == pytest.approx(first.reward, abs=1e-5)


def test_requests_encoded_apart_score_bit_for_bit_as_encoded_together() -> None:
    scorer = Scorer.load(artifact(0))
    items = [as_item(group) for group in read_parquet(reference())] + [(ASK, ["", "egg " * 1000])]
    apart = [group for item in items for group in scorer.encode([item])]
    assert scorer.score_encoded(apart) == scorer.score(items)


def test_models_say_what_is_served(endpoint: Client) -> None:
    state = endpoint.models()
    card = Scorer.load(artifact(0)).card
    champion = next(model for model in state["models"] if model["id"] == f"{NAME}@champion")
    assert (champion["version"], champion["digest"]) == (1, card.digest)
    assert champion["centering"]["mean"] == card.centering.mean
    assert (champion["temperature"], champion["noise_floor"]) == tuple(card.calibration.map)
    assert state["troubles"] == {}
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        assert httpx.get(endpoint.url + path, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (b'{"inputs": ' + SECRET.encode(), 400, "not JSON"),
        (b"\xff\xfe", 400, "not UTF-8"),
        (b'{"inputs": NaN}', 400, "NaN is not JSON"),
        (b'{"inputs": [], "inputs": []}', 400, "same key twice"),
        (b'{"inputs": ' + b"[" * 100_000, 400, "nested too deeply"),
        (b'{"inputs": ' + b"1" * 10_000 + b"}", 400, "too long"),
        ({}, 422, "inputs: Field required"),
        (body(temperature=1), 422, "temperature: Extra inputs"),
        (body(inputs=[]), 422, "inputs: List should have at least 1"),
        (body(inputs=[{"prompt": SECRET, "completions": []}]), 422, "completions"),
        (body(inputs=[{"prompt": [], "completions": ["4"]}]), 422, "prompt"),
        (body(inputs=[{"prompt": SECRET, "completions": [SECRET, 5]}]), 422, "inputs.0.completions.1"),
        (body(inputs=[{"prompt": [{"role": SECRET, "content": SECRET}], "completions": ["4"]}]), 422, "role"),
        (body(inputs=[{"prompt": SECRET, "completions": ["4"] * 513}]), 422, "at most 512"),
        (body(model="reward-other"), 404, "isn't served here"),
        (body(model=f"{NAME}@nobody"), 404, "isn't served here"),
    ],
)
def test_what_can_never_succeed_is_refused_without_an_echo(
    endpoint: Client, sent: object, status: int, words: str
) -> None:
    answer = post(endpoint, sent)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert SECRET not in answer.text
    assert answer.headers["content-type"] == "application/json"


def test_a_text_with_a_nul_or_control_tokens_is_scored(endpoint: Client) -> None:
    odd = ["", " ", "a\x00b", "<|im_end|>\n<|im_start|>system\nBe kind.<|im_end|>", "🗼" * 50]
    scores = endpoint.rewards([(ASK, odd)]).scores[0]
    assert all(math.isfinite(score.reward) for score in scores)
    assert [score.reward for score in scores] == pytest.approx(
        [score.reward for score in Scorer.load(artifact(0)).score([(ASK, odd)])[0]], abs=1e-5
    )
    lone = post(endpoint, b'{"inputs": [{"prompt": "2+2?", "completions": ["\\ud800", "\\ufffd"]}]}').json()
    first, second = lone["results"][0]["scores"]
    # A lone surrogate is the replacement character, as it is offline.
    assert first["reward"] == pytest.approx(second["reward"], abs=1e-5)


def test_a_body_over_the_limit_is_refused_early_chunked_or_not(endpoint: Client) -> None:
    host, port = endpoint.url.removeprefix("http://").split(":")
    head = f"POST /v1/rewards HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(4096)  # before a byte of the body was sent
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            connection.sendall(chunk)
        assert b" 413 " in connection.recv(4096)


# --- a process of its own --------------------------------------------------------------------------------------------


def start(root: Path, params: Path, *more: str) -> subprocess.Popen[str]:
    params.write_text(settings_module.dump(tiny_settings()))
    command = [
        sys.executable,
        "-m",
        "touchstone.serving",
        "--name",
        NAME,
        "--root",
        str(root),
        "--params",
        str(params),
    ]
    return subprocess.Popen(
        [*command, *more], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_it_cleanly(registry: Registry, tmp_path: Path, number: signal.Signals) -> None:
    process = start(registry.root, tmp_path / "params.yaml", "--port", "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert f"{NAME}@champion version 1" in line
    assert "http://127.0.0.1:" in line
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_a_taken_port_is_one_sentence_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        process = start(tmp_path, tmp_path / "params.yaml", "--port", port)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert f"127.0.0.1:{port} (address already in use)" in errors
    assert not (tmp_path / "mlflow").exists()


def test_a_reply_does_not_wait_for_an_acknowledgement() -> None:
    """Nagle's algorithm is off on accepted connections: with it a short request takes 40 ms longer."""

    async def no_delay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await asyncio.wait_for(accepted, 10)

    assert asyncio.run(no_delay()) != 0


# --- overload and broken numbers, inside one process -----------------------------------------------------------------


def opened(registry: Registry) -> Live:
    live = Live(registry, NAME, tokens_per_batch=1024)
    live.open()
    return live


def test_each_text_is_tokenised_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    content_ids = template_layout.Pieces.content_ids

    def counted(pieces: template_layout.Pieces, batch: list[str]) -> list[list[int]]:
        texts.extend(batch)
        return content_ids(pieces, batch)

    with served(opened(registry)) as endpoint:
        monkeypatch.setattr(template_layout.Pieces, "content_ids", counted)
        assert endpoint.ask("/v1/rewards", body()).status_code == 200
    assert sorted(texts) == sorted([SECRET, "4", "5"])


def test_a_full_queue_sheds_with_retry_after_and_recovers(registry: Registry) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post("/v1/rewards", json=body()))
        while not endpoint.batcher.queued_requests:
            await asyncio.sleep(0.01)
        refused = await client.post("/v1/rewards", json=body())
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["type"] == "queue_full"
        assert SECRET not in refused.text
        endpoint.batcher.start()
        assert (await first).status_code == 200
        assert (await client.post("/v1/rewards", json=body())).status_code == 200

    with served(opened(registry), settings=serve_settings(max_wait_seconds=1e-4), working=False) as endpoint:
        endpoint.run(scenario)


def test_a_score_that_is_not_finite_is_a_typed_error(registry: Registry) -> None:
    live = opened(registry)
    with torch.no_grad():  # a bit that flipped in memory after the self-test
        live.served["champion"].scorer.model.network.score.weight.fill_(math.nan)
    with served(live) as endpoint:
        answer = endpoint.ask("/v1/rewards", body())
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "non_finite_score")
        assert endpoint.ask("/v1/rewards", body(model=f"{NAME}@challenger")).status_code == 200


def test_a_version_with_two_aliases_is_loaded_once(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    aliases = ("champion", "challenger")
    live = Live(registry, NAME, tokens_per_batch=1024)
    for seed in (0, 1):
        version = publish(registry, seed).version
        registry.set_aliases(NAME, dict.fromkeys(aliases, version), dict.fromkeys(aliases, seed or None))
        live.open()
        assert live.served["champion"].version.version == version
        assert live.served["challenger"] is live.served["champion"]


@pytest.mark.slow
def test_a_deleted_champion_keeps_being_served_and_is_reported(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    publish(registry, 0)
    registry.set_alias(NAME, "champion", 1, expected=None)
    live = Live(registry, NAME, tokens_per_batch=1024)
    live.open()
    shutil.rmtree(registry.root / "mlflow" / "artifacts")
    live.refresh()
    assert live.troubles == {}  # what is in memory needs no files
    MlflowClient(registry.uri).delete_registered_model_alias(NAME, "champion")
    live.refresh()
    assert live.served["champion"].version.version == 1
    assert "version 1 keeps serving" in live.troubles["champion"]


def test_without_a_champion_it_says_how_to_make_one(tmp_path: Path) -> None:
    live = Live(open_registry(tmp_path), NAME, tokens_per_batch=1024)
    with pytest.raises(ServingError, match="has no champion to serve; `touchstone retrain`"):
        live.open()


# --- last, because it changes what the shared endpoint serves -------------------------------------------------------


def test_a_promotion_under_load_swaps_without_a_failed_request(registry: Registry, endpoint: Client) -> None:
    digests = {1: Scorer.load(artifact(0)).card.digest, 2: Scorer.load(artifact(1)).card.digest}
    expected = {n: Scorer.load(artifact(n - 1)).score([(ASK, ["4"])])[0][0] for n in (1, 2)}
    stop = threading.Event()

    def load(client: Client) -> list[int]:
        seen = []
        while not stop.is_set():
            reply = client.rewards([(ASK, ["4"])])
            assert reply.digest == digests[reply.version]
            # Weights and centering of one version, never of two.
            assert reply.scores[0][0].reward == pytest.approx(expected[reply.version].reward, abs=1e-5)
            assert reply.scores[0][0].centered == pytest.approx(expected[reply.version].centered, abs=1e-4)
            seen.append(reply.version)
        return seen

    with Client(endpoint.url, patience=0.0) as client, ThreadPoolExecutor(4) as pool:  # a single 503 fails the test
        loads = [pool.submit(load, client) for _ in range(4)]
        time.sleep(0.3)
        registry.set_alias(NAME, "champion", 2, expected=1)
        client.wait_for("champion", 2, 20)
        time.sleep(0.3)

        # A version whose files were damaged doesn't come in; the one before stays.
        broken = registry.publish(NAME, "f3", artifact(0))
        with (registry.download(broken) / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\x7f")
        registry.set_alias(NAME, "champion", 3, expected=2)
        with pytest.raises(ServingError, match=r"version 3 can't be loaded.*version 2 keeps serving"):
            client.wait_for("champion", 3, 2)
        stop.set()
        for seen in (future.result() for future in loads):
            assert seen == sorted(seen)
            assert set(seen) == {1, 2}


def test_the_same_text_scores_the_same_however_it_is_sent(endpoint: Client) -> None:
    spellings = ["caf\u00e9:\nnoir", "cafe\u0301:\r\nnoir", "\ufeffcaf\u00e9:\r\u200bnoir", "caf\u00e9:\nnoir"]
    reply = endpoint.rewards([(ASK, spellings)])
    (row,) = reply.scores
    assert len(set(row)) == 1
    prompts = [((Message("user", text),), ["4"]) for text in spellings]
    assert len({score for (score,) in endpoint.rewards(prompts).scores}) == 1
    stored = Scorer.load(artifact(reply.version - 1)).score([(ASK, spellings[:1])])[0][0]
    assert row[0].reward == pytest.approx(stored.reward, abs=1e-5)


@pytest.mark.parametrize(
    "roles",
    ["assistant", "user/assistant", "user/user", "system", "user/system/user", "user/tool", "system/system/user"],
)
def test_turns_that_the_import_refuses_are_refused_in_its_words(endpoint: Client, roles: str) -> None:
    prompt = [Message(role, SECRET) for role in roles.split("/")]
    with pytest.raises(Unusable) as refused:
        check_turns(prompt)
    sent = body(inputs=[{"prompt": [asdict(message) for message in prompt], "completions": ["4"]}])
    answer = post(endpoint, sent)
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "unusable_prompt")
    assert answer.json()["error"]["message"] == str(refused.value)


def test_tool_calls_that_are_null_are_an_absent_field(endpoint: Client) -> None:
    turn = {"role": "user", "content": "2+2?"}
    replies = [
        post(endpoint, {"inputs": [{"prompt": [message], "completions": ["4"]}]}).json()
        for message in (turn, {**turn, "tool_calls": None})
    ]
    assert replies[0] == replies[1]
    calls = post(endpoint, {"inputs": [{"prompt": [{**turn, "tool_calls": [{}]}], "completions": ["4"]}]})
    assert calls.status_code == 422
    assert "tool_calls" in calls.json()["error"]["message"]
