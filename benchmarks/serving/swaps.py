"""Promotions and rollbacks under constant load: failed requests, answers that mix two versions, p99 during a swap.

    python -m benchmarks.serving.swaps                            # 50 in 3 minutes; benchmarks/results/swaps.json
    python -m benchmarks.serving.swaps --swaps 6 --seconds 12 --rate 20

An endpoint in a process of its own, untrained Qwen3 models of one shape with different weights. Every second swap
promotes a version that was never in memory, so it is verified, loaded and warmed up beside the traffic; the others
roll back to the first version, which is warm. Requests leave at a constant rate whatever the endpoint does, latency
counts from when they were due; every fifth pins the first version by header. Each answer's scores must be those of
the artifact whose digest it bears, computed offline before. A request is "during a swap" if any part of it lies
between the move of the alias and the first answer of the new version; what lies within a second after that is
left out of both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.machine import hardware
from tests.worlds.sealed import make_tiny_groups
from tests.worlds.tiny import make_tiny_base
from touchstone.model.card import read
from touchstone.model.network import load_base, save
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.model.sealing import seal
from touchstone.registry import Registry
from touchstone.serving.pins import VERSION_HEADER
from touchstone.settings import Settings, compose, dump

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "swaps.json"
NAME = "reward-swapped"
SETTLING_SECONDS = 1.0
SWAP_SECONDS = 60.0
PIN_EVERY = 5
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Request:
    """What a request asks, and its scores by every artifact.

    Attributes:
        expected: centred scores of its completions by the artifact's digest.
    """

    body: dict[str, Any]
    expected: dict[str, list[float]]


@dataclass(frozen=True)
class Answered:
    """How a request ended. Times are of `time.perf_counter`.

    Attributes:
        pinned: it insisted on the first version.
        fault: what is wrong with the answer; empty when all is well.
    """

    due: float
    end: float
    pinned: bool
    version: int
    fault: str


@dataclass(frozen=True)
class Swap:
    """A move of the champion, from the alias to the first answer by its new version."""

    version: int
    loaded: bool
    begin: float
    end: float


@dataclass(frozen=True)
class Result:
    """What came of it. Latencies are in milliseconds, memory in MiB."""

    swaps: int
    requests: int
    failed: int
    mixed: int
    p50: float
    p99: float
    p99_during: float
    p99_during_promotions: float
    p99_during_rollbacks: float
    promotion_seconds: float
    rollback_seconds: float
    memory_first: float
    memory_last: float
    faults: list[str]

    @property
    def ratio(self) -> float:
        """p99 during a swap to p99 without."""
        return self.p99_during / self.p99


def make_artifacts(folder: Path, hidden: int, layers: int) -> list[Path]:
    """Three sealed artifacts of one shape."""
    artifacts = []
    for seed in range(3):
        base = make_tiny_base(folder / f"base-{seed}", hidden=hidden, layers=layers, vocabulary=2000, seed=seed)
        model, artifact = folder / f"model-{seed}", folder / f"artifact-{seed}"
        model.mkdir()
        save(load_base(base, max_tokens=512, seed=seed), model)
        sets = make_tiny_groups(20, seed=101), make_tiny_groups(30, seed=102)
        seal(model, *sets, precision="fp32", self_test_vectors=24, seeds={"train": seed}, folder=artifact)
        artifacts.append(artifact)
    return artifacts


def make_requests(artifacts: Sequence[Path], count: int) -> list[Request]:
    """Requests of one to four completions, each scored offline by every artifact."""
    items = [as_item(group) for group in make_tiny_groups(count, seed=7, completions=(1, 1, 2, 4))]
    rows = {read(artifact).digest: Scorer.load(artifact).score(items) for artifact in artifacts}
    return [
        Request(
            {
                "inputs": [
                    {
                        "prompt": [{"role": message.role, "content": message.content} for message in prompt],
                        "completions": list(completions),
                    }
                ]
            },
            {digest: [score.centered for score in scores[place]] for digest, scores in rows.items()},
        )
        for place, (prompt, completions) in enumerate(items)
    ]


class Endpoint:
    """The endpoint's process."""

    def __init__(self, root: Path, settings: Settings) -> None:
        params = root / "params.yaml"
        params.write_text(dump(settings))
        command = [sys.executable, "-m", "touchstone.serving", "--name", NAME, "--root", str(root)]
        self.process = subprocess.Popen(
            [*command, "--params", str(params), "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = next(word for word in line.split() if word.startswith("http://"))

    def memory(self) -> float:
        """Resident MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> int:
        """End it as an operator would; its exit code."""
        self.process.terminate()
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


class Load:
    """Requests at a constant rate, and how each ended."""

    def __init__(self, url: str, requests: Sequence[Request], rate: float) -> None:
        self.answered: list[Answered] = []
        self._requests = cycle(requests)
        self._rate = rate
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(base_url=url, timeout=30.0, limits=limits, trust_env=False)
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop, then wait for what is under way."""
        begin, number = time.perf_counter(), 0
        while not stop.is_set():
            due = begin + number / self._rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self._ask(next(self._requests), due, number % PIN_EVERY == 0))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            number += 1
        await asyncio.gather(*self._under_way)
        await self._client.aclose()

    async def _ask(self, request: Request, due: float, pinned: bool) -> None:
        headers = {VERSION_HEADER: "1"} if pinned else {}
        version, fault = 0, ""
        try:
            answer = await self._client.post("/v1/rewards", json=request.body, headers=headers)
        except httpx.HTTPError as error:
            fault = f"failed: {type(error).__name__}"
        else:
            if answer.status_code == 200:
                version = answer.json()["version"]
                fault = _fault(answer.json(), request, pinned)
            else:
                fault = f"failed: {answer.status_code}"
        self.answered.append(Answered(due, time.perf_counter(), pinned, version, fault))


def _fault(answer: dict[str, Any], request: Request, pinned: bool) -> str:
    """What an answer mixes up, if anything."""
    if pinned and answer["version"] != 1:
        return f"mixed: version {answer['version']} answered a pin of 1"
    scores = [score["centered"] for score in answer["results"][0]["scores"]]
    expected = request.expected[answer["digest"]]
    if not np.allclose(scores, expected, rtol=0, atol=TOLERANCE):
        return f"mixed: version {answer['version']} gave scores of another artifact"
    return ""


async def swap_through(registry: Registry, versions: Sequence[int], load: Load, seconds: float) -> list[Swap]:
    """Move the champion in so many seconds to each of these versions in turn; the first is champion already."""
    swaps: list[Swap] = []
    count = len(versions) - 1
    begin = time.perf_counter()
    for number, (champion, target) in enumerate(pairwise(versions)):
        await asyncio.sleep(max(0.0, begin + (number + 0.5) * seconds / count - time.perf_counter()))
        moved = time.perf_counter()
        await asyncio.to_thread(registry.set_alias, NAME, "champion", target, champion)
        while not (first := [each.end for each in load.answered if _first_of(each, target, moved)]):
            if time.perf_counter() > moved + SWAP_SECONDS:
                raise TimeoutError(f"version {target} doesn't answer {SWAP_SECONDS:.0f} s after it became champion")
            await asyncio.sleep(0.01)
        swaps.append(Swap(target, target != 1, moved, min(first)))
    await asyncio.sleep(max(0.0, begin + seconds - time.perf_counter()))
    return swaps


def _first_of(answered: Answered, version: int, since: float) -> bool:
    """Whether a version has answered because it is champion."""
    return answered.version == version and answered.due > since and not answered.pinned


def measure(folder: Path, *, swaps: int, seconds: float, rate: float, hidden: int, layers: int) -> Result:
    """Serve, load, swap and compare; `folder` becomes the project."""
    artifacts = make_artifacts(folder / "artifacts", hidden, layers)
    requests = make_requests(artifacts, 60)
    registry = Registry.open(folder)
    registry.set_alias(NAME, "champion", registry.publish(NAME, "first", artifacts[0]).version, expected=None)
    new = cycle(artifacts[1:])
    promoted = [registry.publish(NAME, f"swap-{number}", next(new)).version for number in range((swaps + 1) // 2)]
    versions = [1, *(version for number in promoted for version in (number, 1))][: swaps + 1]
    settings = compose([], ROOT / "configs")
    quick = {"poll_seconds": 0.2, "threads": 1, "keep_previous": 1}
    endpoint = Endpoint(folder, settings.model_copy(update={"serve": settings.serve.model_copy(update=quick)}))
    try:

        async def scenario() -> tuple[list[Swap], list[Answered], float]:
            load, stop = Load(endpoint.url, requests, rate), asyncio.Event()
            sending = asyncio.create_task(load.run(stop))
            await asyncio.sleep(2.0)
            first = endpoint.memory()
            done = await swap_through(registry, versions, load, seconds)
            stop.set()
            await sending
            return done, load.answered, first

        moves, answered, memory = asyncio.run(scenario())
        return _summary(moves, answered, memory, endpoint.memory())
    finally:
        code = endpoint.stop()
        if code:
            print(f"the endpoint ended with {code}")


def _summary(swaps: Sequence[Swap], answered: Sequence[Answered], first: float, last: float) -> Result:
    promotions, rollbacks = ([swap for swap in swaps if swap.loaded == loaded] for loaded in (True, False))
    during = [each for each in answered if any(_overlap(each, swap) for swap in swaps)]
    quiet = [each for each in answered if not any(_overlap(each, swap, SETTLING_SECONDS) for swap in swaps)]
    faults = sorted({each.fault for each in answered if each.fault})
    return Result(
        swaps=len(swaps),
        requests=len(answered),
        failed=sum(each.fault.startswith("failed") for each in answered),
        mixed=sum(each.fault.startswith("mixed") for each in answered),
        p50=_percentile(quiet, 50),
        p99=_percentile(quiet, 99),
        p99_during=_percentile(during, 99),
        p99_during_promotions=_percentile([e for e in during if any(_overlap(e, s) for s in promotions)], 99),
        p99_during_rollbacks=_percentile([e for e in during if any(_overlap(e, s) for s in rollbacks)], 99),
        promotion_seconds=float(np.median([swap.end - swap.begin for swap in promotions])),
        rollback_seconds=float(np.median([swap.end - swap.begin for swap in rollbacks])),
        memory_first=first,
        memory_last=last,
        faults=faults,
    )


def _overlap(answered: Answered, swap: Swap, after: float = 0.0) -> bool:
    return answered.due <= swap.end + after and answered.end >= swap.begin


def _percentile(answered: Sequence[Answered], which: float) -> float:
    return float(np.percentile([1000 * (each.end - each.due) for each in answered], which))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.swaps", description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second")
    parser.add_argument("--hidden", type=int, default=256, help="width of the models")
    parser.add_argument("--layers", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="touchstone-swaps-") as folder:
        result = measure(Path(folder), **vars(options))
    RESULT.parent.mkdir(exist_ok=True)
    facts = {**hardware(), **vars(options), **asdict(result)}
    RESULT.write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))
    print(
        f"RESULT swaps={result.swaps} failed={result.failed} mixed={result.mixed} p99_ms={result.p99:.1f} "
        f"p99_during_ms={result.p99_during:.1f} ratio={result.ratio:.2f}"
    )


if __name__ == "__main__":
    main()
