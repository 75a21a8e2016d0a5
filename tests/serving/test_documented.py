"""What the documentation tells to type is typed, word for word but for the port."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.places import ROOT
from tests.worlds.registered import artifact
from tests.worlds.served import Running, one_version, running, serve_settings

ADDRESS = re.compile(r"(127\.0\.0\.1|localhost):8100")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(one_version(tmp_path_factory.mktemp("documented")), serve_settings()) as endpoint:
        yield endpoint


def blocks(page: str) -> list[str]:
    """The Python of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every curl command that asks an endpoint for scores."""
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/protocols.md")]
    lines = [line for page in pages for line in page.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("curl") and ADDRESS.search(line)]


@pytest.mark.parametrize("number", [0, 1], ids=["blocking", "awaited"])
def test_the_clients_lines_run(endpoint: Running, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = ADDRESS.sub(endpoint.url.removeprefix("http://"), blocks("docs/client.md")[number])
    exec(compile(code, "docs/client.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - that is the test
    assert (number == 0) == (capsys.readouterr().out == "")


def test_the_scorers_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(artifact(0), tmp_path / "build" / "artifact")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        exec(compile(blocks("docs/scoring.md")[0], "docs/scoring.md", "exec"), {})  # noqa: S102
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't installed")
def test_every_curl_command_is_answered(endpoint: Running) -> None:
    lines = commands()
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(ADDRESS.sub(endpoint.url.removeprefix("http://"), line))
        answer = subprocess.run([*words, "--noproxy", "*", "-w", " %{http_code}"], capture_output=True, text=True)
        assert answer.stdout.endswith(" 200"), (line, answer.stdout)
