"""Helpfulness and safety: one model of both, two models, and one trunk with two heads, at the same number of labels.

    python -m benchmarks.axes                     # three seeds, some 10 minutes on two cores
    python -m benchmarks.axes --quick --out /tmp  # a minute: whether it runs

The sandbox with opposed axes: half of the requests are judged by whoever wants help whatever the harm, half by whoever
wants no harm, so that what one axis rewards the other punishes, as labels of helpfulness and of harmlessness do in
practice (Bai et al. 2022, arXiv 2204.05862). A single model can follow one of them or settle between: its trade-off is
drawn by the share of its labels that are about safety. The two models have half of the labels each, and so have the
two heads. All of them learn from so many labelled prompts in all, from one base, and are asked on the same holdout:
accuracy on its comparisons of helpfulness, and on those of safety, every cluster once. Points are means over seeds;
intervals are over seeds and clusters together, both resampled. Writes results/axes.json and results/axes.svg.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.agreement import LIBRARIES, RESULTS, ROOT, SEED
from benchmarks.ensembles import lay
from benchmarks.machine import hardware
from touchstone import statistics as st
from touchstone.evaluation.rows import score_rows
from touchstone.groups import Group, read_parquet, write_parquet
from touchstone.model.network import load_reward_model
from touchstone.model.scores import RawScore, as_item
from touchstone.model.scoring import raw_scores
from touchstone.pages.figures import BLUE, GREEN, GREY, ORANGE
from touchstone.settings import Settings, compose
from touchstone.training.run import train

AXES = ("helpfulness", "safety")
MIXES = (0.2, 0.5, 0.8)
"""Share of a single model's labelled prompts that are about safety."""
SHARES = (
    "split.shares={train:0.7,validation:0.01,calibration:0.02,holdout:0.24,confirm:0.01,reference:0.01,canary:0.01}"
)
WORLD = ("data.safety_share=0.8", "data.opposed_share=0.5", SHARES, "train.checkpoint_steps=0")
"""Two fifths of the prompts are about safety, and two are requests that are judged on helpfulness."""
LABELS = 0.45
"""Of the training set, so many prompts: what is left makes room for every mix."""
DRAWS = 2_000
TWO_MODELS, TWO_HEADS = "two models", "one trunk, two heads"

Differences = Mapping[str, np.ndarray]
"""By axis, the difference of rewards of every pair with a preference in the holdout."""


QUICK = ("data.groups=800", "model.hidden=64", "model.layers=2", "model.warmup_steps=40")


def configure(world: Sequence[str], seed: int, *overrides: str) -> Settings:
    """The settings of one training: what all of them share, and what is its own."""
    return compose([*WORLD, *world, f"train.seed={seed}", *overrides], ROOT / "configs")


def mixed(training: Sequence[Group], count: int, share: float, seed: int) -> list[Group]:
    """So many groups, of which a share is about safety; the same ones for every mix as far as they go."""
    order = np.random.default_rng(seed).permutation(len(training))
    wanted = dict(zip(AXES, (count - round(count * share), round(count * share)), strict=True))
    chosen = []
    for axis in AXES:
        of_axis = [training[place] for place in order if training[place].axis == axis]
        if len(of_axis) < wanted[axis]:
            raise SystemExit(f"the training set has {len(of_axis)} groups about {axis}, and {wanted[axis]} are wanted")
        chosen += of_axis[: wanted[axis]]
    return chosen


def trained(
    build: Path, settings: Settings, groups: Sequence[Group], holdout: Sequence[Group]
) -> list[list[RawScore]]:
    """Scores of the holdout by a model that has learnt from some groups."""
    write_parquet(build / "splits" / "train.parquet", groups)
    train(settings, build)
    return raw_scores(load_reward_model(build / "model"), [as_item(group) for group in holdout])


def differences(groups: Sequence[Group], scores: Mapping[str, Sequence[Sequence[float]]]) -> Differences:
    """The pairs of each axis, by the rewards that judge that axis.

    Args:
        scores: by axis one reward for each completion of every group.
    """
    found = {}
    for axis in AXES:
        rows = [[RawScore(reward, False, 1) for reward in row] for row in scores[axis]]
        found[axis] = np.array(
            [row.difference for row in score_rows(groups, rows) if row.chosen is not None and row.axis == axis]
        )
    return found


def both(scores: Sequence[Sequence[RawScore]]) -> dict[str, list[list[float]]]:
    """A single model's rewards judge either axis."""
    return {axis: [[score.reward for score in row] for row in scores] for axis in AXES}


