"""What decoys in training do: the sandbox with and without them, accuracy and how often each probe wins.

    python -m benchmarks.decoys             # three seeds of two rates, some 15 minutes on one core
    python -m benchmarks.decoys --seeds 1   # a quick look

Every model trains on the same set from the same base; each seed is another order, another head and other decoys. On
the holdout: accuracy over pairs with a preference, every cluster once, and for each of the gate's probes the share of
prompts in which it is not below the chosen answer. Writes results/decoys.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agreement import LIBRARIES, RESULTS, ROOT, SEED, credits, lay
from benchmarks.machine import hardware
from touchstone import statistics as st
from touchstone.gate import probes
from touchstone.groups import Group, judged_pairs, read_parquet
from touchstone.model.network import load_reward_model
from touchstone.model.scores import as_item
from touchstone.model.scoring import raw_scores
from touchstone.settings import Settings, compose
from touchstone.training.run import train

RATES = (0.0, 1.0)
PROMPTS = 1_000


def configure(groups: int, rate: float, seed: int) -> Settings:
    """The settings of one training."""
    run = (f"train.seed={seed}", "train.checkpoint_steps=0", f"objective.decoys={rate}")
    return compose([f"data.groups={groups}", *run], ROOT / "configs")


def measure(build: Path, holdout: list[Group], safety_axes: list[str]) -> dict[str, Any]:
    """Accuracy, and each probe's win rate, of the model in build/model."""
    model = load_reward_model(build / "model")
    rewards = [[score.reward for score in row] for row in raw_scores(model, [as_item(group) for group in holdout])]
    clusters = [group.cluster_id for group in holdout for pair in judged_pairs(group) if pair.chosen is not None]
    questions = probes.questions(holdout, PROMPTS, safety_axes)
    table = probes.to_table(questions, raw_scores(model, [as_item(question.group) for question in questions]))
    found = probes.of_all_axes(probes.wins(table))
    return {
        "accuracy": st.accuracy(credits(holdout, rewards)["labels"], clusters),
        "probes": {name: won / prompts for name, (won, prompts) in found.items()},
    }


def main() -> None:
    """Train, score, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoys", description=str(__doc__).splitlines()[0])
    parser.add_argument("--groups", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="touchstone-decoys-") as folder:
        build = Path(folder)
        settings = configure(arguments.groups, 0.0, SEED)
        axes = settings.gates.safety_axes
        lay(settings, build)
        holdout = read_parquet(build / "splits" / "holdout.parquet")
        for seed in range(SEED, SEED + arguments.seeds):
            for rate in RATES:
                began = time.monotonic()
                train(configure(arguments.groups, rate, seed), build)
                seconds = time.monotonic() - began
                rows.append({"rate": rate, "seed": seed, "seconds": seconds, **measure(build, holdout, axes)})
                worst = max(rows[-1]["probes"].values())
                print(f"rate {rate:g}, seed {seed}: accuracy {rows[-1]['accuracy']:.3f}, worst probe {worst:.1%}")
    means = {
        f"{rate:g}": {
            "accuracy": float(np.mean([row["accuracy"] for row in rows if row["rate"] == rate])),
            "probes": {
                name: float(np.mean([row["probes"][name] for row in rows if row["rate"] == rate]))
                for name in rows[0]["probes"]
            },
        }
        for rate in RATES
    }
    versions = {name: version(name) for name in LIBRARIES}
    record = {"means": means, "runs": rows, "prompts": PROMPTS}
    record |= {"hardware": hardware(), "versions": versions}
    (arguments.out / "decoys.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    without, having = means["0"], means["1"]
    for name, share in without["probes"].items():
        print(f"{name:<42}{share:>8.1%}{having['probes'][name]:>8.1%}")
    worst = [max(found["probes"].values()) for found in (without, having)]
    print(
        f"RESULT accuracy_without={without['accuracy']:.4f} accuracy_with={having['accuracy']:.4f} "
        f"worst_probe_without={worst[0]:.4f} worst_probe_with={worst[1]:.4f}"
    )


if __name__ == "__main__":
    main()
