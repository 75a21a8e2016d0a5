"""The endpoint's benchmark, small: its load counts what it sends, who can't be run is in the table, and it runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.serving import load, rivals
from benchmarks.serving.__main__ import table
from tests.places import ROOT
from tests.worlds.scripted import answer, refusal, scripted


def test_the_load_measures_every_request_and_counts_what_fails() -> None:
    def script(number: int, body: object) -> tuple[int, dict[str, str], bytes]:
        status, headers, content = refusal(503, "full") if body == 7 else answer({"is": body})
        return status, dict(headers), content

    with scripted(script, seconds=0.05) as peer:
        host, port = peer.url.removeprefix("http://").split(":")
        requests = [{"path": "/v1/rewards", "body": json.dumps(number)} for number in range(12)]
        result = asyncio.run(load.run({"host": host, "port": int(port), "clients": 4, "requests": requests}))
    assert [None if reply is None else json.loads(reply)["is"] for reply in result["replies"]] == [
        number if number != 7 else None for number in range(12)
    ]
    assert result["errors"] == {"503": 1}
    assert len(result["latencies"]) == 11
    assert all(0.05 <= seconds < 0.5 for seconds in result["latencies"])
    assert 0.15 <= result["seconds"] < 1.0
    assert peer.most_at_once == 4


def test_who_was_not_run_stands_in_the_table_with_the_reason() -> None:
    result = {"rate": 2.0, "p50": 0.01, "p99": 0.02, "errors": {}}
    rounds = {workload: [result] for workload in "abcs"}
    row = {"what": "", "same_ids": True, "difference": 0.0, "best": dict.fromkeys("abcs", "1"), "rounds": rounds}
    figures = dict.fromkeys(
        ("a_vs_mlflow", "a_vs_best", "a_p99_vs_best", "b_vs_transformers", "b_vs_best", "c_vs_transformers", "single"),
        float("nan"),
    )
    contestants = {"touchstone": row, "vllm": {"what": "", "unavailable": "not installable: no wheel"}}
    words = table({"contestants": contestants, "figures": {**figures, "single": 2.0, "b_vs_best": 1.6}})
    assert "vllm          not run: not installable: no wheel" in words
    assert words.count("not measured") == 5
    assert "MISSED" in next(line for line in words.splitlines() if line.startswith("single"))
    assert "reached" in next(line for line in words.splitlines() if line.startswith("b_vs_best"))


@pytest.mark.slow
def test_what_cannot_be_installed_is_said_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "CACHE", tmp_path)
    broken = replace(rivals.RIVALS[0], pins=(str(tmp_path / "gone.whl"),))
    for _ in range(2):
        with pytest.raises(rivals.UnavailableError, match="not installable"):
            rivals.interpreter(broken)


@pytest.mark.slow
@pytest.mark.long
def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.serving",
        "--quick",
        "--threads",
        "1",
        "--repeats",
        "1",
        "--only",
        "serve_rm",
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, done.stderr
    found = dict(part.split("=") for part in done.stdout.splitlines()[-1].removeprefix("RESULT ").split())
    names = ["a_vs_mlflow", "a_vs_best", "b_vs_transformers", "b_vs_best", "c_vs_transformers", "single"]
    assert list(found) == names
    assert found["a_vs_mlflow"] == "nan"
    assert all(float(found[name]) > 0 for name in names[1:])
    record = json.loads((tmp_path / "serving.json").read_text())
    assert record["contestants"]["serve_rm"]["same_ids"]
    assert record["contestants"]["touchstone"]["difference"] < 1e-4
    assert (tmp_path / "serving.svg").read_text().startswith("<?xml")
