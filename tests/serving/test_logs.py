"""One line a request, with its stages and without its texts; a kind of trouble is written ten times a minute."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.places import ROOT
from tests.worlds.registered import NAME
from tests.worlds.served import open_live, served
from touchstone.serving.exchange import STAGES
from touchstone.serving.keys import Keys
from touchstone.serving.live import Live
from touchstone.serving.logs import MOST_OF_A_KIND, Limited
from touchstone.serving.operating import Operation

SECRET = "the-planted-secret"
KEY = "a-key-of-more-than-twenty-characters"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return open_live(tmp_path_factory.mktemp("logs"))


def body(*completions: str, prompt: str = SECRET) -> dict[str, object]:
    return {"inputs": [{"prompt": prompt, "completions": list(completions or ("4", "5"))}]}


def requests(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What was logged of requests."""
    return [record.fields for record in caplog.records if record.name == "touchstone.requests"]


def test_a_scored_request_is_one_line_with_its_stages(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "touchstone.requests")
    with served(live, Operation(log_format="json"), client="203.0.113.7") as endpoint:
        answer = endpoint.ask("/v1/rewards", body("4", "egg " * 1000), headers={"X-Request-ID": "rollout-7"})
    (line,) = requests(caplog)
    assert answer.headers["x-request-id"] == line["request_id"] == "rollout-7"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/rewards", 200)
    assert (line["client"], line["model"], line["version"]) == ("203.0.113.7", f"{NAME}@champion", 1)
    assert (line["texts"], line["truncated"]) == (2, 1)
    assert line["tokens"] > 100
    assert list(line["stages"]) == list(STAGES)
    assert sum(line["stages"].values()) == pytest.approx(line["milliseconds"], abs=0.01)
    assert "refusal" not in line


def test_nobody_forges_a_line_by_a_request_id(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "touchstone.requests")
    with served(live, Operation(log_format="json")) as endpoint:
        for name in ("a b", 'x"}', "e" * 129, "", "café".encode().decode("latin-1")):
            answer = endpoint.ask("/healthz", headers={"X-Request-ID": name.encode("latin-1")})
            assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
    names = [line["request_id"] for line in requests(caplog)]
    assert len(set(names)) == 5


def test_as_text_only_refusals_are_written_and_without_texts(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "touchstone")
    caplog.set_level(logging.WARNING, "httpx")  # the client's own, which names URLs
    keys = Keys(None, f"trainer={KEY}")
    with served(live, Operation(keys=keys)) as endpoint:
        bearer = {"Authorization": f"Bearer {KEY}"}
        assert endpoint.ask("/v1/rewards", body(), headers=bearer).status_code == 200
        assert endpoint.ask("/v1/rewards", {SECRET: SECRET}, headers=bearer).status_code == 422
        assert endpoint.ask("/v1/rewards", body(), headers={"X-API-Key": f"{KEY}{SECRET}"}).status_code == 401
        assert endpoint.ask(f"/{SECRET}?{SECRET}", headers=bearer).status_code == 404
    lines = [record.getMessage() for record in caplog.records if record.name == "touchstone.requests"]
    assert [line.split(",")[0] for line in lines] == [
        "POST /v1/rewards 422 invalid_request",
        "POST /v1/rewards 401 unauthorized",
        "GET none 404 http_error",
    ]
    assert all("from 127.0.0.1, request " in line for line in lines)
    assert [line.get("key") for line in requests(caplog)] == ["trainer", None, "trainer"]
    written = caplog.text + json.dumps(requests(caplog))
    assert SECRET not in written
    assert KEY not in written


def test_a_fault_of_ours_counts_as_a_500(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    with served(live, Operation(log_format="json")) as endpoint:

        @endpoint.app.get("/broken")
        def broken() -> None:
            raise KeyError(SECRET)

        answer = endpoint.ask("/broken")
        text = endpoint.ask("/metrics").text
    (line,) = [line for line in requests(caplog) if line["route"] == "/broken"]
    assert (answer.status_code, SECRET in answer.text) == (500, False)
    assert (line["status"], line["refusal"]) == (500, "internal_error")
    assert 'touchstone_requests_total{route="/broken",status="500"} 1.0' in text


SCRIPT = f"""
import logging, sys
from touchstone.serving import logs
logs.set_up(sys.argv[1])
log = logging.getLogger("uvicorn.error")
try:
    {{}}["{SECRET}"]
except KeyError:
    log.exception("Exception in ASGI application")
for number in range(1000):
    logging.getLogger("asyncio").error("socket.accept() out of system resource\\nsocket: %s", number)
logging.getLogger("touchstone.serving.live").info("version 2 is served")
logging.getLogger("elsewhere").info("chatter")
"""


def output(form: str) -> list[str]:
    script = SCRIPT.replace("{{", "{").replace("}}", "}")
    finished = subprocess.run(
        [sys.executable, "-c", script, form], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stdout == ""
    assert SECRET not in finished.stderr
    return finished.stderr.splitlines()


def test_json_lines_are_json_whatever_happens() -> None:
    lines = [json.loads(line) for line in output("json")]
    assert lines[0]["exception"].startswith("KeyError at")
    assert (lines[0]["level"], lines[0]["logger"]) == ("error", "uvicorn.error")
    assert "line 7" in lines[0]["exception"]
    assert [line["logger"] for line in lines].count("asyncio") == MOST_OF_A_KIND
    assert lines[-1]["message"] == "version 2 is served"
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_text_lines_say_where_an_exception_passed() -> None:
    lines = output("text")
    assert lines[0].endswith("Exception in ASGI application")
    assert lines[1] == "KeyError at"
    assert sum("out of system resource" in line for line in lines) == MOST_OF_A_KIND
    assert lines[-1].endswith("version 2 is served")


def test_what_was_not_written_is_told_when_the_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("touchstone.serving.logs.time.monotonic", lambda: now[0])
    limited = Limited()

    def record(kind: str, level: int = logging.WARNING) -> logging.LogRecord:
        made = logging.LogRecord("touchstone.requests", level, "", 0, "%s", ("words",), None)
        made.kind = kind
        return made

    assert sum(limited.filter(record("503 queue_full")) for _ in range(50)) == MOST_OF_A_KIND
    assert limited.filter(record("401 unauthorized"))  # another kind
    assert all(limited.filter(record("200", logging.INFO)) for _ in range(50))
    now[0] = 61.0
    first, second = record("503 queue_full"), record("503 queue_full")
    assert limited.filter(first)
    assert limited.filter(second)
    assert (first.unwritten, hasattr(second, "unwritten")) == (40, False)


def test_kinds_without_end_take_no_memory_without_end() -> None:
    limited = Limited()
    for number in range(5000):
        limited.filter(logging.LogRecord(f"library.{number}", logging.ERROR, "", 0, f"trouble {number}", (), None))
    assert len(limited._seen) <= 1000
