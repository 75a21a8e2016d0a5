"""A process of its own under few files: silent floods, and SIGTERM under load."""

from __future__ import annotations

import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import pytest

from tests.places import ROOT
from tests.worlds.registered import NAME, tiny_settings
from tests.worlds.served import one_version, rewards_body
from touchstone import settings as settings_module

FILES = 256


@dataclass
class Process:
    url: str
    popen: subprocess.Popen[str]
    errors: IO[str]

    def log(self) -> str:
        self.errors.seek(0)
        return self.errors.read()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """An endpoint that may have FILES open, and has fifteen seconds to end."""
    root = one_version(tmp_path_factory.mktemp("attacked")).root
    params = root / "params.yaml"
    params.write_text(settings_module.dump(tiny_settings(grace_seconds=15.0)))
    command = [sys.executable, "-m", "touchstone.serving", "--name", NAME, "--root", str(root)]
    with tempfile.TemporaryFile("w+") as errors:
        popen = subprocess.Popen(
            [*command, "--params", str(params), "--port", "0"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )
        with popen:
            assert popen.stdout is not None
            announced = re.search(r"http://\S+", popen.stdout.readline())
            assert announced is not None
            yield Process(announced[0], popen, errors)
            popen.kill()


def test_silent_connections_keep_nobody_out_and_fill_no_log(process: Process) -> None:
    host, port = process.url.removeprefix("http://").split(":")
    with ExitStack() as silent:
        for _ in range(300):
            silent.enter_context(socket.create_connection((host, int(port)), timeout=10))
        began = time.perf_counter()
        for _ in range(10):
            answer = httpx.post(f"{process.url}/v1/rewards", json=rewards_body("4"), trust_env=False, timeout=10)
            assert answer.status_code == 200
        assert time.perf_counter() - began < 5
    assert len(process.log()) < 2000


@pytest.mark.slow
def test_sigterm_under_load_answers_everybody_and_ends_with_zero(process: Process, tmp_path: Path) -> None:
    """Bulk that takes a few seconds, and single requests beside it."""
    bulk = {
        "inputs": [{"prompt": f"{n}", "completions": [f"{k} " + "egg " * 100 for k in range(8)]} for n in range(64)]
    }
    bodies = [bulk] * 3 + [rewards_body(str(number)) for number in range(20)]

    def ask(body: dict[str, object]) -> int:
        return httpx.post(f"{process.url}/v1/rewards", json=body, trust_env=False, timeout=60).status_code

    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = [pool.submit(ask, body) for body in bodies]
        time.sleep(0.6)
        process.popen.send_signal(signal.SIGTERM)
        statuses = [answer.result() for answer in answers]
    assert process.popen.wait(30) == 0
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert "Traceback" not in process.log()
