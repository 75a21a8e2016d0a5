"""What each remedy for length bias gives and costs, on UKPConvArg1, PandaLM and hh-rlhf: the table of docs/length.md.

    python -m benchmarks.length --data ../shared/data                    # some 12 minutes on two cores
    python -m benchmarks.length --data ../shared/data --sets pandalm

Each set is cut into three folds of whole clusters (topics, prompts). In each, a quarter of the clusters outside it
calibrates, and the model from scratch is warmed up and trained on the rest three times: as it is, with balanced
weights, with a head for length. All are sealed by the stage of the product, the first one twice: as it is, and with
its slope in length subtracted. What is compared are the sealed scores of held-out clusters, centred, so that folds can
be read together. Recipes were fixed before the first fold was run; nothing was tuned to a remedy.

Beside accuracy: that of comparisons which the shorter text wins, Spearman's correlation of reward and length inside
prompts (the gate's own measure), and how often an empty answer beats the preferred one. Intervals are 95% and resample
clusters. Writes results/length.json and length.svg.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np

from benchmarks.machine import hardware

matplotlib.use("Agg")
from matplotlib import pyplot

from touchstone import statistics as st
from touchstone.data.importing import import_source
from touchstone.data.validation.run import validate
from touchstone.groups import Group, judged_pairs, read_parquet, write_parquet
from touchstone.model.base import build_base
from touchstone.model.scores import as_item
from touchstone.model.scoring import Scorer
from touchstone.model.sealing import seal
from touchstone.runtime.files import digest_text
from touchstone.settings import Settings, compose
from touchstone.training.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FOLDS = 3
CALIBRATION_SHARE = 4
"""Every fourth cluster outside a fold calibrates."""
TOKENS = 256
WARM_UP = 100
SETS = {
    "ukpconvarg1": ("train.comparisons_per_step=128", "train.epochs=2"),
    "pandalm": ("train.comparisons_per_step=16", "train.epochs=2"),
    "hh_rlhf": ("train.comparisons_per_step=16", "train.epochs=2"),
}
LEARNING_RATE = 1e-3
TRAINED: dict[str, tuple[str, Literal["keep", "subtract"]]] = {
    "plain": ("keep", "keep"),
    "balanced": ("balance", "keep"),
    "subtracted": ("keep", "subtract"),
    "two heads": ("separate", "keep"),
}
"""By contestant: objective.length and seal.length."""
NAMES = ("longer wins", *TRAINED)
LIBRARIES = ("torch", "transformers", "tokenizers", "trl")
EMPTY = ""


@dataclass(frozen=True)
class Scored:
    """One held-out prompt.

    Attributes:
        cluster: its cluster.
        pairs: (preferred, other) of its decided comparisons.
        tokens: of every completion.
        rewards: by contestant, of every completion, and of an empty one last.
    """

    cluster: str
    pairs: list[tuple[int, int]]
    tokens: list[int]
    rewards: dict[str, list[float]]


def configure(name: str, arguments: argparse.Namespace, length: str = "keep") -> Settings:
    """A set's settings: those of the product, for a small model that is trained on little."""
    folder = arguments.data / name.replace("_", "-")
    return compose(
        [
            *(f"data={name}", f"data.path='{folder}'", "importing.max_quarantine_share=1"),
            *("validation.max_quarantine_share=1", "validation.max_contradiction_share=1"),
            *(f"model.max_tokens={TOKENS}", f"model.warmup_steps={WARM_UP}", f"train.learning_rate={LEARNING_RATE}"),
            *(*SETS[name], "train.checkpoint_steps=0", f"train.threads={arguments.threads}"),
            f"objective.length={length}",
        ],
        ROOT / "configs",
    )


def usable(settings: Settings, folder: Path) -> list[Group]:
    """A set's groups as a run would use them: imported, validated, at least one comparison with a winner."""
    import_source(settings, ROOT, folder / "data")
    validate(folder / "data" / "groups.jsonl", folder / "groups.parquet", settings.validation)
    groups = read_parquet(folder / "groups.parquet")
    return [group for group in groups if any(pair.chosen is not None for pair in judged_pairs(group))]


def folds(groups: Sequence[Group], limit: int | None = None) -> list[tuple[list[Group], list[Group], list[Group]]]:
    """(training, calibration, held out) of every fold, in an order of clusters that nobody chose: their digests'."""
    clusters = sorted({group.cluster_id for group in groups}, key=digest_text)[:limit]
    parts = []
    for number in range(FOLDS):
        held_out = set(clusters[number::FOLDS])
        rest = [cluster for cluster in clusters if cluster not in held_out]
        calibrating = set(rest[::CALIBRATION_SHARE])
        parts.append(
            (
                [group for group in groups if group.cluster_id in set(rest) - calibrating],
                [group for group in groups if group.cluster_id in calibrating],
                [group for group in groups if group.cluster_id in held_out],
            )
        )
    return parts


