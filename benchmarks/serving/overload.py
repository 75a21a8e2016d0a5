"""Ten times what the endpoint can do: who is accepted keeps the latency target, who isn't is told so at once.

    python -m benchmarks.serving.overload                  # 60 s of it; benchmarks/results/overload.json
    python -m benchmarks.serving.overload --seconds 10 --hidden 64 --layers 2

An endpoint in a process of its own, an untrained Qwen3, single samples. First as many clients as keep it busy: its
capacity. Then open load, whose requests leave when they are due: half the capacity, ten times the capacity, half of it
again, and at last twice the capacity with SIGTERM amid it. The target is what the settings promise: a wait of
`serve.max_wait_seconds` and a batch of `serve.batch_seconds`. Latencies count from when this process comes to a
request, waiting for a connection included; how late it comes itself is a figure of its own (the cores are shared).

Recovered is the endpoint from when on for a second nobody is refused and 95% are answered within twice the p99 of
before. Lost is a request that was written to an open connection and never answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import hardware
from benchmarks.serving.endpoint import Endpoint, make_artifacts, rewards_request
from benchmarks.serving.open_load import LOST, NO_CONNECTION, OpenLoad, Outcome
from tests.places import ROOT
from tests.worlds.sealed import make_tiny_groups
from touchstone.settings import compose

RESULT = ROOT / "benchmarks" / "results" / "overload.json"
CLIENTS = 64
SAMPLE_SECONDS = 0.5
CALM_SECONDS = 6.0
CAPACITY_SECONDS = 5.0
REFUSED_SECONDS = 0.2
"""So long a client that looks for the capacity stays away after a refusal."""
LAST_SECONDS = 3.0
"""Of load before SIGTERM; as long it goes on behind it."""


@dataclass(frozen=True)
class Result:
    """What came of it. Latencies are in milliseconds, memory is resident MiB.

    Attributes:
        capacity: requests a second that the endpoint answers when it is kept busy.
        offered: requests a second that left during the overload.
        accepted_rate: of them answered a second.
        late_p99: how late this process came to a request.
        memory: every half second of the overload.
        memory_growth: of its last third over its first, as a share.
    """

    capacity: float
    offered: float
    accepted_rate: float
    calm_p50: float
    calm_p99: float
    target: float
    accepted: int
    accepted_p50: float
    accepted_p99: float
    refused: int
    refusal_p50: float
    refusal_p99: float
    refusal_max: float
    late_p99: float
    failures: dict[str, int]
    memory: list[float]
    memory_growth: float
    recovery_seconds: float
    sigterm_sent: int
    sigterm_answered: int
    sigterm_refused: int
    sigterm_lost: int
    exit_code: int

    @property
    def line(self) -> str:
        """For whoever compares results."""
        return (
            f"RESULT accepted_p99_over_target={self.accepted_p99 / self.target:.2f} "
            f"refusal_p99_ms={self.refusal_p99:.1f} memory_growth={self.memory_growth:.3f} "
            f"recovery_s={self.recovery_seconds:.1f} sigterm_lost={self.sigterm_lost}"
        )


def measure(
    folder: Path, *, seconds: float, factor: float, max_wait: float, hidden: int, layers: int, threads: int = 1
) -> Result:
    """Serve, load, overload, calm down, end; `folder` holds the model and the settings."""
    (artifact,) = make_artifacts(folder / "artifacts", 1, hidden=hidden, layers=layers)
    settings = compose([], ROOT / "configs")
    chosen = settings.serve.model_copy(update={"max_wait_seconds": max_wait, "threads": threads})
    endpoint = Endpoint(folder, settings.model_copy(update={"serve": chosen}), ["--model", str(artifact)])
    groups = make_tiny_groups(400, seed=7, completions=(1,))
    contents = cycle([(None, rewards_request(endpoint.url, group)) for group in groups])
    target = 1000 * (chosen.max_wait_seconds + chosen.batch_seconds)
    try:
        return asyncio.run(_scenario(endpoint, contents, seconds, factor, target))
    finally:
        if endpoint.process.poll() is None:
            endpoint.process.kill()
            endpoint.wait()


async def _scenario(
    endpoint: Endpoint, contents: Iterator[tuple[Any, bytes]], seconds: float, factor: float, target: float
) -> Result:
    load = OpenLoad(endpoint.url)
    await _busy(load, contents, 1.0)  # what happens only once
    capacity = await _busy(load, contents, CAPACITY_SECONDS)
    calm = await _phase(load, contents, capacity / 2, CALM_SECONDS)

    # Overload, and the memory meanwhile; the load goes down to half while the queue is still full.
    memory: list[float] = []
    begin, first = time.perf_counter(), len(load.outcomes)
    watching = asyncio.create_task(_watch(endpoint, memory))
    await load.send(contents, factor * capacity, seconds)
    end = time.perf_counter()
    watching.cancel()
    await load.send(contents, capacity / 2, CALM_SECONDS)
    await load.finish()
    outcomes = load.outcomes[first:]
    storm = [each for each in outcomes if each.due < end]
    accepted, refused = _split(storm)
    quiet = [each for each in calm if each.status == 200]

    # SIGTERM.
    last = asyncio.create_task(_last(load, contents, 2 * capacity))
    await asyncio.sleep(LAST_SECONDS)
    signalled = time.perf_counter()
    endpoint.process.terminate()
    ending = [each for each in await last if each.end > signalled]
    code = await asyncio.to_thread(endpoint.wait)
    third = max(1, len(memory) // 3)
    return Result(
        capacity=capacity,
        offered=len(storm) / (end - begin),
        accepted_rate=len(accepted) / (end - begin),
        calm_p50=_percentile(quiet, 50),
        calm_p99=_percentile(quiet, 99),
        target=target,
        accepted=len(accepted),
        accepted_p50=_percentile(accepted, 50),
        accepted_p99=_percentile(accepted, 99),
        refused=len(refused),
        refusal_p50=_percentile(refused, 50),
        refusal_p99=_percentile(refused, 99),
        refusal_max=_percentile(refused, 100),
        late_p99=float(np.percentile([1000 * (each.begin - each.due) for each in storm], 99)),
        failures=_failures(outcomes),
        memory=[round(each, 1) for each in memory],
        memory_growth=float(np.median(memory[-third:]) / np.median(memory[:third]) - 1),
        recovery_seconds=_recovery(outcomes, end, 2 * _percentile(quiet, 99) / 1000),
        sigterm_sent=sum(each.sent > 0 for each in ending),
        sigterm_answered=sum(each.status == 200 for each in ending),
        sigterm_refused=sum(each.status == 503 for each in ending),
        sigterm_lost=sum(each.status == LOST for each in ending),
        exit_code=code,
    )


async def _busy(load: OpenLoad, contents: Iterator[tuple[Any, bytes]], seconds: float) -> float:
    """Requests a second that are scored where so many clients always wait for one; who is refused waits a little."""
    first, begin = len(load.outcomes), time.perf_counter()

    async def client() -> None:
        while time.perf_counter() < begin + seconds:
            outcome = await load.ask(*next(contents))
            if outcome.status != 200:
                await asyncio.sleep(REFUSED_SECONDS)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return len(_split(load.outcomes[first:])[0]) / (time.perf_counter() - begin)


async def _phase(load: OpenLoad, contents: Iterator[tuple[Any, bytes]], rate: float, seconds: float) -> list[Outcome]:
    first = len(load.outcomes)
    await load.send(contents, rate, seconds)
    await load.finish()
    return load.outcomes[first:]


async def _last(load: OpenLoad, contents: Iterator[tuple[Any, bytes]], rate: float) -> list[Outcome]:
    """Load that goes on whether or not anybody is there."""
    return await _phase(load, contents, rate, 2 * LAST_SECONDS)


async def _watch(endpoint: Endpoint, memory: list[float]) -> None:
    while True:
        memory.append(endpoint.memory())
        await asyncio.sleep(SAMPLE_SECONDS)


def _split(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Those that were scored, and those that were refused for load."""
    return [each for each in outcomes if each.status == 200], [each for each in outcomes if each.status == 503]


