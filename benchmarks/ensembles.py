"""What an ensemble buys and what it costs: one model, K heads, K adapters and K seeds on the sandbox.

    python -m benchmarks.ensembles                     # some 10 minutes on two cores
    python -m benchmarks.ensembles --quick --out /tmp  # a minute: whether it runs

All of them learn from the same set and the same base, and are sealed, calibrated and scored as the pipeline does; the
single model is the first of the seeds. On the holdout: accuracy, the calibration error, and whether the spread over
the members tells where the model errs, as the area under the curve of errors against the spread that is served with
each score (0.5 says nothing), beside that against the distance of the two rewards, which any model has. Far rewards
have a large spread and few errors, so two more questions are asked: among pairs of like distance (tenths of them),
does the spread of their difference find the errors; and is a text's spread larger where its reward is far off the
known one (the quarter of the texts furthest from the line through reward and gold, less their prompts' means)? Every
cluster counts once and intervals resample clusters. Costs: seconds of the processor for training, texts scored in one
beside the single model (medians of three interleaved rounds), the artifact's size. Writes results/ensembles.json and
.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from benchmarks.agreement import LIBRARIES, RESULTS, ROOT, SEED
from benchmarks.machine import hardware
from touchstone import statistics as st
from touchstone.data.sources import read_source
from touchstone.data.sources.sandbox_gold import gold
from touchstone.data.splits import split_groups
from touchstone.evaluation.baselines import baseline_differences
from touchstone.evaluation.metrics import measure
from touchstone.evaluation.rows import Row, score_rows
from touchstone.groups import Group, read_parquet, write_parquet
from touchstone.model.base import build_base
from touchstone.model.combining import Combination, combine, spread_of
from touchstone.model.scores import RawScore, as_item
from touchstone.model.scoring import Scorer
from touchstone.model.sealing import seal
from touchstone.pages.figures import BLUE, GREEN, GREY, INK, ORANGE
from touchstone.settings import Settings, compose
from touchstone.statistics import Floats
from touchstone.training.run import train

SHARES = "split.shares={train:0.56,validation:0.02,calibration:0.1,holdout:0.2,confirm:0.01,reference:0.1,canary:0.01}"
"""A larger holdout than the default's: here it is the yardstick, and nothing is promoted."""

KINDS = {
    "seeds": ["ensemble=seeds"],
    "heads": ["ensemble=heads"],
    "adapters": ["ensemble=adapters", "train.method=lora", "train.learning_rate=3e-3", "train.lora_rank=32"],
}
"""Adapters with ten times the learning rate of full training (configs/train/lora.yaml)."""
RULES: tuple[Combination, ...] = ("mean", "worst", "uncertainty")
ROUNDS = 3
TIMED_TEXTS = 400


QUICK = ("data.groups=600", "model.hidden=64", "model.layers=2", "model.warmup_steps=40")


def configure(world: Sequence[str], *overrides: str) -> Settings:
    """The settings of one training: what all of them share, and what is its own."""
    return compose([SHARES, "train.checkpoint_steps=0", *world, *overrides], ROOT / "configs")


def lay(settings: Settings, build: Path) -> None:
    """Write the seven sets and the base."""
    assert settings.model.kind == "scratch"
    groups = build / "groups.parquet"
    write_parquet(groups, [row for row in read_source(settings.data, ROOT) if isinstance(row, Group)])
    (build / "splits").mkdir()
    split_groups(groups, settings.split, build / "splits")
    training = read_parquet(build / "splits" / "train.parquet")
    build_base(training, settings.model, seed=SEED, threads=settings.training_threads, folder=build / "base")


def seal_into(model: Path, build: Path, folder: Path) -> Scorer:
    """A sealed artifact, loaded."""
    sets = [read_parquet(build / "splits" / f"{name}.parquet") for name in ("calibration", "reference")]
    seal(model, *sets, precision="fp32", self_test_vectors=12, seeds={"train": SEED}, folder=folder)
    return Scorer.load(folder)


def by_rule(scorer: Scorer, groups: Sequence[Group], scores: list[list[RawScore]]) -> dict[str, Any]:
    """Accuracy under each rule of combination, from the members' rewards; nothing for a single model."""
    ensemble = scorer.model.ensemble
    if ensemble is None:
        return {}
    accuracies = {}
    for rule in RULES:
        changed = replace(ensemble.rule, combination=rule, variance_weight=0.5)
        standard = np.array([score.members for row in scores for score in row])
        raw = standard * np.array(changed.sds) + np.array(changed.means)
        rewards = iter(combine(changed, raw)[0].tolist())
        again = [[replace(score, reward=next(rewards)) for score in row] for row in scores]
        decided = [row for row in score_rows(groups, again) if row.chosen is not None]
        credits = st.credit([row.difference for row in decided])
        accuracies[rule] = st.accuracy(credits, [row.cluster_id for row in decided])
    return accuracies


