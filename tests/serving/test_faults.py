"""Faults that befall an endpoint: bombs, long texts, a lost engine, a clock that jumps, a kill.

The whole list, with where each case is tested, is in docs/operating_the_endpoint.md.
"""

from __future__ import annotations

import gzip
import hmac
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, publish, tiny_settings
from tests.worlds.served import (
    Running,
    Slowed,
    one_version,
    open_live,
    reply_of,
    request_bytes,
    rewards_body,
    running,
    serve_settings,
    served,
    slowed,
    until,
)
from touchstone import settings as settings_module
from touchstone.groups import Message
from touchstone.model.scoring import Scorer
from touchstone.model.templating import EncodedGroup
from touchstone.registry import Registry
from touchstone.serving import keys as keys_module
from touchstone.serving.keys import Keys, new_key
from touchstone.serving.live import Live
from touchstone.serving.operating import Operation

MIB = 2**20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return one_version(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return open_live(tmp_path_factory.mktemp("live"))


def kind_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]


def test_every_case_of_the_list_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "operating_the_endpoint.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (S\d+) \|(.*)\|$", page, re.MULTILINE))
    assert list(rows) == [f"S{number}" for number in range(1, 20)]
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for case, row in rows.items():
        names = re.findall(r"`(test_\w+)`", row)
        assert names, case
        assert [name for name in names if f"def {name}(" not in code] == [], case


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_s2_a_bomb_is_not_unpacked_and_a_promise_of_gigabytes_is_refused_unread(registry: Registry) -> None:
    bomb = gzip.compress(b'{"inputs": "' + b" " * 64 * MIB + b'"}')
    assert len(bomb) < MIB
    with running(registry, serve_settings()) as endpoint:
        before = psutil.Process().memory_info().rss
        answer = endpoint.post(bomb, headers={"content-encoding": "gzip"})
        assert kind_of(answer) == (400, "malformed_json")
        assert psutil.Process().memory_info().rss - before < 32 * MIB
        with endpoint.connect() as connection:
            head = f"POST /v1/rewards HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {2 * 2**30}\r\n\r\n"
            connection.sendall(head.encode())
            assert b" 413 " in connection.recv(65536)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rewards", rewards_body("4", "egg " * 400)),
        ("/v1/rewards", rewards_body("4", prompt="egg " * 400)),
        ("/slime", {"prompt": "2+2?", "response": "egg " * 400}),
        ("/classify", {"input": "egg " * 400}),
        ("/classify", {"input": [5] * 300}),
    ],
)
def test_s3_a_text_over_the_limit_is_cut_and_flagged_or_refused_with_both_counts(
    live: Live, path: str, body: dict[str, object]
) -> None:
    with served(live) as endpoint:
        assert endpoint.ask(path, body).status_code == 200
    with served(live, settings=serve_settings(over_long="refuse")) as endpoint:
        refused = endpoint.ask(path, body)
        assert kind_of(refused) == (400, "text_over_limit")
        tokens, most = map(int, re.findall(r"\d+", refused.json()["error"]["message"]))
        assert tokens > most == live.served["champion"].scorer.model.rule.max_tokens
        assert endpoint.ask("/v1/rewards", rewards_body("4")).status_code == 200


def test_s3_the_count_of_a_refused_text_is_that_of_all_its_tokens(live: Live) -> None:
    tokenizer = live.served["champion"].scorer.model.tokenizer
    with served(live, settings=serve_settings(over_long="refuse")) as endpoint:
        refused = endpoint.ask("/classify", {"input": "egg " * 400, "add_special_tokens": False})
    count = len(tokenizer("egg " * 400, add_special_tokens=False)["input_ids"])
    assert f"a text of {count} tokens" in refused.json()["error"]["message"]


@pytest.mark.parametrize("model", ["http://169.254.169.254/latest", "file:///etc/passwd", "../../x", "models:/x@y"])
def test_s19_a_model_is_a_name_and_never_a_place_to_fetch_it_from(
    live: Live, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*where: object, **how: object) -> None:
        raise AssertionError(f"somebody opened a connection to {where}")

    with served(live) as endpoint:
        monkeypatch.setattr(socket, "create_connection", forbidden)
        answers = [
            endpoint.ask("/v1/rewards", rewards_body("4", model=model)),
            endpoint.ask("/classify", {"model": model, "input": "2+2?"}),
        ]
    assert [kind_of(answer) for answer in answers] == [(404, "unknown_model")] * 2
    assert model not in answers[0].text + answers[1].text


