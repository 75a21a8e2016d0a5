"""All of it in a process of its own: keys, a log of JSON lines, samples, and the signals that an operator sends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.places import ROOT
from tests.worlds.registered import NAME, open_registry, publish, tiny_settings
from touchstone import settings as settings_module
from touchstone.serving import temporary_endpoint
from touchstone.serving.keys import VARIABLE, new_key
from touchstone.serving.samples import part_files

SECRET = "the-planted-secret"
BODY = {"inputs": [{"prompt": SECRET, "completions": ["4", "5"]}]}


@pytest.mark.slow
def test_an_endpoint_in_operation(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    key, _ = new_key(tmp_path / "api_keys", "trainer")
    samples = tiny_settings().serve.samples.model_copy(update={"folder": "kept", "share": 1.0})
    operated = tiny_settings(api_keys_file="api_keys", log_format="json", samples=samples)
    params = tmp_path / "params.yaml"
    params.write_text(settings_module.dump(operated))
    command = [sys.executable, "-m", "touchstone.serving", "--name", NAME, "--root", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--params", str(params), "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = process.stdout.readline().split(" on ")[1].split()[0]
    host = url.removeprefix("http://")

    def ask(key: str) -> httpx.Response:
        return httpx.post(f"http://any:{key}@{host}/v1/rewards", json=BODY, trust_env=False, timeout=30)

    try:
        assert ask(key).status_code == 200
        assert httpx.post(f"{url}/v1/rewards", json=BODY, trust_env=False).status_code == 401
        assert "touchstone_self_test_age_seconds" in httpx.get(f"{url}/metrics", trust_env=False).text

        # A second key counts after SIGHUP, which ends nothing.
        other, _ = new_key(tmp_path / "api_keys", "ci")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert ask(other).status_code == 200
        # The first key's line is taken out: noticed without a signal.
        lines = (tmp_path / "api_keys").read_text().splitlines()
        (tmp_path / "api_keys").write_text(lines[1] + "\n")
        time.sleep(1.2)
        assert ask(key).status_code == 401
        assert ask(other).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert SECRET not in errors
    assert key not in errors
    logged = [json.loads(line) for line in errors.splitlines()]
    requests = [line for line in logged if line["logger"] == "touchstone.requests"]
    assert [line["status"] for line in requests] == [200, 401, 200, 200, 401, 200]
    assert [line.get("key") for line in requests] == ["trainer", None, None, "ci", None, "ci"]
    (part,) = part_files(tmp_path / "kept")
    assert len(part.read_text().splitlines()) == 3


@pytest.mark.slow
def test_an_endpoint_for_one_check_asks_for_no_key_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promotion serves a candidate aside with the project's settings, which may demand keys."""
    monkeypatch.setenv(VARIABLE, "trainer=a-key-of-more-than-twenty-characters")
    registry = open_registry(tmp_path)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    samples = tiny_settings().serve.samples.model_copy(update={"folder": str(tmp_path / "kept"), "share": 1.0})
    with temporary_endpoint(tmp_path, tiny_settings(api_keys_file="absent", samples=samples), NAME) as client:
        assert client.models()["name"] == NAME
    assert not (tmp_path / "kept").exists()