def most_disputed(rows: Sequence[Row]) -> float:
    """Accuracy of the tenth of the comparisons about which the members are furthest apart."""
    decided = sorted((row for row in rows if row.chosen is not None), key=lambda row: row.spread_difference or 0.0)
    worst = decided[-max(1, len(decided) // 10) :]
    return float(st.credit([row.difference for row in worst]).mean())


def margins(rows: Sequence[Row]) -> dict[str, float]:
    """The area of errors against the distance of the two rewards, which any model has."""
    decided = [row for row in rows if row.chosen is not None]
    differences = [row.difference for row in decided]
    return _area("margin", -np.abs(differences), st.credit(differences), [row.cluster_id for row in decided])


def far_from_gold(groups: Sequence[Group], scores: list[list[RawScore]]) -> dict[str, float]:
    """The area of the texts whose rewards are furthest off the known one, against their spread."""
    rewards: list[float] = []
    known: list[float] = []
    spreads: list[float] = []
    clusters: list[str] = []
    for group, row in zip(groups, scores, strict=True):
        # What a prompt adds to all of its completions is nobody's choice.
        values = np.array([gold(group.prompt, completion.text) for completion in group.completions])
        given = np.array([score.reward for score in row])
        known.extend(values - values.mean())
        rewards.extend(given - given.mean())
        spreads.extend(spread_of(score.members) or 0.0 for score in row)
        clusters.extend([group.cluster_id] * len(row))
    off = np.abs(np.array(rewards) - np.polyval(np.polyfit(known, rewards, 1), known))
    return _area("gold", np.array(spreads), off <= np.quantile(off, 0.75), clusters)


def _area(name: str, values: Floats, right: ArrayLike, clusters: Sequence[str]) -> dict[str, float]:
    area = st.error_area(values, right, clusters, 0.95, 2_000, SEED)
    assert area is not None
    return {f"{name}_area": area.area, f"{name}_area_low": area.interval.low, f"{name}_area_high": area.interval.high}


def assess(scorer: Scorer, groups: Sequence[Group], baselines: dict[str, Any]) -> dict[str, Any]:
    """Everything about the scores."""
    scores = scorer.raw([as_item(group) for group in groups])
    rows = score_rows(groups, scores)
    calibration = scorer.card.calibration
    measured = measure(rows, baselines, calibration.map, calibration.map_error)
    names = ("accuracy", "accuracy_low", "accuracy_high", "calibration_error", "calibration_error_null", "log_loss")
    spread = measured.get("spread")
    if spread is not None:
        spread = {**spread, **far_from_gold(groups, scores)}
    return {
        **{name: measured[name] for name in names},
        "temperature": calibration.temperature,
        "spread": spread,
        "margins": margins(rows),
        "accuracy_of_the_most_disputed_tenth": None if spread is None else most_disputed(rows),
        "rules": by_rule(scorer, groups, scores),
        "pairs": measured["pairs"],
        "clusters": measured["clusters"],
    }


def throughput(scorers: dict[str, Scorer], groups: Sequence[Group]) -> dict[str, float]:
    """Texts scored a second, beside the single model: the median over rounds in which each had its turn."""
    items = [as_item(group) for group in groups]
    texts = sum(len(completions) for _, completions in items)
    rates: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(ROUNDS):
        for name, scorer in scorers.items():
            began = time.process_time()
            scorer.raw(items)
            rates[name].append(texts / (time.process_time() - began))
    return {
        name: statistics.median(rate / base for rate, base in zip(values, rates["single"], strict=True))
        for name, values in rates.items()
    }


def draw(rows: dict[str, Any], path: Path) -> None:
    """Accuracy, and the areas of errors against spread and against the distance of the rewards, as SVG."""
    matplotlib.rcParams["svg.hashsalt"] = "touchstone"
    figure = Figure(figsize=(10, 3.6), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(rows)
    for place, name in enumerate(names):
        row = rows[name]
        left.plot([row["accuracy_low"], row["accuracy_high"]], [place] * 2, color=BLUE, linewidth=3, alpha=0.45)
        left.plot([row["accuracy"]], [place], "o", color=BLUE, markersize=8)
        left.annotate(f"{row['accuracy']:.3f}", (row["accuracy"], place), xytext=(0, 8), textcoords="offset points",
                      ha="center", color=BLUE)  # fmt: skip
        areas = {**row["margins"], **(row["spread"] or {})}
        series = [("margin", ORANGE, 0.16, "against the distance of the two rewards")]
        if row["spread"]:
            series.append(("error", BLUE, -0.16, "against the spread that is served"))
            series.append(("gold", GREEN, 0.0, "of texts far from gold, against their spread"))
        for kind, colour, offset, label in series:
            bounds = [areas[f"{kind}_area_low"], areas[f"{kind}_area_high"]]
            right.plot(bounds, [place + offset] * 2, color=colour, linewidth=3, alpha=0.45)
            shown = label if place == len(names) - 1 else None
            right.plot([areas[f"{kind}_area"]], [place + offset], "o", color=colour, markersize=7, label=shown)
    left.set_yticks(range(len(names)), [f"{name} (x{rows[name]['train_ratio']:.1f})" for name in names])
    left.set_ylim(len(names) - 0.4, -0.6)
    right.axvline(0.5, color=INK, linewidth=1, linestyle=":")
    left.set_xlabel("accuracy on the holdout; beside the names: training time")
    right.set_xlabel("area under the curve of errors; dotted: says nothing")
    figure.legend(frameon=False, fontsize=9, loc="outside lower right", ncols=len(series))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def table(rows: dict[str, Any]) -> str:
    """One line each."""
    lines = [
        f"{'':<10}{'accuracy':<24}{'calibration':>12}  "
        + "".join(f"{head:<24}" for head in ("errors by spread", "at like distance", "far from gold"))
        + f"{'by distance':>12}{'worst':>8}{'uncert.':>9}{'train s':>9}{'texts/s':>9}{'MB':>7}"
    ]
    for name, row in rows.items():
        spread, rules = row["spread"], row["rules"]
        cells = (
            f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f} to {row['accuracy_high']:.3f})",
            *(_shown(spread, kind) for kind in ("error", "like", "gold")),
        )
        margin = row["margins"]["margin_area"]
        worst, uncertainty = (f"{rules[rule]:.3f}" if rules else "-" for rule in ("worst", "uncertainty"))
        lines.append(
            f"{name:<10}{cells[0]:<24}{row['calibration_error']:>12.3f}  {cells[1]:<24}{cells[2]:<24}{cells[3]:<24}"
            f"{margin:>12.3f}{worst:>8}{uncertainty:>9}{row['train_seconds']:>9.0f}{row['throughput_ratio']:>9.2f}{row['megabytes']:>7.1f}"
        )
    return "\n".join(lines)


def _shown(areas: dict[str, float] | None, kind: str) -> str:
    """An area with its interval."""
    if areas is None:
        return "-"
    return f"{areas[f'{kind}_area']:.3f} ({areas[f'{kind}_area_low']:.3f} to {areas[f'{kind}_area_high']:.3f})"


def main() -> None:
    """Train, seal, score, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ensembles", description=str(__doc__).splitlines()[0])
    parser.add_argument("--groups", type=int, default=6_000)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny models and sets: whether it runs, and no figures")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    world = [f"data.groups={arguments.groups}", *(QUICK if arguments.quick else ())]
    scorers: dict[str, Scorer] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="touchstone-ensembles-") as folder:
        build = Path(folder)
        lay(configure(world), build)
        training, holdout, calibration = (
            read_parquet(build / "splits" / f"{name}.parquet") for name in ("train", "holdout", "calibration")
        )
        for kind, overrides in KINDS.items():
            began = time.process_time()
            train(configure(world, *overrides, f"ensemble.members={arguments.members}"), build)
            seconds[kind] = time.process_time() - began
            print(f"{kind}: trained in {seconds[kind]:.0f} s", flush=True)
            if kind == "seeds":  # whose first member is the single model, to the byte
                seconds["single"] = seconds[kind] / arguments.members
                scorers["single"] = seal_into(build / "model" / "members" / "0", build, build / "artifact-single")
            scorers[kind] = seal_into(build / "model", build, build / f"artifact-{kind}")
        baselines = baseline_differences(holdout, training, calibration)
        ratios = throughput(scorers, holdout[:TIMED_TEXTS])
        rows: dict[str, Any] = {}
        for name in ("single", "heads", "adapters", "seeds"):
            files = [path for path in (build / f"artifact-{name}").rglob("*") if path.is_file()]
            rows[name] = {
                **assess(scorers[name], holdout, baselines),
                "train_seconds": seconds[name],
                "train_ratio": seconds[name] / seconds["single"],
                "throughput_ratio": ratios[name],
                "megabytes": sum(path.stat().st_size for path in files) / 2**20,
            }
        labelled = score_rows(holdout, [[RawScore(0.0, False, 1)] * len(group.completions) for group in holdout])
        decided = np.array([row.chosen is not None for row in labelled])
        clusters = np.array([row.cluster_id for row in labelled])[decided]
        bounds = {name: st.accuracy(st.credit(values[decided]), clusters) for name, values in baselines.items()}
    record = {
        "models": rows,
        "baselines": bounds,
        "groups": arguments.groups,
        "members": arguments.members,
        "training_groups": len(training),
        "hardware": hardware(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "ensembles.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    draw(rows, arguments.out / "ensembles.svg")
    print(table(rows))
    spread = rows["seeds"]["spread"]
    print(
        f"RESULT single={rows['single']['accuracy']:.4f} seeds={rows['seeds']['accuracy']:.4f} "
        + " ".join(
            f"{kind}_area={spread[f'{kind}_area']:.4f} {kind}_low={spread[f'{kind}_area_low']:.4f}"
            for kind in ("error", "like", "gold")
        )
    )


if __name__ == "__main__":
    main()