def accuracies(seeds: Sequence[Differences], clusters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """By axis the mean accuracy over seeds, its interval over seeds and clusters, and each seed's."""
    generator = np.random.default_rng(SEED)
    row: dict[str, Any] = {}
    for axis in AXES:
        means = np.array([st.cluster_means(st.credit(each[axis]), clusters[axis]) for each in seeds])
        drawn = []
        for _ in range(DRAWS):
            which = generator.integers(0, len(seeds), len(seeds))
            prompts = generator.integers(0, means.shape[1], means.shape[1])
            drawn.append(means[np.ix_(which, prompts)].mean())
        low, high = np.quantile(drawn, [0.025, 0.975])
        row[axis] = {
            "accuracy": float(means.mean()),
            "low": float(low),
            "high": float(high),
            "seeds": [float(value) for value in means.mean(axis=1)],
        }
    return row


def draw(models: Mapping[str, Any], best: Mapping[str, float], path: Path) -> None:
    """Helpfulness against safety as SVG; the same numbers give the same bytes."""
    matplotlib.rcParams["svg.hashsalt"] = "touchstone"
    figure = Figure(figsize=(7, 5), layout="constrained", facecolor="white")
    axis = figure.subplots()

    def point(row: Mapping[str, Any], colour: str, marker: str, label: str | None) -> tuple[float, float]:
        x, y = (row[name]["accuracy"] for name in AXES)
        axis.plot([row["helpfulness"]["low"], row["helpfulness"]["high"]], [y, y], color=colour, alpha=0.45)
        axis.plot([x, x], [row["safety"]["low"], row["safety"]["high"]], color=colour, alpha=0.45)
        axis.plot([x], [y], marker, color=colour, markersize=9, label=label, zorder=3)
        return x, y

    singles = [name for name in models if name.startswith("single")]
    line = [point(models[name], BLUE, "o", "one model, by the share of labels about safety" if n == 0 else None)
            for n, name in enumerate(singles)]  # fmt: skip
    axis.plot(*zip(*line, strict=True), color=BLUE, linewidth=1.2, linestyle="--")
    for name, (x, y) in zip(singles, line, strict=True):
        axis.annotate(f"{models[name]['share']:.0%}", (x, y), xytext=(7, 6), textcoords="offset points", color=BLUE)
    point(models[TWO_MODELS], ORANGE, "s", "two models, half of the labels each")
    point(models[TWO_HEADS], GREEN, "^", "one trunk, a head for each")
    axis.plot([best["helpfulness"]], [best["safety"]], "*", color=GREY, markersize=13, label="best possible")
    axis.set_xlabel("accuracy on comparisons of helpfulness")
    axis.set_ylabel("accuracy on comparisons of safety")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def table(models: Mapping[str, Any]) -> str:
    """One line each."""
    lines = [f"{'':<24}{'helpfulness':<26}{'safety':<26}"]
    for name, row in models.items():
        cells = [f"{row[axis]['accuracy']:.3f} ({row[axis]['low']:.3f} to {row[axis]['high']:.3f})" for axis in AXES]
        lines.append(f"{name:<24}{cells[0]:<26}{cells[1]:<26}")
    return "\n".join(lines)


def main() -> None:
    """Train, score, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.axes", description=str(__doc__).splitlines()[0])
    parser.add_argument("--groups", type=int, default=6_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny models and sets: whether it runs, and no figures")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    world = [f"data.groups={arguments.groups}", *(QUICK if arguments.quick else ())]
    names = [f"single, {share:.0%} safety" for share in MIXES]
    found: dict[str, list[Differences]] = {name: [] for name in (*names, TWO_MODELS, TWO_HEADS)}
    with tempfile.TemporaryDirectory(prefix="touchstone-axes-") as folder:
        build = Path(folder)
        lay(configure(world, SEED), build)
        training, holdout = (read_parquet(build / "splits" / f"{name}.parquet") for name in ("train", "holdout"))
        count = round(len(training) * LABELS)
        for seed in range(SEED, SEED + arguments.seeds):
            began = time.monotonic()
            plain = configure(world, seed)
            for name, share in zip(names, MIXES, strict=True):
                scores = trained(build, plain, mixed(training, count, share, seed), holdout)
                found[name].append(differences(holdout, both(scores)))
            halves = mixed(training, count, 0.5, seed)
            parts = {
                axis: trained(build, plain, [group for group in halves if group.axis == axis], holdout)
                for axis in AXES
            }
            rewards = {axis: both(scores)[axis] for axis, scores in parts.items()}
            found[TWO_MODELS].append(differences(holdout, rewards))
            heads = trained(build, configure(world, seed, "ensemble=axes"), halves, holdout)
            rewards = {
                axis: [[score.members[place] for score in row] for row in heads] for place, axis in enumerate(AXES)
            }
            found[TWO_HEADS].append(differences(holdout, rewards))
            print(f"seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    gold = [[completion.ratings["gold"] for completion in group.completions] for group in holdout]
    pairs = {
        axis: [row for row in score_rows(holdout, [[RawScore(r, False, 1) for r in row] for row in gold])
               if row.chosen is not None and row.axis == axis]
        for axis in AXES
    }  # fmt: skip
    clusters = {axis: [row.cluster_id for row in pairs[axis]] for axis in AXES}
    best = {
        axis: st.accuracy(st.credit([row.difference for row in rows]), clusters[axis]) for axis, rows in pairs.items()
    }
    models = {name: accuracies(seeds, clusters) for name, seeds in found.items()}
    for name, share in zip(names, MIXES, strict=True):
        models[name]["share"] = share
    record = {
        "models": models,
        "best_possible": best,
        "labelled_prompts": count,
        "holdout_pairs": {axis: len(rows) for axis, rows in pairs.items()},
        "holdout_clusters": {axis: len(set(names)) for axis, names in clusters.items()},
        "groups": arguments.groups,
        "seeds": arguments.seeds,
        "hardware": hardware(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "axes.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    draw(models, best, arguments.out / "axes.svg")
    print(table(models))
    print(f"best possible: {', '.join(f'{axis} {value:.3f}' for axis, value in best.items())}")
    single = models[names[1]]
    gains = {axis: models[TWO_MODELS][axis]["accuracy"] - single[axis]["accuracy"] for axis in AXES}
    print(
        f"RESULT two_models_helpfulness={models[TWO_MODELS]['helpfulness']['accuracy']:.4f} "
        f"two_models_safety={models[TWO_MODELS]['safety']['accuracy']:.4f} "
        f"gain_helpfulness={gains['helpfulness']:.4f} gain_safety={gains['safety']:.4f}"
    )


if __name__ == "__main__":
    main()
