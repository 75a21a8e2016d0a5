"""How far can a small reward model be optimised before gold falls, and what moves that point?

    python -m benchmarks.overoptimisation                      # fifteen seeds, some 40 minutes of one core
    python -m benchmarks.overoptimisation --seeds 1 --bases 2 --prompts 60 --samples 256 --sizes 250 1000

The sandbox knows its gold reward of any text. Proxies are heads on one frozen base, fitted to 250 to 8,000 of the
sandbox's comparisons, each seed to comparisons of a world of its own. A wandering policy writes many completions to
prompts that nobody trains on; the best of n by a proxy is measured in gold for n up to 256, by the unbiased estimator
from all samples, and fitted with Gao et al.'s R(d) = d (alpha - beta d), d = sqrt(KL). Then, at one size:

ensemble   five members on bases of their own, warmed up from five seeds and fitted to the same comparisons: the mean,
           the worst case (least of the members) and the uncertainty-weighted (mean less the variance) reward, beside
           what its members reach one by one (Coste et al. 2310.02743; that members who share a base share its blind
           spots: Eisenstein et al. 2312.09244).
heads      the cheap kind: five heads on one base, each fitted to a resample, beside the single proxy.
refresh    the single proxy's own best completions on other prompts, beside random ones; pairs chosen by the ensemble's
           doubts are judged by the sandbox's annotators and added. Beside it, as many further comparisons of the old
           kind: what the same number of labels gives off policy.

Peaks are compared in d, seed by seed, each the top of the parabola through the largest of a curve's points and its
neighbours; a peak beyond the best of 256 counts as there, so shifts are read too small.
Writes results/overoptimisation.json and .svg. Never evidence about real people.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.machine import hardware
from touchstone import statistics as st
from touchstone.data.sources import sandbox, sandbox_policies
from touchstone.data.sources.sandbox_gold import gold
from touchstone.evaluation.best_of_n import best_of_n, distance
from touchstone.evaluation.labelling import choose_pairs, shortlist
from touchstone.evaluation.optimisation import Fit, fit
from touchstone.groups import Completion, Group, make_group
from touchstone.model.base import build_base
from touchstone.model.layout import lay_out, plan_batches, read_hidden, shares_prompt
from touchstone.model.network import RewardModel, head_of, load_base
from touchstone.model.processor import prepare
from touchstone.model.scores import Item
from touchstone.model.templating import encode_many
from touchstone.pages.figures import BLUE, GREEN, GREY, INK, ORANGE
from touchstone.runtime.progress import progress
from touchstone.settings import Settings, compose
from touchstone.settings.data import SandboxData
from touchstone.statistics import Floats
from touchstone.training.head_only import train_head

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SEED = 17
SIZES = (250, 500, 1000, 2000, 4000, 8000)
"""Comparisons that a proxy learns from."""
GRID = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256)
"""The n's of every curve, in steps of about sqrt(2)."""
CHANCE = sandbox_policies.WANDERING
"""Of each further excess of the policy."""
MEMBERS = 5
MIDDLE = 1000
"""Comparisons of the proxies that ensembles and refreshes are compared with."""
REFRESHED = 500
"""Comparisons that a refresh adds."""
RULES = ("mean", "worst", "uncertainty")
VARIANTS = ("single", *(f"heads_{rule}" for rule in RULES), "alone", *RULES, "more", "refresh")
"""`alone`: the ensemble's members one by one, their curves averaged."""
LIBRARIES = ("torch", "transformers", "numpy", "scipy")
FEATURES_AT_ONCE = 16
"""Prompts whose completions are embedded in one go."""


@dataclass(frozen=True)
class World:
    """Prompts, a policy's completions, their gold, and the base's embeddings of them, (prompts, samples, ...)."""

    groups: list[Group]
    gold: Floats
    embeddings: Tensor

    def rewards(self, head: Tensor) -> Floats:
        """A proxy's rewards, (prompts, samples)."""
        return np.asarray((self.embeddings @ head).numpy(), dtype=np.float64)


