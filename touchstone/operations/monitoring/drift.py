"""Whether a window of served traffic looks like the traffic that the champion was first served: pure functions.

    baseline, window = Traffic.of(first), Traffic.of(later)
    drift(baseline, window, limits(baseline, len(window.scores)), settings.monitor)

One completion of a prompt counts, so that values are independent. How often all rules together go wrong over an
unchanged policy is measured by benchmarks/monitoring.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special, stats

from touchstone.settings.monitor import Monitor
from touchstone.statistics import Floats, holm

State = Literal["ok", "warning", "breached", "not enough data"]

RESAMPLES = 200
LIMIT_QUANTILE = 0.99
SEED = 17
PSI_BINS = 10
PSI_FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that was looked at.

    Attributes:
        value: the number that was compared; None where there was not enough data.
        limit: what it was compared with.
    """

    name: str
    state: State
    value: float | None
    limit: float | None
    what: str


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Served completions, one a prompt; arrays of shape (n,), scores sorted.

    Attributes:
        scores: centred.
        characters: of the completion.
        prompt_characters: of all messages of the prompt.
        truncated: whether the text was over the model's limit.
        repeated: share of the requests whose prompt had been sent before.
    """

    scores: Floats
    characters: Floats
    prompt_characters: Floats
    truncated: float
    repeated: float

    @classmethod
    def of(cls, samples: Sequence[Mapping[str, Any]]) -> Traffic:
        """From lines of an endpoint's store, one of each prompt."""
        first: dict[str, Mapping[str, Any]] = {}
        for sample in samples:
            first.setdefault(_prompt(sample), sample)
        shown = [sample["completions"][0] for sample in first.values() if sample["completions"]]
        lengths = [sum(len(turn["content"]) for turn in sample["prompt"]) for sample in first.values()]
        return cls(
            np.sort(np.array([completion["centered"] for completion in shown], dtype=np.float64)),
            np.sort(np.array([len(completion["text"]) for completion in shown], dtype=np.float64)),
            np.sort(np.array(lengths, dtype=np.float64)),
            float(np.mean([completion["truncated"] for completion in shown])) if shown else 0.0,
            1 - len(first) / len(samples) if samples else 0.0,
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers only, no texts."""
        arrays = {name: getattr(self, name).tolist() for name in ("scores", "characters", "prompt_characters")}
        return {**arrays, "truncated": self.truncated, "repeated": self.repeated}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Traffic:
        """The inverse of `to_json`."""
        arrays = {name: np.array(value[name]) for name in ("scores", "characters", "prompt_characters")}
        return cls(**arrays, truncated=value["truncated"], repeated=value["repeated"])


def _prompt(sample: Mapping[str, Any]) -> str:
    return "\x00".join(f"{turn['role']}\x01{turn['content']}" for turn in sample["prompt"])


def wasserstein(first: Floats, second: Floats) -> float:
    """W1 of two sorted samples: the area between their distribution functions."""
    values = np.concatenate([first, second])
    values.sort(kind="mergesort")
    below = np.searchsorted(first, values[:-1], "right") / len(first)
    below_second = np.searchsorted(second, values[:-1], "right") / len(second)
    return float(np.sum(np.abs(below - below_second) * np.diff(values)))


def kolmogorov_smirnov(first: Floats, second: Floats) -> tuple[float, float]:
    """Distance D of two sorted samples, and its p in the limit."""
    values = np.concatenate([first, second])
    distance = float(
        np.abs(
            np.searchsorted(first, values, "right") / len(first)
            - np.searchsorted(second, values, "right") / len(second)
        ).max()
    )
    effective = len(first) * len(second) / (len(first) + len(second))
    return distance, float(special.kolmogorov(distance * np.sqrt(effective)))


def stability_index(baseline: Floats, window: Floats) -> float:
    """PSI at the baseline's deciles: the number that people know; nothing is decided by it."""
    edges = np.quantile(baseline, np.arange(1, PSI_BINS) / PSI_BINS)
    shares = [
        np.maximum(np.bincount(np.searchsorted(edges, values), minlength=PSI_BINS) / len(values), PSI_FLOOR)
        for values in (baseline, window)
    ]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def warning_limit(baseline: Floats, size: int, least: float) -> float:
    """How far a window of this size lies from the baseline by chance in 1%, in sd of the baseline; `least` at least.

    Both sides are drawn anew: that windows share one baseline is part of the chance.
    """
    generator = np.random.default_rng(SEED)
    spread = float(baseline.std()) or 1.0
    sizes = len(baseline)
    draws = [
        wasserstein(
            np.sort(baseline[generator.integers(sizes, size=sizes)]),
            np.sort(baseline[generator.integers(sizes, size=size)]),
        )
        for _ in range(RESAMPLES)
    ]
    return max(least, float(np.quantile(draws, LIMIT_QUANTILE)) / spread)


def drift(baseline: Traffic | None, window: Traffic, limit: float | None, settings: Monitor) -> tuple[Signal, ...]:
    """Every signal of a window of traffic.

    Args:
        baseline: None where not enough was served yet.
        limit: `warning_limit` for this window.
    """
    names = ("scores", "input length", "completion length", "truncation", "saturation", "repeated prompts")
    count = len(window.scores)
    if baseline is None or limit is None or count < settings.window_samples:
        words = f"{count:,} prompts in the window" if baseline is not None else "no baseline yet"
        return tuple(Signal(name, "not enough data", None, None, words) for name in names)
    lengths = {
        "input length": (baseline.prompt_characters, window.prompt_characters),
        "completion length": (baseline.characters, window.characters),
    }
    beyond = [float(np.mean(np.abs(side.scores) > settings.saturated_beyond)) for side in (baseline, window)]
    shares = {
        "truncation": (baseline.truncated, window.truncated),
        "saturation": (beyond[0], beyond[1]),
        "repeated prompts": (baseline.repeated, window.repeated),
    }
    return (
        _scores(baseline.scores, window.scores, limit, settings),
        *_lengths(lengths, settings),
        *(_share(name, *pair, len(baseline.scores), count, settings) for name, pair in shares.items()),
    )


def _scores(baseline: Floats, window: Floats, limit: float, settings: Monitor) -> Signal:
    normed = wasserstein(baseline, window) / (float(baseline.std()) or 1.0)
    distance, chance = kolmogorov_smirnov(baseline, window)
    by_test = chance < settings.test_level and distance >= settings.test_distance
    state: State = "breached" if normed >= settings.drift_alarm or by_test else "warning" if normed >= limit else "ok"
    moved = float(window.mean() - baseline.mean())
    words = f"mean {moved:+.2f}, KS {distance:.3f}, PSI {stability_index(baseline, window):.3f}"
    return Signal("scores", state, round(normed, 4), settings.drift_alarm, words)


def _lengths(pairs: Mapping[str, tuple[Floats, Floats]], settings: Monitor) -> list[Signal]:
    tests = {name: kolmogorov_smirnov(*pair) for name, pair in pairs.items()}
    refused = holm([chance for _, chance in tests.values()]) <= settings.test_level
    return [
        Signal(
            name,
            "breached" if refuses and distance >= settings.test_distance else "ok",
            round(distance, 4),
            settings.test_distance,
            f"median {np.median(pairs[name][0]):,.0f} -> {np.median(pairs[name][1]):,.0f} characters",
        )
        for (name, (distance, _)), refuses in zip(tests.items(), refused, strict=True)
    ]


def _share(name: str, before: float, now: float, first: int, second: int, settings: Monitor) -> Signal:
    pooled = (before * first + now * second) / (first + second)
    error = np.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / first + 1 / second))
    chance = float(2 * stats.norm.sf(abs(now - before) / error))
    breached = chance < settings.share_level and abs(now - before) >= settings.share_difference
    words = f"{before:.1%} -> {now:.1%}"
    return Signal(name, "breached" if breached else "ok", round(now - before, 4), settings.share_difference, words)
