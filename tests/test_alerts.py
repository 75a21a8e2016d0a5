"""The recipe in docs/how_to/alerts.md: a flow that ends as Blocked calls the webhook."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tests.places import ROOT
from touchstone.runtime import processes

PAGE = ROOT / "docs" / "how_to" / "alerts.md"

RUN = """
import subprocess, sys

from prefect import flow
from prefect.states import Completed

url, recipe = sys.argv[1:]
subprocess.run([sys.executable, "-c", recipe], check=True)


@flow(name="retrain")
def retrain(name):
    return Completed(name=name, message=f"the reason for {name}")


@flow(name="another")
def another():
    return Completed(name="Blocked", message="not about retrain")


retrain("Promoted", return_state=True)
another(return_state=True)
retrain("Blocked", return_state=True)
"""


def _recipe() -> str:
    page = PAGE.read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return recipe


def test_the_recipe_is_python_and_names_states_that_the_flow_has() -> None:
    compile(_recipe(), str(PAGE), "exec")
    flow = (ROOT / "flows" / "retrain.py").read_text(encoding="utf-8")
    for state in ("Promoted", "Blocked", "NothingToDo"):
        assert f'"{state}"' in flow
        assert f"`{state}`" in PAGE.read_text(encoding="utf-8")


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[dict[str, str]]:
    """A Prefect server that keeps running, and the environment that leads to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/api"
    with processes.background(command, cwd=folder, env=env, log=folder / "server.log") as ended:
        while ended() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", timeout=5).is_success:
                    break
            time.sleep(0.2)
        assert ended() is None, (folder / "server.log").read_text()
        yield {**env, "PREFECT_API_URL": url}


@pytest.mark.slow
def test_a_blocked_run_calls_the_webhook_and_others_do_not(tmp_path: Path) -> None:
    received: list[dict[str, str]] = []
    arrived = threading.Event()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{hook.server_address[1]}/hook"
        recipe = re.sub(r'URL = ".*"', f'URL = "{url}"', _recipe())
        with _server(tmp_path) as env:
            subprocess.run([sys.executable, "-c", RUN, url, recipe], env=env, check=True, timeout=200)
            assert arrived.wait(60), "nobody called"
            arrived.clear()
            assert not arrived.wait(3), "a second call"
        hook.shutdown()
    (message,) = received
    assert message["text"].startswith("retrain ended as Blocked\n")
    assert message["text"].endswith(": the reason for Blocked")