def make_world(model: RewardModel, data: SandboxData, first: int, prompts: int, samples: int) -> World:
    """Samples of the wandering policy on prompts of the world from number `first` on."""
    generator = Random(f"{SEED}:{first}:samples")
    groups = []
    for index in range(first, first + prompts):
        task = sandbox.make(data, index)
        texts = [sandbox_policies.wander(generator, task.prompt, CHANCE) for _ in range(samples)]
        values = [gold(task.prompt, text) for text in texts]
        completions = [
            Completion(text, "wandering", ratings={"gold": value}) for text, value in zip(texts, values, strict=True)
        ]
        groups.append(
            make_group(prompt=task.prompt, completions=completions, comparisons=(), source="samples", axis=task.axis)
        )
    values = np.array([[completion.ratings["gold"] for completion in group.completions] for group in groups])
    return World(groups, values, embed_all(model, groups))


def embed_all(model: RewardModel, groups: Sequence[Group]) -> Tensor:
    """The base's embeddings of all completions, (groups, completions, hidden)."""
    starts = range(0, len(groups), FEATURES_AT_ONCE)
    parts = [
        embed(model, [(g.prompt, [c.text for c in g.completions]) for g in groups[start : start + FEATURES_AT_ONCE]])
        for start in progress(starts, "embed samples", len(starts))
    ]
    return torch.cat(parts)


def embed(model: RewardModel, items: Sequence[Item]) -> Tensor:
    """Last hidden states that the head reads, (items, completions, hidden); every item has as many completions."""
    encoded = encode_many(model.tokenizer, model.rule, items)
    shared = shares_prompt(model)
    hidden: dict[tuple[int, int], Tensor] = {}
    with torch.inference_mode():
        for rows in plan_batches(encoded, 4096, shared=shared):
            batch = lay_out(encoded, rows, shared=shared)
            hidden.update(zip(batch.owners, read_hidden(model.network, batch, "fp32").float(), strict=True))
    return torch.stack(
        [torch.stack([hidden[item, k] for k in range(len(group.truncated))]) for item, group in enumerate(encoded)]
    )


def train_proxy(model: RewardModel, groups: Sequence[Group], settings: Settings) -> Tensor:
    """A head fitted to the groups' comparisons, (hidden,)."""
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    train_head(model, groups, encode_many(model.tokenizer, model.rule, items), settings)
    return head_of(model.network).weight[0].detach().clone()


def with_comparisons(groups: Sequence[Group], count: int) -> list[Group]:
    """The first groups that hold so many comparisons together."""
    chosen, held = [], 0
    for group in groups:
        if held >= count:
            break
        chosen.append(group)
        held += len(group.comparisons)
    return chosen


def resampled(groups: Sequence[Group], generator: Random) -> list[Group]:
    """As many groups, drawn with replacement."""
    return [groups[int(generator.random() * len(groups))] for _ in groups]


def combined(rewards: Sequence[Floats]) -> dict[str, Floats]:
    """The rewards of an ensemble by each rule, from those of its members, each in its own standard deviations."""
    scores = np.stack(rewards)
    scores = (scores - scores.mean(axis=(1, 2), keepdims=True)) / scores.std(axis=(1, 2), keepdims=True)
    mean = scores.mean(axis=0)
    return {"mean": mean, "worst": scores.min(axis=0), "uncertainty": mean - scores.var(axis=0)}


def curves(rewards: Floats, world: World, grid: Sequence[int]) -> tuple[Floats, Floats]:
    """Gains of proxy and gold over one sample in standard deviations of single samples, (prompts, sizes)."""
    by_proxy, by_gold = (best_of_n(rewards, values, grid) for values in (rewards, world.gold))
    return (by_proxy - by_proxy[:, :1]) / rewards.std(), (by_gold - by_gold[:, :1]) / world.gold.std()


def refresh_groups(
    heads: Sequence[Tensor], policy: Tensor, world: World, data: SandboxData, count: int, seed: int
) -> list[Group]:
    """Comparisons on policy: of a prompt's best four completions by the proxy and four others, where members doubt."""
    generator = Random(f"{SEED}:{seed}:refresh")
    # The policy is the best of many by the one proxy; what is doubtful, its members say.
    rewards = world.rewards(policy)
    few, _ = shortlist(world.groups, rewards[:, None], seed=seed)
    places = [_places(short, whole) for short, whole in zip(few, world.groups, strict=True)]
    scores = [
        np.stack([(world.embeddings[row, columns] @ head).numpy() for head in heads])
        for row, columns in enumerate(places)
    ]
    candidates = few
    chosen = choose_pairs(candidates, scores, count, seed=seed)
    return [
        sandbox_policies.annotate(
            group.prompt, [completion.text for completion in group.completions], pairs, data, generator, policy="best"
        )
        for group, pairs in zip(candidates, chosen, strict=True)
        if pairs
    ]


