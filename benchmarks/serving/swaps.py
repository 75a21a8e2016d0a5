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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import hardware
from benchmarks.serving.endpoint import Endpoint, make_artifacts, rewards_request
from benchmarks.serving.open_load import OpenLoad, Outcome
from tests.places import ROOT
from tests.worlds.sealed import make_tiny_groups
from touchstone.model.card import read
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.registry import Registry
from touchstone.serving.pins import VERSION_HEADER
from touchstone.settings import compose

RESULT = ROOT / "benchmarks" / "results" / "swaps.json"
NAME = "reward-swapped"
SETTLING_SECONDS = 1.0
LEAD_SECONDS = 2.0
"""Of load before the first move, which isn't counted, and after the last."""
SWAP_SECONDS = 60.0
PIN_EVERY = 5
TOLERANCE = 1e-4


MOVER = """
import sys
from pathlib import Path
from touchstone.registry import Registry
registry = Registry.open(Path(sys.argv[1]))
for line in sys.stdin:
    target, present = map(int, line.split())
    registry.set_alias(sys.argv[2], "champion", target, present)
    print("moved", flush=True)
"""
"""Moves the champion in a process of its own: registry work would hold up the requests that this one sends."""


@dataclass(frozen=True)
class Request:
    """What a request asks, and its scores by every artifact.

    Attributes:
        content: as it goes over the wire.
        expected: centred scores of its completions by the artifact's digest.
    """

    content: bytes
    expected: dict[str, list[float]]
    pinned: bool


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


def make_requests(url: str, artifacts: Sequence[Path], count: int) -> list[Request]:
    """Requests of one to four completions, each scored offline by every artifact; every fifth is pinned."""
    groups = make_tiny_groups(count, seed=7, completions=(1, 1, 2, 4))
    rows = {read(artifact).digest: Scorer.load(artifact).score([*map(as_item, groups)]) for artifact in artifacts}
    requests = []
    for place, group in enumerate(groups):
        pinned = place % PIN_EVERY == 0
        content = rewards_request(url, group, f"{VERSION_HEADER}: 1\r\n" if pinned else "")
        expected = {digest: [score.centered for score in scores[place]] for digest, scores in rows.items()}
        requests.append(Request(content, expected, pinned))
    return requests


def answered(outcome: Outcome) -> Answered:
    """What a request's outcome means."""
    request: Request = outcome.tag
    version, fault = 0, ""
    if outcome.status == 200:
        answer = json.loads(outcome.body)
        version = answer["version"]
        fault = _fault(answer, request, request.pinned)
    else:
        fault = f"failed: {outcome.status}"
    return Answered(outcome.due, outcome.end, request.pinned, version, fault)


def _fault(answer: dict[str, Any], request: Request, pinned: bool) -> str:
    """What an answer mixes up, if anything."""
    if pinned and answer["version"] != 1:
        return f"mixed: version {answer['version']} answered a pin of 1"
    scores = [score["centered"] for score in answer["results"][0]["scores"]]
    expected = request.expected[answer["digest"]]
    if not np.allclose(scores, expected, rtol=0, atol=TOLERANCE):
        return f"mixed: version {answer['version']} gave scores of another artifact"
    return ""


@contextmanager
def mover(root: Path) -> Iterator[subprocess.Popen[str]]:
    """The process that moves aliases."""
    command = [sys.executable, "-c", MOVER, str(root), NAME]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _move(process: subprocess.Popen[str], target: int, present: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{target} {present}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "moved\n"


async def swap_through(
    process: subprocess.Popen[str], versions: Sequence[int], load: OpenLoad, seconds: float
) -> list[Swap]:
    """Move the champion in so many seconds to each of these versions in turn; the first is champion already."""
    swaps: list[Swap] = []
    count = len(versions) - 1
    begin = time.perf_counter()
    for number, (champion, target) in enumerate(pairwise(versions)):
        await asyncio.sleep(max(0.0, begin + (number + 0.5) * seconds / count - time.perf_counter()))
        moved, seen = time.perf_counter(), len(load.outcomes)
        await asyncio.to_thread(_move, process, target, champion)
        first: float | None = None
        while first is None:
            if time.perf_counter() > moved + SWAP_SECONDS:
                raise TimeoutError(f"version {target} doesn't answer {SWAP_SECONDS:.0f} s after it became champion")
            await asyncio.sleep(0.05)
            fresh = [answered(each) for each in load.outcomes[seen:]]
            seen += len(fresh)
            first = min((each.end for each in fresh if _first_of(each, target, moved)), default=None)
        swaps.append(Swap(target, target != 1, moved, first))
    await asyncio.sleep(max(0.0, begin + seconds - time.perf_counter()))
    return swaps


def _first_of(answered: Answered, version: int, since: float) -> bool:
    """Whether a version has answered because it is champion."""
    return answered.version == version and answered.due > since and not answered.pinned


def measure(folder: Path, *, swaps: int, seconds: float, rate: float, hidden: int, layers: int) -> Result:
    """Serve, load, swap and compare; `folder` becomes the project."""
    artifacts = make_artifacts(folder / "artifacts", 3, hidden=hidden, layers=layers)
    registry = Registry.open(folder)
    registry.set_alias(NAME, "champion", registry.publish(NAME, "first", artifacts[0]).version, expected=None)
    new = cycle(artifacts[1:])
    promoted = [registry.publish(NAME, f"swap-{number}", next(new)).version for number in range((swaps + 1) // 2)]
    versions = [1, *(version for number in promoted for version in (number, 1))][: swaps + 1]
    settings = compose([], ROOT / "configs")
    quick = {"poll_seconds": 0.2, "threads": 1, "keep_previous": 1}
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update=quick)})
    endpoint = Endpoint(folder, settings, ["--name", NAME])
    requests = make_requests(endpoint.url, artifacts, 60)
    contents = cycle([(request, request.content) for request in requests])

    async def scenario(process: subprocess.Popen[str]) -> tuple[list[Swap], list[Answered], float]:
        load = OpenLoad(endpoint.url)
        sending = asyncio.create_task(load.send(contents, rate, seconds + 2 * LEAD_SECONDS))
        await asyncio.sleep(LEAD_SECONDS)
        load.outcomes.clear()
        first = endpoint.memory()
        done = await swap_through(process, versions, load, seconds)
        await sending
        await load.finish()
        return done, [*map(answered, load.outcomes)], first

    try:
        with mover(folder) as process:
            moves, answers, memory = asyncio.run(scenario(process))
        return _summary(moves, answers, memory, endpoint.memory())
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
