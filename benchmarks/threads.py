"""How many threads, and how they wait: texts scored and training steps a second, idle and beside a busy neighbour.

    python -m benchmarks.threads                 # about six minutes; benchmarks/results/threads.json
    python -m benchmarks.threads --repeats 1 --seconds 2 --result threads.json

One thread, as many as there are cores spinning while they wait, and as many sleeping, each in a process of its own, in
turn; medians over the repeats. The network has the shape of the sandbox's base with random weights. The neighbour is a
process that never waits, on the first core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware
from benchmarks.pipeline import RESULTS, conditions

SCORED_TOKENS, TRAINED_TOKENS = 4096, 1024
GROUPS = 600


def ways() -> dict[str, tuple[int, str]]:
    """Number of threads, and how they wait, by name."""
    cores = len(os.sched_getaffinity(0))
    return {"one": (1, "PASSIVE"), "all, spinning": (cores, "ACTIVE"), "all, sleeping": (cores, "PASSIVE")}


def measure(work: str, threads: int, seconds: float) -> float:
    """Texts scored, or training steps, a second of this process."""
    import torch

    from touchstone.data.sources.sandbox import make
    from touchstone.model import attention
    from touchstone.model.base import new_network, preferred_texts, train_tokenizer, warm_up_loss
    from touchstone.model.network import RewardModel, rule_of
    from touchstone.model.processor import prepare
    from touchstone.model.scores import as_item
    from touchstone.model.scoring import raw_scores_encoded
    from touchstone.model.templating import encode_many
    from touchstone.settings import compose

    prepare(threads)
    torch.manual_seed(17)
    settings = compose([], Path(__file__).resolve().parent.parent / "configs")
    assert settings.model.kind == "scratch"
    assert settings.data.source == "sandbox"
    groups = [make(settings.data, number) for number in range(GROUPS)]
    tokenizer = train_tokenizer(groups, settings.model)
    network = new_network(tokenizer, settings.model)
    rule = rule_of(network.config, tokenizer, settings.model.max_tokens)
    if work == "score":
        model = RewardModel(network, tokenizer, rule)
        encoded = encode_many(tokenizer, rule, [as_item(group) for group in groups])
        texts = sum(len(group.completion_ids) for group in encoded)

        def once() -> int:
            raw_scores_encoded(model, encoded, token_budget=SCORED_TOKENS)
            return texts
    else:
        attention.use(network)
        texts_of_pairs = preferred_texts(groups, tokenizer, settings.model)
        batch, tokens = [], 0
        for text in texts_of_pairs:
            tokens += 2 * sum(map(len, text))
            if tokens > TRAINED_TOKENS:
                break
            batch.append(text)

        def once() -> int:
            network.zero_grad()
            warm_up_loss(network, batch).backward()
            return 1

    once()
    done, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        done += once()
    return done / (time.monotonic() - start)


def in_process(work: str, threads: int, wait: str, seconds: float) -> float:
    """`measure` in a process of its own, whose threads wait as said."""
    command = [sys.executable, "-m", "benchmarks.threads", "--work", work, "--threads", str(threads)]
    done = subprocess.run(
        [*command, "--seconds", str(seconds)],
        env={**os.environ, "OMP_WAIT_POLICY": wait},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--result", type=Path, default=RESULTS / "threads.json")
    parser.add_argument("--work", choices=("score", "train"), help="measure this in this process and print it")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.work:
        sys.stdout.write(f"{measure(options.work, options.threads, options.seconds)}\n")
        return
    rates: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(options.repeats):
        for neighbour in (False, True):
            with conditions(None, neighbour):
                for name, (threads, wait) in ways().items():
                    for work in ("score", "train"):
                        rate = in_process(work, threads, wait, options.seconds)
                        rates.setdefault(("busy neighbour" if neighbour else "idle", name, work), []).append(rate)
    rows: list[dict[str, Any]] = [
        {"machine": machine, "threads": name, "work": work, "a_second": round(statistics.median(values), 2)}
        for (machine, name, work), values in rates.items()
    ]
    result = {
        "rows": rows,
        "repeats": options.repeats,
        "hardware": hardware(),
        "versions": {"torch": version("torch")},
    }
    options.result.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    for row in rows:
        print(f"{row['machine']:<16}{row['threads']:<16}{row['work']:<8}{row['a_second']:>10}")


if __name__ == "__main__":
    main()
