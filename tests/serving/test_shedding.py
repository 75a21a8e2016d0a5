"""Refusals from a request's bytes alone are those that any other way gives, and nothing else is refused so."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests.worlds.served import (
    Running,
    one_version,
    request_bytes,
    rewards_body,
    running,
    serve_settings,
    slowed,
    until,
)
from touchstone.serving import shedding
from touchstone.serving.shedding import Shedding


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An endpoint whose queue is full: nothing is scored until the end, and one request waits for it."""
    registry = one_version(tmp_path_factory.mktemp("full"))
    settings = serve_settings(max_wait_seconds=1e-3)
    with running(registry, settings, slowed(0.1), started=False) as endpoint, endpoint.connect() as first:
        first.sendall(request_bytes(rewards_body("4")))
        until(lambda: endpoint.batcher.queued_requests == 1)
        yield endpoint
        endpoint.batcher.start()
        assert first.recv(65536).startswith(b"HTTP/1.1 200")


def exchange(endpoint: Running, *packets: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the reply to what is sent in these packets."""
    with endpoint.connect() as connection:
        for packet in packets:
            connection.sendall(packet)
            time.sleep(0.05)
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            assert part, received
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers["content-length"]):
            body += connection.recv(65536)
    return int(status.split()[1]), headers, body


def test_both_ways_refuse_in_the_same_words(full: Running) -> None:
    content = request_bytes(rewards_body("4"))
    at_once, in_two = exchange(full, content), exchange(full, content[:40], content[40:])
    for status, headers, _ in (at_once, in_two):
        assert (status, headers["retry-after"]) == (503, "1")
        assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])
        assert headers["date"]
    different = {"date", "x-request-id"}
    assert {name: value for name, value in at_once[1].items() if name not in different} == {
        name: value for name, value in in_two[1].items() if name not in different
    }
    assert at_once[2] == in_two[2]


def test_a_refusal_is_on_the_books_and_keeps_its_name(full: Running) -> None:
    def counted() -> float:
        page = full.get("/metrics").text
        found = re.search(r'touchstone_requests_total\{route="/v1/rewards",status="503"\} (\S+)', page)
        return float(found[1]) if found else 0.0

    before = counted()
    content = request_bytes(rewards_body("4")).replace(b"Host:", b"X-Request-ID: rollout-7\r\nHost:")
    assert exchange(full, content)[1]["x-request-id"] == "rollout-7"
    assert counted() == before + 1


def test_a_connection_goes_on_after_it(full: Running) -> None:
    content = request_bytes(rewards_body("4"))
    with full.connect() as connection:
        for _ in range(3):
            connection.sendall(content)
            assert connection.recv(65536).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda sent: sent.replace(b"Host: 127.0.0.1", b"Host: evil.example.com"), 403),
        (lambda sent: sent.replace(b"/v1/rewards", b"/nowhere"), 503),
        (lambda sent: sent.replace(b"POST /v1/rewards", b"PUT /classify"), 503),
        (lambda sent: sent.replace(b"Content-Length", b"Content-Length: 3\r\nContent-Length"), 400),
        (lambda sent: sent.replace(b"Host:", b"Bad header\r\nHost:"), 400),
        (lambda sent: sent.replace(b" HTTP/1.1", b" HTTP/1.0"), 503),
    ],
)
def test_what_is_unusual_goes_the_usual_way(
    full: Running, change: Callable[[bytes], bytes], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shed: list[bytes] = []
    words = Shedding._words

    def watched(self: Shedding, *given: object) -> bytes:
        shed.append(words(self, *given))  # type: ignore[arg-type]
        return shed[-1]

    monkeypatch.setattr(Shedding, "_words", watched)
    assert exchange(full, change(request_bytes(rewards_body("4"))))[0] == status
    assert shed == []
    assert exchange(full, request_bytes(rewards_body("4")))[0] == 503
    assert len(shed) == 1


def test_where_there_is_room_nothing_is_shed(tmp_path_factory: pytest.TempPathFactory) -> None:
    registry = one_version(tmp_path_factory.mktemp("room"))
    with running(registry, serve_settings(), slowed(0.02)) as endpoint, endpoint.connect() as first:
        first.sendall(request_bytes(rewards_body(*map(str, range(40)))))
        until(lambda: endpoint.batcher.queued_requests > 0)
        assert exchange(endpoint, request_bytes(rewards_body("4")))[0] == 200


def test_who_sends_slowly_keeps_nobody_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Half a body is no work of the endpoint's: a hundred of them aren't a hundred requests that wait for it."""
    registry = one_version(tmp_path_factory.mktemp("slow"))
    with running(registry, serve_settings(max_wait_seconds=0.2), slowed(0.0)) as endpoint:
        slow = [endpoint.connect() for _ in range(100)]
        for connection in slow:
            connection.sendall(request_bytes(rewards_body("4"))[:-9])
        until(lambda: endpoint.server._service.reading == 100)
        for _ in range(10):
            assert exchange(endpoint, request_bytes(rewards_body("4")))[0] == 200
        for connection in slow:
            connection.close()


def test_what_the_event_loop_holds_is_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that finishes 100 a second and has 200 makes a newcomer wait for two."""
    now = 0.0
    monkeypatch.setattr(shedding.time, "perf_counter", lambda: now)
    backlog = shedding.LoopBacklog()
    waits = []
    for step in range(100):
        now = step / 10
        waits.append(backlog.wait(200, 10 * step))
    assert waits[-1] == pytest.approx(2.0, rel=0.05)
    assert backlog.wait(0, 1000) == 0.0