def scored(
    name: str, arguments: argparse.Namespace, parts: tuple[list[Group], list[Group], list[Group]], folder: Path
) -> tuple[list[Scored], dict[str, float]]:
    """Every held-out prompt by every contestant, and the seconds that each training took."""
    training, calibration, held_out = parts
    settings = configure(name, arguments)
    assert settings.model.kind == "scratch"
    write_parquet(folder / "splits" / "train.parquet", training)
    build_base(
        training, settings.model, seed=settings.train.seed, threads=settings.training_threads, folder=folder / "base"
    )
    items = [(prompt, [*texts, EMPTY]) for prompt, texts in map(as_item, held_out)]
    rewards: dict[str, list[list[float]]] = {}
    tokens: list[list[int]] = []
    seconds: dict[str, float] = {}
    for contestant, (trained, sealed) in TRAINED.items():
        if trained not in seconds:
            began = time.monotonic()
            train(configure(name, arguments, trained), folder)
            seconds[trained] = time.monotonic() - began
            (folder / "model").rename(folder / f"model-{trained}")
        artifact = folder / f"artifact-{len(rewards)}"
        seal(
            folder / f"model-{trained}",
            calibration,
            calibration,
            precision="fp32",
            self_test_vectors=8,
            seeds={"train": settings.train.seed},
            folder=artifact,
            length=sealed,
        )
        rows = Scorer.load(artifact).score(items)
        rewards[contestant] = [[score.centered for score in row] for row in rows]
        tokens = [[score.tokens for score in row] for row in rows]
    longer = [[float(len(text)) for text in texts] for _, texts in items]
    by_name = {"longer wins": longer, **rewards}
    prompts = []
    for number, group in enumerate(held_out):
        pairs = [
            (p.chosen, p.rejected) for p in judged_pairs(group) if p.chosen is not None and p.rejected is not None
        ]
        mine = {contestant: values[number] for contestant, values in by_name.items()}
        prompts.append(Scored(group.cluster_id, pairs, tokens[number][:-1], mine))
    return prompts, seconds


def _columns(prompts: Sequence[Scored], name: str) -> tuple[st.Floats, st.Floats, list[str]]:
    """Of every comparison: credit, tokens of the preferred less those of the other, cluster."""
    differences, excess, clusters = [], [], []
    for prompt in prompts:
        rewards = prompt.rewards[name]
        for chosen, rejected in prompt.pairs:
            differences.append(rewards[chosen] - rewards[rejected])
            excess.append(prompt.tokens[chosen] - prompt.tokens[rejected])
            clusters.append(prompt.cluster)
    return st.credit(differences), np.array(excess, dtype=np.float64), clusters


def _accuracy(credits: st.Floats, clusters: Sequence[str]) -> dict[str, Any]:
    interval = st.accuracy_interval(credits, clusters, 0.95, 10_000, 17)
    return {"value": st.accuracy(credits, clusters), "interval": list(interval), "pairs": len(credits)}


def summary(prompts: Sequence[Scored], name: str) -> dict[str, Any]:
    """What a contestant reached."""
    credits, excess, clusters = _columns(prompts, name)
    names = np.array(clusters)
    shorter = excess < 0
    # Inside prompts, over all completions.
    rewards = [value for prompt in prompts for value in prompt.rewards[name][:-1]]
    tokens = [value for prompt in prompts for value in prompt.tokens]
    places = [str(number) for number, prompt in enumerate(prompts) for _ in prompt.tokens]
    owners = [prompt.cluster for prompt in prompts for _ in prompt.tokens]
    rho = st.within_correlation(rewards, tokens, places)
    error = st.within_correlation_error(rewards, tokens, places, owners)
    assert rho is not None
    assert error is not None
    # Each preferred text beside an empty answer to its prompt.
    empty = st.credit(
        [prompt.rewards[name][-1] - prompt.rewards[name][chosen] for prompt in prompts for chosen, _ in prompt.pairs]
    )
    baseline, _, _ = _columns(prompts, "plain")
    means = st.cluster_means(credits - baseline, clusters)
    cost = st.t_mean_interval(means, 0.95)
    return {
        "accuracy": _accuracy(credits, clusters),
        "shorter_wins": _accuracy(credits[shorter], names[shorter].tolist()),
        "correlation": {"value": rho, "interval": [max(-1.0, rho - 1.96 * error), min(1.0, rho + 1.96 * error)]},
        "empty_beats_preferred": st.accuracy(empty, clusters),
        "against_plain": {
            "value": float(means.mean()),
            "interval": [cost.low, cost.high] if cost and np.ptp(means) else [0.0, 0.0],
        },
    }


