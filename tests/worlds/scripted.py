"""An HTTP server that answers as a test says: overloaded, broken, or of another version, as the real one rarely is."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Mapping[str, str], bytes]
HANG_UP = (0, {}, b"")
"""The connection is closed without an answer."""


@dataclass
class Peer:
    """The server as its test sees it.

    Attributes:
        requests: path, headers, body and time of arrival of each request.
        most_at_once: how many were answered at the same time.
    """

    url: str = ""
    requests: list[tuple[str, Message, Any, float]] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def answer(value: object, status: int = 200, **headers: str) -> Answer:
    """An answer in JSON; `Retry_After` becomes Retry-After."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(value).encode()


def cut_short(value: object) -> Answer:
    """An answer in JSON whose second half never comes."""
    status, headers, content = answer(value)
    return status, {**headers, "Content-Length": str(len(content))}, content[: len(content) // 2]


def refusal(status: int, kind: str, **headers: str) -> Answer:
    """An error as the endpoint words it."""
    return answer({"error": {"type": kind, "message": f"because of {kind}"}}, status, **headers)


def scores(body: Mapping[str, Any], version: int = 1) -> dict[str, Any]:
    """A reply to POST /v1/rewards: a text's reward is the number that it spells, or its length."""

    def score(text: str) -> dict[str, Any]:
        reward = float(text) if text.replace(".", "").isdigit() else float(len(text))
        return {"reward": reward, "centered": reward / 2, "percentile": 0.5, "truncated": False, "tokens": len(text)}

    results = [{"scores": [score(text) for text in given["completions"]]} for given in body["inputs"]]
    return {"model": "reward@champion", "version": version, "digest": f"digest-{version}", "results": results}


@contextlib.contextmanager
def scripted(script: Callable[[int, Any], Answer], *, seconds: float = 0.0) -> Iterator[Peer]:
    """A server that answers request number N (from 0) with script(N, body), after so many seconds."""
    peer = Peer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
            with peer.lock:
                number = len(peer.requests)
                peer.requests.append((self.path, self.headers, body, time.monotonic()))
                peer.at_once += 1
                peer.most_at_once = max(peer.most_at_once, peer.at_once)
            time.sleep(seconds)
            with peer.lock:
                peer.at_once -= 1
            status, headers, content = script(number, body)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:  # else it promises more than it gives, and hangs up
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = "Content-Length" in headers

        do_GET = do_POST

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        peer.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            server.shutdown()
            thread.join()
