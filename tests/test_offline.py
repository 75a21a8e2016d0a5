"""A whole run, flow and Prefect's server and endpoint and all, where nothing beyond loopback may be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.promotable_project import make_promotable_project
from tests.worlds.registered import NAME
from touchstone.pipeline import runs
from touchstone.registry import Registry

GUARD = '''
"""Refuses every connection beyond this machine, and writes down who wanted one; loaded by every Python process."""

import os
import sys

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::")


def guard(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
    elif event == "socket.getaddrinfo":
        address = arguments
    else:
        return
    host = address[0] if isinstance(address, tuple) else address  # a text is a socket of this machine
    host = host.decode() if isinstance(host, bytes) else host
    if isinstance(address, tuple) and host and not str(host).startswith(LOOPBACK):
        with open(os.environ["GUARD_LOG"], "a") as file:
            file.write(f"{event} {host} {sys.argv}\\n")
        raise ConnectionRefusedError(f"{host} is beyond this machine")


sys.addaudithook(guard)
with open(os.environ["GUARD_LOG"] + ".loaded", "a") as file:
    file.write(".")
'''


@pytest.mark.slow
def test_a_whole_run_opens_no_socket_beyond_loopback(tmp_path: Path) -> None:
    root = make_promotable_project(tmp_path / "project")
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "log"
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {
        "PYTHONPATH": f"{tmp_path / 'guard'}:{ROOT}",
        "GUARD_LOG": str(log),
        "PREFECT_HOME": str(tmp_path / "home"),
    }

    beyond = "import socket; socket.create_connection(('198.51.100.1', 9), timeout=5)"
    assert subprocess.run([sys.executable, "-c", beyond], env=env, capture_output=True, check=False).returncode == 1
    assert "198.51.100.1" in log.read_text(), "the guard sees what it is to see"
    log.unlink()

    done = subprocess.run(
        [sys.executable, "-m", "flows", "loop.notify=[]"], cwd=root, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not log.exists(), log.read_text()
    assert len((tmp_path / "log.loaded").read_text()) > 5, "flow, server, stages, scorers and endpoint are guarded"
    assert Registry.open(root).aliases(NAME) == {"champion": 1}
    (record,) = runs.history(root)
    assert (record["status"], record["outcome"]) == ("finished", "promoted")
    assert json.loads((root / "runs" / record["id"] / "run.json").read_text())["scores"]
