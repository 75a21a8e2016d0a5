"""What remembering a prompt is worth: rollouts of one prompt that arrive as single requests.

    python -m benchmarks.serving.prefix_cache                  # a minute; benchmarks/results/prefix_cache.json
    python -m benchmarks.serving.prefix_cache --override model.hidden=512 --result wide.json

64 requests of one completion of 128 tokens each: in 4 waves of 16, each wave one call of the scorer; 16 of them one by
one; and 16 whose prompts are all new, which is what looking them up costs where none comes back. A network of the
sandbox's shape with random weights, fp32, one thread, without a cache and with one in turn; medians of the repeats, in
requests per second of the processor, so that a busy machine may measure it.

The shortest length at which the waves gain more than noise is `prefix_cache.LEAST_TOKENS`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import hardware
from benchmarks.pipeline import RESULTS, ROOT
from touchstone.data.sources.sandbox import make
from touchstone.model import prefix_cache
from touchstone.model.base import new_network, train_tokenizer
from touchstone.model.network import RewardModel, rule_of
from touchstone.model.processor import prepare
from touchstone.model.scoring import raw_scores_encoded
from touchstone.model.templating import EncodedGroup
from touchstone.settings import compose

LENGTHS = (16, 32, 64, 128, 256, 512)
WAVES, WAVE, COMPLETION = 4, 16, 128
TOKEN_BUDGET = 16_384
LIMIT = 2**30


def make_model(overrides: list[str]) -> RewardModel:
    """A network of the settings' shape with random weights."""
    settings = compose(overrides, ROOT / "configs")
    assert settings.model.kind == "scratch"
    assert settings.data.source == "sandbox"
    torch.manual_seed(17)
    tokenizer = train_tokenizer([make(settings.data, number) for number in range(200)], settings.model)
    network = new_network(tokenizer, settings.model).train(False)
    return RewardModel(network, tokenizer, rule_of(network.config, tokenizer, settings.model.max_tokens))


def single(ids: random.Random, prompt: list[int]) -> EncodedGroup:
    """A request with one completion."""
    return EncodedGroup(prompt, [[ids.randrange(5, 400) for _ in range(COMPLETION)]], [0], [False])


def seconds(
    model: RewardModel, calls: list[list[EncodedGroup]], cache: prefix_cache.PrefixCache | None
) -> tuple[float, float, list[float]]:
    """The processor's time for some calls with an empty cache or none, the share of known prompts, and the rewards."""
    rewards = []
    start = time.process_time()
    for call in calls:
        rows = raw_scores_encoded(model, call, token_budget=TOKEN_BUDGET, cache=cache)
        rewards += [score.reward for row in rows for score in row]
    elapsed = time.process_time() - start
    known = 0.0 if cache is None else cache.hits / max(1, cache.hits + cache.misses)
    return elapsed, known, rewards


def compare(model: RewardModel, calls: list[list[EncodedGroup]], repeats: int) -> dict[str, float]:
    """Requests per second of the processor, with and without in turn."""
    times: dict[bool, list[float]] = {True: [], False: []}
    known = 0.0
    # Opened before anything is timed: the probe leaves the allocator in another state.
    caches = [prefix_cache.open_cache(model, LIMIT) for _ in range(repeats + 1)]
    for repeat in range(repeats + 1):
        results = {}
        for remember in (False, True) if repeat % 2 else (True, False):
            elapsed, share, rewards = seconds(model, calls, caches[repeat] if remember else None)
            times[remember].append(elapsed)
            results[remember] = rewards
            known = share if remember else known
    requests = sum(map(len, calls))
    # The first of each warms up.
    rates = {remember: requests / statistics.median(values[1:]) for remember, values in times.items()}
    return {
        "without": round(rates[False], 1),
        "with": round(rates[True], 1),
        "ratio": round(rates[True] / rates[False], 3),
        "hit_share": round(known, 3),
        "largest_difference": max(abs(a - b) for a, b in zip(results[True], results[False], strict=True)),
    }


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--override", action="append", default=[], help="of the settings: model.hidden=512")
    parser.add_argument("--result", type=Path, default=RESULTS / "prefix_cache.json")
    options = parser.parse_args()
    prepare(1)
    model = make_model(options.override)
    prefix_cache.LEAST_TOKENS = 1  # what is shorter is measured too
    ids = random.Random(17)
    rows: list[dict[str, Any]] = []
    for length in options.lengths:
        prompts = [[ids.randrange(5, 400) for _ in range(length)] for _ in range(WAVE)]
        rollouts = [[single(ids, prompts[0]) for _ in range(WAVE)] for _ in range(WAVES)]
        alone = [[request] for request in rollouts[0]]
        new = [[single(ids, prompt) for prompt in prompts]]
        for work, calls in (("waves", rollouts), ("one by one", alone), ("new prompts", new)):
            rows.append({"prompt": length, "work": work, **compare(model, calls, options.repeats)})
            row = rows[-1]
            print(
                f"{work:<12} prompt {length:>5}  without {row['without']:>8}/s  with {row['with']:>8}/s  "
                f"ratio {row['ratio']:>6}  known {row['hit_share']:.0%}  differ by {row['largest_difference']:.1e}"
            )
    result = {
        "rows": rows,
        "repeats": options.repeats,
        "overrides": options.override,
        "hardware": hardware(),
        "versions": {"torch": version("torch")},
    }
    options.result.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    longest = {row["work"]: row for row in rows if row["prompt"] == max(options.lengths)}
    waves, alone = longest["waves"], longest["one by one"]
    print(
        f"RESULT prompt={waves['prompt']} hit_share={waves['hit_share']} waves={waves['ratio']} "
        f"one_by_one={alone['ratio']} new_prompts={longest['new prompts']['ratio']} "
        f"largest_difference={max(row['largest_difference'] for row in rows):.1e}"
    )


if __name__ == "__main__":
    main()
