"""What is printed for vLLM starts a server of raw rewards, and its scores are compared with the sealed ones.

The stand-in answers /classify as vLLM does, with what transformers itself computes from the token ids.
"""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from tests.worlds.registered import NAME, artifact, open_registry, publish, tiny_settings
from touchstone import settings as settings_module
from touchstone.cli.main import app as command
from touchstone.errors import ArtifactError, ServingError
from touchstone.model import card as cards
from touchstone.serving.engines.vllm import check, script

Answer = Callable[[list[float]], Any]


def as_vllm(rewards: list[float]) -> dict[str, Any]:
    data = [{"index": k, "label": "LABEL_0", "probs": [reward], "num_classes": 1} for k, reward in enumerate(rewards)]
    return {"id": "classify-1", "object": "list", "model": "rm", "data": data[::-1]}


@contextlib.contextmanager
def server(folder: Path, answer: Answer = as_vllm, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Within, a server at a URL that scores token ids by a stock class; with the bodies that it was sent."""
    network = AutoModelForSequenceClassification.from_pretrained(folder)
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            assert self.path == "/classify"
            with torch.inference_mode():
                rewards = [float(network(torch.tensor([ids])).logits) for ids in bodies[-1]["input"]]
            content = json.dumps(answer(rewards)).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", bodies
        finally:
            listening.shutdown()
            thread.join()


def test_a_server_of_raw_rewards_agrees_with_the_self_test() -> None:
    card = cards.read(artifact(0))
    with server(artifact(0)) as (url, bodies):
        agreement = check(artifact(0), url + "/")
    assert agreement.count == len(card.self_test) == len(bodies[0]["input"])
    assert agreement.largest <= agreement.tolerance < 1e-3 * card.centering.sd
    assert (bodies[0]["use_activation"], bodies[0]["add_special_tokens"]) == (False, False)
    assert max(map(len, bodies[0]["input"])) <= card.rule["max_tokens"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda rewards: as_vllm([1 / (1 + math.exp(-reward)) for reward in rewards]), "sigmoids.*use_activation"),
        (lambda rewards: as_vllm([1.0 for _ in rewards]), "softmax of one number"),
        (lambda rewards: as_vllm([*rewards[:-1], rewards[-1] + 0.01]), "for self-test .* another model"),
        (lambda rewards: as_vllm(rewards[:-1]), "numbers for"),
        (lambda rewards: as_vllm([*rewards[:-1], math.nan]), "not finite"),
        (lambda rewards: {"data": [{**entry, "index": 0} for entry in as_vllm(rewards)["data"]]}, "numbers for"),
        (lambda rewards: {"data": [{"index": k, "probs": [0.5, 0.5]} for k in range(len(rewards))]}, "numbers for"),
        (lambda rewards: {"data": [{"index": 0, "embedding": [1.0]}]}, "doesn't answer /classify as vLLM does"),
        (lambda rewards: [1, 2], "doesn't answer /classify as vLLM does"),
    ],
)
def test_another_number_is_told_by_what_it_is(answer: Answer, words: str) -> None:
    with server(artifact(0), answer) as (url, _), pytest.raises(ServingError, match=words):
        check(artifact(0), url)


def test_another_model_does_not_pass() -> None:
    with server(artifact(1)) as (url, _), pytest.raises(ServingError, match="another model, dtype or pooling"):
        check(artifact(0), url)


def test_a_server_that_refuses_or_is_not_there_is_one_sentence() -> None:
    with server(artifact(0), status=400) as (url, _), pytest.raises(ServingError, match="answered 400 to POST"):
        check(artifact(0), url)
    with pytest.raises(ServingError, match="can't be reached"):
        check(artifact(0), url)
    with pytest.raises(ArtifactError):
        check(artifact(0).parent, url)


def test_the_script_has_every_switch_that_keeps_a_reward_raw(tmp_path: Path) -> None:
    text = script(artifact(0), NAME)
    path = tmp_path / "serve.sh"
    path.write_text(text)
    subprocess.run(["sh", "-n", str(path)], check=True)
    joined = text.replace("\\\n", " ")
    words = shlex.split(joined[joined.index("exec vllm") :])
    assert words[1:4] == ["vllm", "serve", str(artifact(0))]
    flags = dict(zip(words[4::2], words[5::2], strict=True))
    card = cards.read(artifact(0))
    assert json.loads(flags["--pooler-config"]) == {"use_activation": False}
    assert (flags["--runner"], flags["--convert"], flags["--dtype"]) == ("pooling", "classify", "float32")
    assert flags["--max-model-len"] == str(card.rule["max_tokens"])
    assert flags["--host"] == "127.0.0.1"
    assert "VLLM_NO_USAGE_STATS=1" in text
    config = json.loads((artifact(0) / "config.json").read_text())
    assert config["problem_type"] == "regression"  # the second lock: vLLM reads it too


@pytest.mark.slow
def test_the_command_prints_and_checks_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(settings_module.dump(tiny_settings()))
    registry = open_registry(tmp_path)
    without = CliRunner().invoke(command, ["serve", "--engine", "vllm"])
    assert "has no champion" in str(without.exception)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    printed = CliRunner().invoke(command, ["serve", "--engine", "vllm"])
    assert printed.exit_code == 0
    assert f"--served-model-name {NAME}" in printed.stdout
    with server(artifact(0)) as (url, _):
        of = ["--artifact", str(artifact(0)), "--check", url]
        checked = CliRunner().invoke(command, ["serve", "--engine", "vllm", *of])
    assert checked.stdout.startswith("8 of 8 self-test scores agree")
    assert CliRunner().invoke(command, ["serve", "--check", url]).exit_code == 2