def _places(short: Group, whole: Group) -> list[int]:
    """Where a shortlist's completions stand among all of a prompt."""
    first: dict[str, int] = {}
    for place, completion in enumerate(whole.completions):
        first.setdefault(completion.text, place)
    return [first[completion.text] for completion in short.completions]


def peak(mean_gold: Floats, grid: Sequence[int]) -> float:
    """The d at which a measured curve is largest: of the parabola through its largest point and the two beside it."""
    steps, top = [distance(n) for n in grid], int(np.argmax(mean_gold))
    if not 0 < top < len(grid) - 1:
        return steps[top]
    three = slice(top - 1, top + 2)
    square, slope, _ = np.polyfit(steps[three], mean_gold[three], 2)
    return float(-slope / (2 * square))


def shift_of(peaks: dict[str, list[float]], variant: str, beside: str) -> dict[str, Any]:
    """By how much a variant's peaks lie beyond another's, paired over seeds, with its 95% interval."""
    differences = np.array(peaks[variant]) - np.array(peaks[beside])
    interval = st.t_mean_interval(differences, 0.95)
    return {
        "shift": float(differences.mean()),
        "interval": None if interval is None else list(interval),
        "seeds": differences.tolist(),
    }


def fitted_row(fitted: Fit, measured: float) -> dict[str, Any]:
    """A fit for the result."""
    ends = [value if np.isfinite(value) else None for value in (fitted.peak, *fitted.peak_interval)]
    error = abs(fitted.peak - measured) / measured if np.isfinite(fitted.peak) and measured else None
    return {
        "alpha": fitted.alpha,
        "beta": fitted.beta,
        "fitted_peak": ends[0],
        "fitted_peak_interval": ends[1:],
        "measured_peak": measured,
        "peak_error": error,
    }


