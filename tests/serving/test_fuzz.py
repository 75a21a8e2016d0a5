"""Random requests by what /openapi.json says of every route: no 5xx, no hang, no answer that isn't described."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.worlds.bos import bos_artifact
from tests.worlds.served import listening

CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
SECONDS = 10
"""Longer than any request may take here: an answer that takes more is a hang."""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis isn't installed")
def test_no_request_that_the_description_allows_or_forbids_breaks_anything(tmp_path: Path) -> None:
    with listening(tmp_path, bos_artifact(0), bos_artifact(1)) as running:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json"),
            *("--checks", ",".join(CHECKS), "--request-timeout", str(SECONDS), "--max-examples", "40"),
            *("--seed", "17", "--mode", "all", "--phases", "examples,coverage,fuzzing", "--continue-on-failure"),
            *("--suppress-health-check", "all", "--no-shrink", "--warnings", "off", "--no-color"),
        ]
        # Deep schemas are slow to generate from, which is no fault of the endpoint.
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False)
        # It still serves, and has not failed.
        assert httpx.get(f"{running.url}/ping", trust_env=False).status_code == 200
    assert answer.returncode == 0, answer.stdout[-8000:]
