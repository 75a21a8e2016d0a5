"""`touchstone serve --engine ray`: replicas that score as the artifact does, out of everybody else's reach."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from tests.places import ROOT
from tests.worlds.registered import artifact, reference, tiny_settings
from touchstone import settings as settings_module
from touchstone.cli.main import app as command
from touchstone.client import Client
from touchstone.groups import read_parquet
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.serving.samples import part_files

WITH_RAY = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray Serve isn't installed: pip install 'touchstone-rm[ray]'"
)
REPLICAS = 2


@dataclass
class Replicated:
    url: str
    process: psutil.Popen
    samples: Path


def project(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    for name in ("configs", "dvc.yaml"):
        (root / name).symlink_to(ROOT / name)
    samples = tiny_settings().serve.samples.model_copy(update={"folder": "samples", "share": 1.0})
    (root / "params.yaml").write_text(settings_module.dump(tiny_settings(grace_seconds=5.0, samples=samples)))
    return root


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    root = project(tmp_path_factory.mktemp("replicated") / "project")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "--engine", "ray", "--replicas", str(REPLICAS), "--model", str(artifact(0)), "--port", str(port)]
    with (root / "log").open("w") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "touchstone.cli", *words],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TOUCHSTONE_ROOT": str(root)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        with process:
            lines = iter(process.stdout.readline, "")
            said = next((line for line in lines if "http://" in line and "Ctrl-C" in line), "")
            assert said.startswith(f"Serving {REPLICAS} replicas"), (root / "log").read_text()[-3000:]
            yield Replicated(f"http://127.0.0.1:{port}", process, root / "samples")
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, as it should
                process.kill()


@WITH_RAY
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_replicas_score_as_the_artifact_does_on_loopback_and_end_with_zero(replicated: Replicated) -> None:
    groups = read_parquet(reference())[:40]
    items = [as_item(group) for group in groups]
    own = Scorer.load(artifact(0)).score(items)
    # Single requests by eight clients: both replicas get some.
    with ThreadPoolExecutor(8) as pool, Client(replicated.url) as client:
        replies = list(pool.map(lambda item: client.rewards([item]), items))
    for reply, row in zip(replies, own, strict=True):
        assert [score.reward for score in reply.scores[0]] == pytest.approx([score.reward for score in row], abs=1e-5)

    # What the endpoint answers of its own is what one process answers.
    refused = httpx.post(f"{replicated.url}/v1/rewards", json={"inputs": [], "more": 1}, trust_env=False)
    assert (refused.status_code, "more" in refused.text) == (422, True)
    assert httpx.get(f"{replicated.url}/readyz", trust_env=False).status_code == 200

    # Nobody elsewhere reaches any of its processes.
    family = [replicated.process, *replicated.process.children(recursive=True)]
    listening = [
        connection.laddr.ip
        for each in family
        for connection in each.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > REPLICAS
    addresses = {ipaddress.ip_address(address.removeprefix("::ffff:")) for address in listening}
    assert all(address.is_loopback for address in addresses), addresses

    replicated.process.send_signal(signal.SIGTERM)
    assert replicated.process.wait(60) == 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []

    # What each of them had still to write is there.
    kept = [line for part in part_files(replicated.samples) for line in part.read_text().splitlines()]
    assert len(kept) == len(items)


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(project(tmp_path / "project")))
    words = ["serve", "--engine", "ray", "--model", str(artifact(0)), "--port", "18471"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code != 0
    assert "pip install 'touchstone-rm[ray]'" in str(done.exception)


def test_replicas_are_for_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(project(tmp_path / "project")))
    done = CliRunner().invoke(command, ["serve", "--replicas", "2"])
    assert done.exit_code == 2