def draw(record: dict[str, Any], path: Path) -> None:
    """Two panels: proxies by their number of comparisons, and what moves the peak."""
    figure = Figure(figsize=(11, 4.6), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    steps = [distance(n) for n in record["grid"]]
    fine = np.linspace(0, steps[-1], 80)
    shades = np.linspace(0.25, 1.0, len(record["sizes"]))
    for shade, (size, row) in zip(shades, record["sizes"].items(), strict=True):
        left.plot(steps, row["proxy"], color=ORANGE, alpha=shade, linewidth=1.2, linestyle="--")
        left.plot(steps, row["gold"], "o", color=BLUE, alpha=shade, markersize=3.5, label=f"{int(size):,} comparisons")
        left.plot(fine, fine * (row["alpha"] - row["beta"] * fine), color=BLUE, alpha=shade, linewidth=1.2)
    left.set_title("Proxy (dashed) and gold of the best of n", loc="left", fontsize=12, fontweight="bold", color=INK)
    left.legend(frameon=False, fontsize=9, title="gold, with its fit; proxies of")
    series = {
        "single": (INK, f"one proxy, {record['middle']:,} comparisons"),
        "heads_worst": (GREY, "five heads on its base, worst case"),
        "alone": ("#56B4E9", "five bases, one by one"),
        "worst": (GREEN, "five bases, worst case"),
        "uncertainty": (BLUE, "five bases, mean less variance"),
        "more": ("#CC79A7", f"one proxy, {record['refreshed']:,} more of the old kind"),
        "refresh": (ORANGE, f"one proxy, {record['refreshed']:,} more on policy"),
    }
    for variant, (colour, words) in series.items():
        row = record["variants"][variant]
        low, high = np.array(row["gold_interval"]).T
        right.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        right.plot(steps, row["gold"], "o-", color=colour, markersize=3, linewidth=1.4, label=words)
    right.set_title("What moves the peak of gold", loc="left", fontsize=12, fontweight="bold", color=INK)
    right.legend(frameon=False, fontsize=9)
    for axis in (left, right):
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        shown = [n for n in record["grid"] if n & (n - 1) == 0 and n != 2]
        axis.set_xticks([distance(n) for n in shown], [str(n) for n in shown])
        axis.set_xlabel("best of n, by sqrt(KL)")
        axis.set_ylabel("gain over one sample (standard deviations)")
        axis.tick_params(colors=INK)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(path.with_suffix(".png"), format="png", dpi=110)


def main() -> None:
    """Fit, score, and write what was found."""
    first = str(__doc__).splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overoptimisation", description=first)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--bases", type=int, default=MEMBERS, help="of the ensemble, one each for its members")
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--samples", type=int, default=1024, help="of each prompt; four times the largest n")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--base-groups", type=int, default=6000, help="that the base's language is learnt from")
    parser.add_argument("--keep", type=Path, help="keep the bases here, or take them from here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    began = time.monotonic()
    settings = compose(["train=head_only"], ROOT / "configs")
    data = settings.data
    assert isinstance(data, SandboxData)
    grid = [n for n in GRID if 4 * n <= arguments.samples]
    prepare(settings.training_threads)
    with tempfile.TemporaryDirectory(prefix="touchstone-overoptimisation-") as folder:
        texts = [sandbox.make(data, index) for index in range(arguments.base_groups)]
        models = []
        for number in range(arguments.bases):
            base = (arguments.keep or Path(folder)) / f"base-{number}"
            if not base.exists():
                build_base(texts, settings.model, seed=SEED + number, threads=settings.training_threads, folder=base)  # type: ignore[arg-type]
            models.append(load_base(base, max_tokens=settings.model.max_tokens, seed=SEED, keep_head=True))
            models[-1].network.train(False)
            print(f"base {number} after {time.monotonic() - began:.0f} s", flush=True)
    model = models[0]

    # The prompts lie behind all that a default sandbox holds: nothing is trained on them.
    world = make_world(model, data, 50_000, arguments.prompts, arguments.samples)
    worlds = [world, *(replace(world, embeddings=embed_all(other, world.groups)) for other in models[1:])]
    elsewhere = make_world(model, data, 60_000, 2 * REFRESHED, 32)
    print(
        f"samples after {time.monotonic() - began:.0f} s; gold {world.gold.mean():+.2f}, sd {world.gold.std():.2f}",
        flush=True,
    )

    golds: dict[int, list[Floats]] = {size: [] for size in arguments.sizes}
    proxies: dict[int, list[Floats]] = {size: [] for size in arguments.sizes}
    variants: dict[str, list[Floats]] = {name: [] for name in VARIANTS}
    for seed in range(SEED, SEED + arguments.seeds):
        # A world of its own for each seed: other comparisons of the same kind.
        own = data.model_copy(update={"seed": 1000 + seed})
        most = max(*arguments.sizes, MIDDLE + REFRESHED)
        groups = with_comparisons([sandbox.make(own, index) for index in range(most)], most)
        for size in arguments.sizes:
            head = train_proxy(model, with_comparisons(groups, size), settings)
            proxy_gain, gold_gain = curves(world.rewards(head), world, grid)
            proxies[size].append(proxy_gain)
            golds[size].append(gold_gain)

        # At one size: the ensembles, more labels of the old kind, and as many on policy.
        training = with_comparisons(groups, MIDDLE)
        single = train_proxy(model, training, settings)
        generator = Random(f"{seed}:members")
        heads = [train_proxy(model, resampled(training, generator), settings) for _ in range(MEMBERS)]
        others = [train_proxy(other, training, settings) for other in models[1:]]
        members = [place.rewards(head) for place, head in zip(worlds, [single, *others], strict=True)]
        more = train_proxy(model, with_comparisons(groups, MIDDLE + REFRESHED), settings)
        labelled = refresh_groups(heads, single, elsewhere, own, REFRESHED, seed)
        refreshed = train_proxy(model, [*training, *labelled], settings)
        rewards = {
            "single": members[0],
            **{f"heads_{rule}": values for rule, values in combined([world.rewards(head) for head in heads]).items()},
            **combined(members),
            "more": world.rewards(more),
            "refresh": world.rewards(refreshed),
        }
        for name, values in rewards.items():
            variants[name].append(curves(values, world, grid)[1])
        variants["alone"].append(np.mean([curves(values, world, grid)[1] for values in members], axis=0))
        peaks = {name: peak(rows[-1].mean(axis=0), grid) for name, rows in variants.items()}
        labels = sum(len(group.comparisons) for group in labelled)
        print(
            f"seed {seed}: {labels} labels on policy; peaks at d = "
            + ", ".join(f"{name} {value:.2f}" for name, value in peaks.items())
            + f"; {time.monotonic() - began:.0f} s",
            flush=True,
        )

    record = summarise(golds, proxies, variants, grid)
    record |= {
        "prompts": arguments.prompts,
        "samples": arguments.samples,
        "seconds": time.monotonic() - began,
        "hardware": hardware(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "overoptimisation.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    draw(record, arguments.out / "overoptimisation.svg")
    print(table(record))
    print(
        f"RESULT peak_error={record['peak_error']:.3f} ensemble_shift={record['ensemble_shift']['shift']:.3f} "
        f"refresh_shift={record['refresh_shift']['shift']:.3f} seeds={arguments.seeds}"
    )


def summarise(
    golds: dict[int, list[Floats]],
    proxies: dict[int, list[Floats]],
    variants: dict[str, list[Floats]],
    grid: list[int],
) -> dict[str, Any]:
    """What the curves say: fits and peaks by size, and the shifts."""
    steps = np.array([distance(n) for n in grid])
    sizes = {}
    for size, rows in golds.items():
        mean = np.mean(rows, axis=(0, 1))
        fitted = fit(steps, np.stack(rows), "best_of_n")
        sizes[size] = {
            "gold": mean.tolist(),
            "proxy": np.mean(proxies[size], axis=(0, 1)).tolist(),
            **fitted_row(fitted, peak(mean, grid)),
        }
    # A curve without a peak of its own inside has none to be found.
    inside = [row["peak_error"] for row in sizes.values() if row["peak_error"] is not None and _inside(row, grid)]
    by_variant = {}
    for name, rows in variants.items():
        means = np.stack(rows).mean(axis=0)
        bounds = [st.bootstrap_mean_interval(column, 0.95, 2000, SEED) or (0.0, 0.0) for column in means.T]
        by_variant[name] = {
            "gold": means.mean(axis=0).tolist(),
            "gold_interval": [list(pair) for pair in bounds],
            **fitted_row(fit(steps, np.stack(rows), "best_of_n"), peak(means.mean(axis=0), grid)),
            "measured_peaks": [peak(row.mean(axis=0), grid) for row in rows],
        }
    peaks = {name: row["measured_peaks"] for name, row in by_variant.items()}
    return {
        "grid": grid,
        "sizes": sizes,
        "variants": by_variant,
        "middle": MIDDLE,
        "refreshed": REFRESHED,
        "peak_error": float(np.mean(inside)) if inside else float("nan"),
        "peak_errors": inside,
        "ensemble_shift": shift_of(peaks, "worst", "alone"),
        "uncertainty_shift": shift_of(peaks, "uncertainty", "alone"),
        "mean_shift": shift_of(peaks, "mean", "alone"),
        "heads_shift": shift_of(peaks, "heads_worst", "single"),
        "refresh_shift": shift_of(peaks, "refresh", "more"),
        "refresh_shift_to_single": shift_of(peaks, "refresh", "single"),
    }


def _inside(row: dict[str, Any], grid: list[int]) -> bool:
    """Whether a measured curve turns within what was measured, and not at its first step."""
    return bool(distance(grid[0]) < row["measured_peak"] < distance(grid[-1]))


def table(record: dict[str, Any]) -> str:
    """The peaks for people."""
    heads = ("measured peak", "fitted", "95% bounds", "gold there", "at the last n")
    lines = [f"{'comparisons':<32}" + "".join(f"{head:>15}" for head in heads)]
    rows = {f"{int(size):,}": row for size, row in record["sizes"].items()} | record["variants"]
    for name, row in rows.items():
        low, high = (np.inf if bound is None else bound for bound in row["fitted_peak_interval"])
        fitted = np.inf if row["fitted_peak"] is None else row["fitted_peak"]
        bounds = f"{low:.2f} to {high:.2f}"
        cells = (f"{row['measured_peak']:.2f}", f"{fitted:.2f}", bounds, f"{max(row['gold']):+.3f}")
        lines.append(f"{name:<32}" + "".join(f"{cell:>15}" for cell in (*cells, f"{row['gold'][-1]:+.3f}")))
    for name in (name for name in record if "_shift" in name):
        shift = record[name]
        bounds = "" if shift["interval"] is None else " ({:+.2f} to {:+.2f})".format(*shift["interval"])
        lines.append(f"{name:<32}{shift['shift']:>+15.3f}{bounds}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
