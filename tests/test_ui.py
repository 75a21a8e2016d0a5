"""`touchstone ui`: both screens on loopback, and nothing left of them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.places import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").touch()
    shutil.copytree(ROOT / "flows", tmp_path / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def _environment(**more: str) -> dict[str, str]:
    outside = {"PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI"}
    return {
        **{name: value for name, value in os.environ.items() if name not in outside},
        "PYTHONPATH": str(ROOT),
        **more,
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_servers_that_run_elsewhere_are_named_and_none_is_started(project: Path) -> None:
    env = _environment(PREFECT_API_URL="http://prefect.example/api", MLFLOW_TRACKING_URI="http://mlflow.example:5000")
    command = [sys.executable, "-m", "touchstone.cli", "ui"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["MLflow   http://mlflow.example:5000", "Prefect  http://prefect.example"]
    assert "Ctrl-C" not in done.stdout


def test_a_port_that_is_taken_is_one_sentence(project: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-m", "touchstone.cli", "ui", "--prefect-port", port]
        env = _environment(MLFLOW_TRACKING_URI="http://mlflow.example:5000")
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} is taken; name another one with --prefect-port\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_screens_answer_without_telemetry_and_end_with_ctrl_c(project: Path) -> None:
    ports = {"mlflow": _free_port(), "prefect": _free_port()}
    words = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    program = subprocess.Popen(
        [sys.executable, "-m", "touchstone.cli", "ui", *words],
        cwd=project,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
        # A test started in the background would hand down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert program.stdout is not None
    told = [program.stdout.readline().strip() for _ in range(4)]
    told = [*told[1:], told[0]]
    assert told[0] == f"MLflow   http://127.0.0.1:{ports['mlflow']}/#/experiments?workflowType=machine_learning"
    assert told[1] == f"Prefect  http://127.0.0.1:{ports['prefect']}"
    assert told[3].endswith(f"export PREFECT_API_URL=http://127.0.0.1:{ports['prefect']}/api")
    assert "<title>MLflow</title>" in httpx.get(told[0].split()[1]).text
    assert "Prefect" in httpx.get(told[1].split()[1], follow_redirects=True).text
    settings = httpx.get(f"http://127.0.0.1:{ports['prefect']}/api/admin/settings").json()
    assert settings["server"]["analytics_enabled"] is False
    asked = httpx.get(f"http://127.0.0.1:{ports['prefect']}/ui-settings").json()["api_url"]
    assert asked == f"http://127.0.0.1:{ports['prefect']}/api", "the page in the browser asks the same server"
    listening = {
        connection.laddr.ip
        for process in psutil.Process(program.pid).children(recursive=True)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}

    children = psutil.Process(program.pid).children(recursive=True)
    program.send_signal(signal.SIGINT)
    rest, _ = program.communicate(timeout=60)
    assert program.returncode == 0
    assert rest.strip().endswith("stopped")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
