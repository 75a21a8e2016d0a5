"""A webhook on loopback, and who sends to it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx


class Webhook:
    """A server that remembers what it was told.

    Args:
        port: where it listens; 0: where there is room.
    """

    def __init__(self, port: int = 0) -> None:
        self.bodies: list[str] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                bodies.append(json.loads(self.rfile.read(length))["body"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/"

    @property
    def keys(self) -> list[str]:
        """The keys of the notices that came: one that was sent twice has one key."""
        return sorted({body.rpartition("notice ")[2] for body in self.bodies})

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def post(block: str, subject: str, body: str) -> None:
    """Hand a notice over to the webhook whose address stands beside the project that is the current folder."""
    url = Path("../webhook").read_text(encoding="utf-8")
    httpx.post(url, json={"block": block, "subject": subject, "body": body}).raise_for_status()
