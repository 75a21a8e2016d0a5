"""Does any use of the judges' agreement help where labels are noisy? The sandbox with a fifth of its labels flipped.

    python -m benchmarks.agreement             # three seeds of six objectives, some 30 minutes on one core
    python -m benchmarks.agreement --seeds 1   # a quick look

Every objective trains on the same set from the same base, each seed another order and another head. They are scored on
the holdout twice: against its labels, as noisy as those of the training set, and against the true reward, which the
sandbox knows. Accuracy counts every cluster once, over pairs with a preference; credits are averaged over seeds, and
intervals resample clusters, so they say nothing of other seeds: those stand beside them. Differences are paired, to
`keep`, which uses the majority of the judgements as it is. Writes results/agreement.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import hardware
from touchstone import statistics as st
from touchstone.data.sources import read_source
from touchstone.data.splits import split_groups
from touchstone.evaluation.baselines import LinearBaseline
from touchstone.groups import Group, judged_pairs, read_parquet, write_parquet
from touchstone.model.base import build_base
from touchstone.model.network import load_reward_model
from touchstone.model.scores import as_item
from touchstone.model.scoring import raw_scores
from touchstone.settings import Settings, compose
from touchstone.training.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NOISE = 0.2
OBJECTIVES = {
    "keep": ["objective=bradley_terry"],
    "agreement": ["objective=agreement"],
    "filter": ["objective=filter"],
    "curriculum": ["objective=curriculum"],
    "soft_labels": ["objective=soft_labels"],
    "noise_rate": ["objective=noise_rate", f"objective.noise_rate={NOISE}"],
}
SEED = 17
LIBRARIES = ("torch", "transformers", "trl")


def configure(name: str, groups: int, seed: int) -> Settings:
    """The settings of one training; another name differs in the objective alone."""
    data = (f"data.groups={groups}", f"data.label_noise={NOISE}")
    run = (f"train.seed={seed}", "train.checkpoint_steps=0")
    return compose([*data, *run, *OBJECTIVES[name]], ROOT / "configs")


def lay(settings: Settings, build: Path) -> None:
    """Write the seven sets and the base."""
    assert settings.model.kind == "scratch"
    groups = build / "groups.parquet"
    write_parquet(groups, [row for row in read_source(settings.data, ROOT) if isinstance(row, Group)])
    (build / "splits").mkdir()
    split_groups(groups, settings.split, build / "splits")
    training = read_parquet(build / "splits" / "train.parquet")
    build_base(training, settings.model, seed=SEED, threads=settings.training_threads, folder=build / "base")


def credits(groups: Sequence[Group], scores: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    """For each pair with a preference: 1 where the scores agree with its label, or gold; 1/2 where they are equal."""
    labelled, gold = [], []
    for group, row in zip(groups, scores, strict=True):
        for pair in judged_pairs(group):
            if pair.chosen is not None and pair.rejected is not None:
                worth = [group.completions[side].ratings["gold"] for side in (pair.chosen, pair.rejected)]
                difference = row[pair.chosen] - row[pair.rejected]
                labelled.append(difference)
                gold.append(difference if worth[0] > worth[1] else -difference)
    return {"labels": st.credit(labelled), "gold": st.credit(gold)}


def summary(found: dict[str, list[dict[str, np.ndarray]]], clusters: Sequence[str]) -> dict[str, Any]:
    """Of each objective and either truth: accuracy and interval, each seed's, and the paired difference to keep."""
    rows: dict[str, Any] = {}
    for name, seeds in found.items():
        rows[name] = {}
        for truth in ("labels", "gold"):
            mean = np.mean([one[truth] for one in seeds], axis=0)
            beside = np.mean([one[truth] for one in found["keep"][: len(seeds)]], axis=0)
            interval = st.bootstrap_mean_interval(st.cluster_means(mean - beside, clusters), 0.95, 10_000, SEED)
            assert interval is not None
            rows[name][truth] = {
                "accuracy": st.accuracy(mean, clusters),
                "interval": list(st.accuracy_interval(mean, clusters, 0.95, 10_000, SEED)),
                "seeds": [st.accuracy(one[truth], clusters) for one in seeds],
                "difference": st.accuracy(mean - beside, clusters),
                "difference_interval": list(interval),
            }
    return rows


def table(rows: dict[str, Any]) -> str:
    """The objectives, one line each."""
    lines = [f"{'':<14}{'with labels':<26}{'with the true reward':<26}difference to keep (true reward)"]
    for name, row in rows.items():
        cells = [f"{row[truth]['accuracy']:.3f} ({low:.3f} to {high:.3f})" for truth in ("labels", "gold")
                 for low, high in [row[truth]["interval"]]]  # fmt: skip
        low, high = row["gold"]["difference_interval"]
        difference = f"{row['gold']['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        lines.append(f"{name:<14}{cells[0]:<26}{cells[1]:<26}{difference}")
    return "\n".join(lines)


def main() -> None:
    """Train, score, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", description=str(__doc__).splitlines()[0])
    parser.add_argument("--groups", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in OBJECTIVES}
    seconds = []
    with tempfile.TemporaryDirectory(prefix="touchstone-agreement-") as folder:
        build = Path(folder)
        lay(configure("keep", arguments.groups, SEED), build)
        training, holdout = (read_parquet(build / "splits" / f"{name}.parquet") for name in ("train", "holdout"))
        pairs = [pair for group in training for pair in group_pairs(group)]
        several = sum(pair > 1 for pair in pairs) / len(pairs)
        print(f"{len(pairs):,} pairs to learn from, {several:.0%} of them judged more than once", flush=True)
        linear = credits(holdout, LinearBaseline.fit(training).score(holdout))
        for number in range(arguments.seeds):
            for name in OBJECTIVES:
                began = time.monotonic()
                train(configure(name, arguments.groups, SEED + number), build)
                model = load_reward_model(build / "model")
                scores = [[score.reward for score in row] for row in raw_scores(model, [as_item(g) for g in holdout])]
                found[name].append(credits(holdout, scores))
                seconds.append(time.monotonic() - began)
                shares = ", ".join(f"{truth} {values.mean():.3f}" for truth, values in found[name][-1].items())
                print(f"seed {number + 1} {name}: {shares}, {seconds[-1]:.0f} s", flush=True)
    clusters = [group.cluster_id for group in holdout for pair in judged_pairs(group) if pair.chosen is not None]
    rows = summary({**found, "linear": [linear] * arguments.seeds}, clusters)
    record = {
        "objectives": rows,
        "noise": NOISE,
        "groups": arguments.groups,
        "seeds": arguments.seeds,
        "training_pairs": len(pairs),
        "judged_more_than_once": several,
        "holdout_pairs": len(clusters),
        "holdout_clusters": len(set(clusters)),
        "seconds": seconds,
        "hardware": hardware(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "agreement.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    print(table(rows))
    best = max(OBJECTIVES, key=lambda name: rows[name]["gold"]["difference"])
    low, high = rows[best]["gold"]["difference_interval"]
    print(
        f"RESULT keep={rows['keep']['gold']['accuracy']:.4f} best={best} "
        f"difference={rows[best]['gold']['difference']:.4f} low={low:.4f} high={high:.4f}"
    )


def group_pairs(group: Group) -> list[float]:
    """How many judgements each judged pair has."""
    return [pair.wins_first + pair.wins_second + pair.ties for pair in judged_pairs(group)]


if __name__ == "__main__":
    main()