def draw(record: dict[str, Any], path: Path) -> None:
    """Accuracy of all comparisons against that of those which the shorter text wins, set by set; as SVG."""
    matplotlib.rcParams["svg.hashsalt"] = "touchstone"
    figure, panels = pyplot.subplots(1, len(record["sets"]), figsize=(11, 3.8), layout="constrained", squeeze=False)
    colours = dict(zip(NAMES, ("#7f8c9b", "#222222", "#b8860b", "#2a6f97", "#8a4f7d"), strict=True))
    for axes, (name, found) in zip(panels[0], record["sets"].items(), strict=True):
        for contestant, values in found["contestants"].items():
            x, y = values["correlation"], values["shorter_wins"]
            axes.plot(x["interval"], [y["value"]] * 2, color=colours[contestant], alpha=0.4, linewidth=2)
            axes.plot([x["value"]] * 2, y["interval"], color=colours[contestant], alpha=0.4, linewidth=2)
            label = f"{contestant}: {values['accuracy']['value']:.3f}"
            axes.plot([x["value"]], [y["value"]], "o", color=colours[contestant], markersize=8, label=label)
        axes.set_title(f"{name}, {found['pairs']:,} comparisons", fontsize=10)
        axes.set_xlabel("rank correlation of reward and length", fontsize=9)
        axes.legend(frameon=False, fontsize=8, title="accuracy of all", title_fontsize=8, loc="upper right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(-0.02, 1.02)
    panels[0][0].set_ylabel("accuracy where the shorter wins", fontsize=9)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def table(record: dict[str, Any]) -> str:
    """The table of docs/length.md, in Markdown."""

    def cell(value: dict[str, Any], signed: str = "") -> str:
        low, high = value["interval"]
        return f"{value['value']:{signed}.3f} ({low:{signed}.3f} to {high:{signed}.3f})"

    lines = [
        "| set | model | accuracy | where the shorter wins | rank correlation with length | against plain | "
        "empty beats preferred |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in record["sets"].items():
        for contestant, values in found["contestants"].items():
            against = "" if contestant == "plain" else cell(values["against_plain"], "+")
            cells = (cell(values["accuracy"]), cell(values["shorter_wins"]), cell(values["correlation"], "+"), against)
            lines.append(f"| {name} | {contestant} | {' | '.join(cells)} | {values['empty_beats_preferred']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the sets and write what they gave."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.length", description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--limit", type=int, help="use so many clusters of each set: a quick look")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    settings = configure(arguments.sets[0], arguments)
    record: dict[str, Any] = {
        "sets": {},
        "model": settings.model.model_dump(mode="json"),
        "objective": settings.objective.model_dump(mode="json"),
        "hardware": hardware(),
        "threads": arguments.threads,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for name in arguments.sets:
        prompts: list[Scored] = []
        seconds: list[dict[str, float]] = []
        with tempfile.TemporaryDirectory(prefix="touchstone-length-") as place:
            groups = usable(configure(name, arguments), Path(place) / "set")
            for number, parts in enumerate(folds(groups, arguments.limit)):
                found, spent = scored(name, arguments, parts, Path(place) / f"fold-{number}")
                prompts += found
                seconds.append(spent)
        record["sets"][name] = {
            "contestants": {contestant: summary(prompts, contestant) for contestant in NAMES},
            "clusters": len({prompt.cluster for prompt in prompts}),
            "prompts": len(prompts),
            "pairs": sum(len(prompt.pairs) for prompt in prompts),
            "train_seconds": {key: sum(fold[key] for fold in seconds) for key in seconds[0]},
            "train": configure(name, arguments).train.model_dump(mode="json"),
        }
        reached = record["sets"][name]["contestants"]
        shares = ", ".join(f"{contestant} {reached[contestant]['accuracy']['value']:.3f}" for contestant in NAMES)
        print(f"{name}: {shares}", flush=True)
        # Written set by set: a run that is stopped leaves what it had.
        record["minutes"] = (time.monotonic() - began) / 60
        (arguments.out / "length.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        draw(record, arguments.out / "length.svg")
    print(table(record))
    worst = {
        contestant: max(
            abs(found["contestants"][contestant]["correlation"]["value"]) for found in record["sets"].values()
        )
        for contestant in TRAINED
    }
    print("RESULT " + " ".join(f"{name.replace(' ', '_')}={value:.3f}" for name, value in worst.items()))


if __name__ == "__main__":
    main()