# --- who asks --------------------------------------------------------------------------------------------------------


def test_s13_every_key_is_compared_in_constant_time_right_or_wrong(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [new_key(None, f"client-{number}")[0] for number in range(4)]
    operation = Operation(keys=Keys(None, ",".join(f"client-{place}={key}" for place, key in enumerate(keys))))
    compared: list[object] = []

    class Watched:
        @staticmethod
        def compare_digest(first: str, second: str) -> bool:
            compared.append(second)
            return hmac.compare_digest(first, second)

    monkeypatch.setattr(keys_module, "hmac", Watched)
    statuses, comparisons = [], []
    with served(live, operation) as endpoint:
        for key in (keys[0], keys[-1], keys[0][:-1] + "~", "x"):
            compared.clear()
            answer = endpoint.ask("/v1/rewards", rewards_body("4"), headers={"x-api-key": key})
            statuses.append(answer.status_code)
            comparisons.append(len(compared))
        # Whether a model exists is nobody's business without a key.
        bodies = [rewards_body("4", model=model) for model in (NAME, "reward-of-another-tenant")]
        nobody = [endpoint.ask("/v1/rewards", body, headers={"x-api-key": "x"}).json() for body in bodies]
    assert statuses == [200, 200, 401, 401]
    assert comparisons == [4, 4, 4, 4]
    assert nobody[0] == nobody[1]


def test_s15_a_clock_that_jumps_neither_refuses_nor_hangs(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines, turns and retries go by clocks that nobody sets."""
    real = time.time
    with running(registry, serve_settings(deadline_seconds=20.0), slowed(0.05)) as endpoint:
        for jump in (86_400.0, -86_400.0):
            with ThreadPoolExecutor(4) as pool:
                answers = [pool.submit(endpoint.post, rewards_body(str(number))) for number in range(4)]
                time.sleep(0.02)
                monkeypatch.setattr(time, "time", lambda shift=jump: real() + shift)
                assert [answer.result().status_code for answer in answers] == [200] * 4


# --- what breaks -----------------------------------------------------------------------------------------------------


class Breaking(Slowed):
    """A scorer whose engine can be lost."""

    fails: Callable[[Sequence[EncodedGroup]], bool] = staticmethod(lambda groups: False)

    def raw_encoded(self, encoded: Sequence[EncodedGroup], **how: Any) -> list[list[Any]]:
        """As the scorer's, as long as there is an engine."""
        if self.fails(encoded):
            raise RuntimeError("CUDA error: unspecified launch failure")
        return super().raw_encoded(encoded, **how)


@pytest.fixture
def breaking(registry: Registry) -> Iterator[tuple[Running, Breaking]]:
    scorer = Breaking(Scorer.load(artifact(0)), 0.0)
    with running(registry, serve_settings(), scorer) as endpoint:
        yield endpoint, scorer


def test_s17_a_text_that_the_engine_fails_at_fails_alone(breaking: tuple[Running, Breaking]) -> None:
    endpoint, scorer = breaking
    scorer.fails = lambda groups: any(len(group.completion_ids) == 3 for group in groups)
    for _ in range(4):
        assert kind_of(endpoint.post(rewards_body("a", "b", "c"))) == (500, "engine_failed")
        assert endpoint.get("/readyz").status_code == endpoint.get("/healthz").status_code == 200
    assert endpoint.post(rewards_body("4")).status_code == 200


def test_s17_a_lost_engine_is_no_ready_one_and_asks_for_a_restart(breaking: tuple[Running, Breaking]) -> None:
    endpoint, scorer = breaking
    scorer.fails = lambda groups: True
    for _ in range(3):
        assert kind_of(endpoint.post(rewards_body("4"))) == (500, "engine_failed")
    for path in ("/readyz", "/healthz", "/ping"):
        until(lambda path=path: endpoint.get(path).status_code == 503)
        assert kind_of(endpoint.get(path)) == (503, "engine_broken")
    # If it was a neighbour's memory after all, it goes on.
    scorer.fails = lambda groups: False
    assert endpoint.post(rewards_body("4")).status_code == 200
    assert endpoint.get("/readyz").status_code == 200


def test_s12_another_replica_gives_the_same_score(registry: Registry) -> None:
    prompt = (Message("user", "how do i boil an egg?"),)
    texts = ["water", "soft yolk minutes " * 9, "", "the king lived in Paris"]
    (offline,) = Scorer.load(artifact(0)).score([(prompt, texts)])
    body = rewards_body(*texts, prompt=prompt[0].content)
    with running(registry, serve_settings()) as first, running(registry, serve_settings()) as second:
        for endpoint in (first, second):
            scores = endpoint.post(body).json()["results"][0]["scores"]
            assert [each["reward"] for each in scores] == pytest.approx([each.reward for each in offline], abs=1e-5)


def test_s8_a_second_signal_ends_what_the_first_would_wait_for(registry: Registry) -> None:
    settings = serve_settings(batch_seconds=0.1, grace_seconds=60.0, max_wait_seconds=60.0)
    with running(registry, settings, slowed(0.1)) as endpoint:
        connections = [endpoint.connect() for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.sendall(request_bytes(rewards_body(str(number))))
        until(lambda: endpoint.batcher.queued_requests > 90)
        began = time.monotonic()
        endpoint.server.handle_exit(signal.SIGTERM, None)
        until(lambda: endpoint.server._service.draining)
        endpoint.server.handle_exit(signal.SIGTERM, None)
        replies = [reply_of(connection) for connection in connections]
        endpoint.thread.join(10)
        assert time.monotonic() - began < 5  # all of it would have taken ten
        for connection in connections:
            connection.close()
    statuses = [reply.split()[1] for reply in replies]
    assert set(statuses) <= {b"200", b"503"}
    assert statuses.count(b"503") > 50


# --- a process that is killed ----------------------------------------------------------------------------------------


def start(root: Path, port: int) -> subprocess.Popen[str]:
    params = root / "params.yaml"
    params.write_text(settings_module.dump(tiny_settings()))
    command = [sys.executable, "-m", "touchstone.serving", "--name", NAME, "--root", str(root)]
    return subprocess.Popen(
        [*command, "--params", str(params), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_s9_after_a_kill_it_is_ready_only_once_the_sealed_scores_are_there_again(tmp_path: Path) -> None:
    registry = one_version(tmp_path)
    with start(tmp_path, 0) as first:
        assert first.stdout is not None
        announced = re.search(r"http://127\.0\.0\.1:(\d+)", first.stdout.readline())
        assert announced is not None
        url, port = announced[0], int(announced[1])
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(httpx.post, f"{url}/v1/rewards", json=rewards_body("4")) for _ in range(8)]
            time.sleep(0.05)
            os.kill(first.pid, signal.SIGKILL)
            for each in asked:
                assert each.exception() is not None or each.result().status_code == 200
        first.stdout.close()

    # On the same port, at once: nobody is told that it is ready before its scores are the sealed ones.
    with start(tmp_path, port) as second:
        ready = None
        end = time.monotonic() + 60
        while ready is None and time.monotonic() < end:
            try:
                ready = httpx.get(f"{url}/readyz", timeout=60, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.05)
        assert ready is not None
        assert ready.json()["digest"] == Scorer.load(artifact(0)).card.digest
        second.terminate()
        assert second.wait(30) == 0
        second.communicate()

    # Weights that aren't the sealed ones any more never come to answer.
    version = registry.version(NAME, 1)
    assert version is not None
    weights = registry.download(version) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with start(tmp_path, port) as third:
        output, complaint = third.communicate(timeout=60)
    assert third.returncode == 1
    assert "http://" not in output
    assert "model.safetensors" in complaint


def test_s10_every_version_that_comes_later_is_prepared_before_it_answers(tmp_path: Path) -> None:
    registry = one_version(tmp_path)
    publish(registry, 1)
    with running(registry, serve_settings()) as endpoint:
        for target, present in ((2, 1), (1, 2)):
            registry.set_alias(NAME, "champion", target, expected=present)
            endpoint.live.refresh()
            for served_version in endpoint.live.memory:
                assert endpoint.batcher.knows(served_version.scorer)
            assert endpoint.post(rewards_body("4")).json()["version"] == target