def _failures(outcomes: Sequence[Outcome]) -> dict[str, int]:
    names = {LOST: "lost", NO_CONNECTION: "no connection"}
    failures: dict[str, int] = {}
    for each in outcomes:
        if each.status not in (200, 503):
            name = names.get(each.status, str(each.status))
            failures[name] = failures.get(name, 0) + 1
    return failures


def _recovery(outcomes: Sequence[Outcome], end: float, limit: float) -> float:
    """Seconds after the overload from which on all is well for one more; NaN if that doesn't come."""
    after = sorted((each for each in outcomes if each.due >= end), key=lambda each: each.due)
    for start in np.arange(0.0, CALM_SECONDS - 1.0, 0.1):
        window = [each for each in after if start <= each.due - end < start + 1.0]
        if window and all(each.status == 200 for each in window) and _percentile(window, 95) / 1000 <= limit:
            return float(start)
    return float("nan")


def _percentile(outcomes: Sequence[Outcome], which: float) -> float:
    return float(np.percentile([1000 * each.seconds for each in outcomes], which)) if outcomes else float("nan")


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--factor", type=float, default=10.0, help="times the capacity")
    parser.add_argument("--max-wait", type=float, default=1.0, help="serve.max_wait_seconds: the target")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    parameters = {name: value for name, value in vars(options).items() if name != "result"}
    with tempfile.TemporaryDirectory(prefix="touchstone-overload-") as folder:
        result = measure(Path(folder), **parameters)
    facts = {"hardware": hardware(), **parameters, **asdict(result)}
    options.result.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for name, value in asdict(result).items():
        if name != "memory":
            print(f"{name:18} {value:.1f}" if isinstance(value, float) else f"{name:18} {value}")
    print(result.line)


if __name__ == "__main__":
    main()
