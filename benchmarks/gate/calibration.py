"""What the calibration check is worth: false rejections, power, and whether served probabilities are right.

    python -m benchmarks.gate.calibration                       # half an hour on 2 cores
    python -m benchmarks.gate.calibration --quick --result calibration.json

Models whose truth is known, numbers only. `false_rejections`: models that are exactly calibrated but for the map that
is fitted on few pairs, also with labels flipped at a constant rate, which is what a noise floor is for. `power`: the
same with a sealed temperature of 0.6 and 1.6 times the fitted one. `coverage`: the served probability beside the true.
`sandbox`: the known reward as the model. `before` is the check as it was (`benchmarks.gate.before`). Writes
results/gate_calibration.json; the exit code is 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from benchmarks.gate import before
from benchmarks.machine import hardware
from touchstone import statistics
from touchstone.data.sources import sandbox
from touchstone.gate import checks as gates
from touchstone.gate.checks import Pairs
from touchstone.groups import Group, judged_pairs
from touchstone.settings import compose
from touchstone.settings.data import SandboxData
from touchstone.settings.gates import Gates
from touchstone.statistics import CalibrationMap, Floats

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "gate_calibration.json"
LIBRARIES = ("numpy", "scipy", "statsmodels")
LIMITS = compose([], ROOT / "configs").gates

ACCURACIES = (0.62, 0.65, 0.70, 0.78)
FLIPS = (0.0, 0.05, 0.10, 0.20)
SLOPES = (0.6, 1.6)
LIKENESS = 0.5
"""Correlation of the reward differences of one prompt's pairs."""
REJECTED, NOT_PASSED = 0.03, 0.03
"""What is promised: rejections of calibrated models in every cell, and those that don't pass at 1,500 prompts."""


class Shape(NamedTuple):
    """Prompts in the calibration set and in the holdout, and pairs of each prompt."""

    calibration: int
    holdout: int
    per_prompt: int


SHAPES = {"300 and 500 pairs": Shape(300, 500, 1), "100 and 520 prompts of 3 pairs": Shape(100, 520, 3)}
DEFAULT_SHAPE = Shape(900, 1500, 1)
"""Of the default shares where the holdout has 1,500 prompts."""


@dataclass(frozen=True)
class Model:
    """A model that is calibrated at T = 1 before labels are flipped.

    Its reward difference, counted from the better side, is 2 m (m + z) with z standard normal and m the normal
    quantile of the accuracy: of such a D P(better | |D|) = sigmoid(|D|).
    """

    accuracy: float
    flips: float

    def draw(self, prompts: int, per_prompt: int, dice: np.random.Generator) -> tuple[Floats, list[int]]:
        """Differences from the side that the labels prefer, and prompts."""
        mean = float(norm.ppf(self.accuracy))
        common, own = dice.normal(size=(prompts, 1)), dice.normal(size=(prompts, per_prompt))
        weight = LIKENESS if per_prompt > 1 else 0.0
        better = (2 * mean * (mean + np.sqrt(weight) * common + np.sqrt(1 - weight) * own)).ravel()
        differences = np.where(dice.random(len(better)) < self.flips, -better, better)
        return differences, np.repeat(np.arange(prompts), per_prompt).tolist()

    def truth(self, differences: Floats) -> Floats:
        """P(the labels prefer the first) of each difference."""
        return statistics.probability(differences, CalibrationMap(1.0, self.flips))


def judge(number: int, *, model: Model, shape: Shape, slope: float, before_draws: int, seed: int) -> dict[str, Any]:
    """The check on one drawn holdout with a map that is fitted on one drawn calibration set.

    Args:
        before_draws: so many of the draws are shown to the check as it was, too.
    """
    dice = np.random.default_rng([seed, number])
    calibration, prompts = model.draw(shape.calibration, shape.per_prompt, dice)
    holdout, clusters = model.draw(shape.holdout, shape.per_prompt, dice)
    fitted = statistics.fit_calibration_map(calibration, np.ones(len(calibration)), prompts)
    sealed = fitted.map._replace(temperature=slope * fitted.map.temperature)
    check = gates.calibration(Pairs(clusters, holdout, np.ones(len(holdout)), sealed, fitted.error), LIMITS)
    found: dict[str, Any] = {"status": check.status, "floor": fitted.map.noise_floor}
    found["outside"] = not LIMITS.min_calibration_slope <= float(check.details["slope"] or 0) <= 1.25
    found["needed"] = check.needed
    if number < before_draws:
        weights = statistics.cluster_weights(prompts)
        temperature = slope * before.fit(calibration, np.ones(len(calibration)), weights)
        found["before"] = before.rejects(
            holdout, np.ones(len(holdout)), temperature, len(calibration), LIMITS.max_calibration_error, number
        )
    return found


def repeat(
    function: Callable[[int], dict[str, Any]], draws: int, pool: ProcessPoolExecutor | None
) -> list[dict[str, Any]]:
    """`function(number)` for every draw."""
    if pool is None:
        return [function(number) for number in range(draws)]
    return list(pool.map(function, range(draws), chunksize=max(1, draws // 64)))


def share(rows: Sequence[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> float:
    return sum(map(wanted, rows)) / len(rows)


def cell(
    model: Model, shape: Shape, slope: float, sizes: tuple[int, int], pool: ProcessPoolExecutor | None, seed: int
) -> dict[str, Any]:
    """Shares of outcomes in one cell.

    Args:
        sizes: draws, and how many of them the check as it was sees too.
    """
    function = partial(judge, model=model, shape=shape, slope=slope, before_draws=sizes[1], seed=seed)
    rows = repeat(function, sizes[0], pool)
    first = rows[: sizes[1]]
    asked = [row["needed"] for row in rows if row["needed"] is not None]
    return {
        "accuracy": model.accuracy,
        "flips": model.flips,
        "slope": slope,
        "calibration_prompts": shape.calibration,
        "holdout_prompts": shape.holdout,
        "pairs_per_prompt": shape.per_prompt,
        "draws": sizes[0],
        "rejected": share(rows, lambda row: row["status"] == "fail"),
        "undecided": share(rows, lambda row: row["status"] == "undecided"),
        "slope_outside_its_limits": share(rows, lambda row: row["outside"]),
        "with_a_floor": share(rows, lambda row: row["floor"] > 0),
        "more_prompts_asked": float(np.median(asked)) if asked else None,
        "before_draws": sizes[1],
        "before_rejected": share(first, lambda row: any(row["before"])),
        "before_rejected_by_the_slope": share(first, lambda row: row["before"][1]),
        "before_rejected_by_the_error": share(first, lambda row: row["before"][0]),
    }


def false_rejections(draws: int, pool: ProcessPoolExecutor | None) -> list[dict[str, Any]]:
    """Every shape, accuracy and rate of flips."""
    cells = [(shape, accuracy, flips) for shape in SHAPES.values() for accuracy in ACCURACIES for flips in FLIPS]
    return [
        cell(Model(accuracy, flips), shape, 1.0, (draws, draws // 5), pool, 100 + place)
        for place, (shape, accuracy, flips) in enumerate(cells)
    ]


def power(draws: int, pool: ProcessPoolExecutor | None) -> list[dict[str, Any]]:
    """Models whose probabilities are too sure (0.6) and too modest (1.6)."""
    shapes = [*SHAPES.values(), DEFAULT_SHAPE]
    cells = [(shape, accuracy, slope) for shape in shapes for accuracy in ACCURACIES for slope in SLOPES]
    return [
        cell(Model(accuracy, 0.0), shape, slope, (draws, draws // 5), pool, 200 + place)
        for place, (shape, accuracy, slope) in enumerate(cells)
    ]


def better_model(draws: int, pool: ProcessPoolExecutor | None) -> dict[str, Any]:
    """A calibrated model of accuracy 0.73, three points above a champion with 0.70, at 1,500 prompts."""
    return cell(Model(0.73, 0.0), DEFAULT_SHAPE, 1.0, (draws, draws // 5), pool, 300)


def serve(number: int, *, model: Model, calibration: int, holdout: int, seed: int) -> dict[str, Any]:
    """How far the served probability is from the true one, by the map and by a temperature alone, in bins of |D|."""
    dice = np.random.default_rng([seed, number])
    fitted_on, prompts = model.draw(calibration, 1, dice)
    judged, _ = model.draw(holdout, 1, dice)
    strengths = np.ones(calibration)
    maps = {
        "map": statistics.fit_calibration_map(fitted_on, strengths, prompts).map,
        "before": CalibrationMap(before.fit(fitted_on, strengths, strengths / calibration)),
    }
    gaps, right = np.abs(judged), (judged > 0).astype(float)
    truth = model.truth(gaps)
    found: dict[str, Any] = {}
    for name, served in maps.items():
        confidence = statistics.probability(gaps, served)
        order = np.argsort(gaps)
        runs = np.array_split(order, statistics.CALIBRATION_BINS)
        inside = 0
        for run in runs:
            low, high = statistics.wilson_interval(float(right[run].sum()), len(run), 0.95)
            inside += low <= confidence[run].mean() <= high
        found[name] = {
            "off": float(np.mean([abs(confidence[run].mean() - truth[run].mean()) for run in runs])),
            "largest": float(max(abs(confidence[run].mean() - truth[run].mean()) for run in runs)),
            "inside": inside / len(runs),
        }
    return found


def coverage(draws: int, pool: ProcessPoolExecutor | None) -> list[dict[str, Any]]:
    """Served probabilities by accuracy and rate of flips; 900 calibration pairs, 15 bins of 3,000 pairs by |D|."""
    rows = []
    cells = [(accuracy, flips) for accuracy in (0.70, 0.78, 0.90) for flips in FLIPS]
    for place, (accuracy, flips) in enumerate(cells):
        function = partial(serve, model=Model(accuracy, flips), calibration=900, holdout=3_000, seed=400 + place)
        found = repeat(function, draws, pool)
        row: dict[str, Any] = {"accuracy": accuracy, "flips": flips, "draws": draws}
        for name in ("map", "before"):
            values = {key: np.mean([one[name][key] for one in found]) for key in ("off", "largest", "inside")}
            row[name] = {
                "mean_distance": float(values["off"]),
                "largest_distance": float(values["largest"]),
                "bins_in_wilson_interval": float(values["inside"]),
            }
        rows.append(row)
    return rows


def gold_pairs(groups: Sequence[Group]) -> tuple[Floats, Floats, list[str]]:
    """Differences of the known reward from the preferred side, strengths and clusters."""
    differences, strengths, clusters = [], [], []
    for group in groups:
        gold = [completion.ratings["gold"] for completion in group.completions]
        for pair in judged_pairs(group):
            sign = -1 if pair.chosen == pair.second else 1
            differences.append(sign * (gold[pair.first] - gold[pair.second]))
            strengths.append(pair.strength)
            clusters.append(group.cluster_id)
    return np.array(differences), np.array(strengths), clusters


Judged = tuple[Floats, Floats, list[str]]


def gold_sets(seed: int, calibration: int, holdout: int, **changes: float) -> tuple[Judged, Judged]:
    """`gold_pairs` of so many groups of the sandbox with this seed, and of so many more.

    Args:
        changes: settings of the sandbox that are not the default ones.
    """
    data = compose([], ROOT / "configs").data
    assert isinstance(data, SandboxData)
    world = data.model_copy(update={"seed": seed, **changes})
    groups = [sandbox.make(world, index) for index in range(calibration + holdout)]
    return gold_pairs(groups[:calibration]), gold_pairs(groups[calibration:])


def judge_gold(fitted_on: Judged, judged: Judged, limits: Gates) -> gates.Check:
    """The check on the known reward as a model."""
    fitted = statistics.fit_calibration_map(*fitted_on)
    differences, strengths, clusters = judged
    return gates.calibration(Pairs(clusters, differences, strengths, fitted.map, fitted.error), limits)


def reject_gold_before(fitted_on: Judged, judged: Judged, seed: int) -> bool:
    """Whether the check as it was rejected the known reward."""
    differences, strengths, clusters = fitted_on
    temperature = before.fit(differences, strengths, statistics.cluster_weights(clusters))
    limit = LIMITS.max_calibration_error
    return any(before.rejects(judged[0], judged[1], temperature, len(clusters), limit, seed))


def gold(worlds: int, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The known reward in several worlds, by size and rate of flips, beside the check as it was."""
    rows = []
    for calibration, holdout in sizes:
        for flips in FLIPS:
            sets = [gold_sets(1_000 + seed, calibration, holdout, label_noise=flips) for seed in range(worlds)]
            found = [judge_gold(*one, LIMITS) for one in sets]
            rows.append(
                {
                    "calibration_groups": calibration,
                    "holdout_groups": holdout,
                    "flips": flips,
                    "worlds": worlds,
                    "rejected": sum(check.status == "fail" for check in found) / worlds,
                    "calibration_error": float(np.mean([check.value for check in found])),
                    "threshold": float(np.mean([check.threshold for check in found])),
                    "noise_floor": float(np.mean([check.details["noise_floor"] for check in found])),
                    "before_rejected": sum(reject_gold_before(*one, seed) for seed, one in enumerate(sets)) / worlds,
                }
            )
    return rows


def broken_promises(found: dict[str, Any]) -> list[str]:
    """What the results don't keep."""
    broken = [
        f"accuracy {row['accuracy']}, flips {row['flips']}, {row['pairs_per_prompt']} pairs a prompt: "
        f"{row['rejected']:.1%} of calibrated models rejected"
        for row in found["false_rejections"]
        if row["rejected"] > REJECTED
    ]
    lost = found["better_model"]["rejected"] + found["better_model"]["undecided"]
    broken += [f"{lost:.1%} of better models don't pass"] * (lost > NOT_PASSED)
    worst = max(row["rejected"] for row in found["sandbox"])
    return broken + [f"the known reward is rejected in {worst:.0%} of the worlds"] * (worst > 0.1)


def table(found: dict[str, Any]) -> str:
    """The cells as aligned text."""
    lines = [f"{'accuracy':>8}{'flips':>7}{'pairs':>7}{'slope':>7}{'rejected':>10}{'undecided':>11}{'before':>8}"]
    for row in [*found["false_rejections"], *found["power"], found["better_model"]]:
        lines.append(
            f"{row['accuracy']:>8}{row['flips']:>7}{row['holdout_prompts'] * row['pairs_per_prompt']:>7}"
            f"{row['slope']:>7}{row['rejected']:>10.3f}{row['undecided']:>11.3f}{row['before_rejected']:>8.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--draws", type=int, default=4_000, help="for each cell; fewer for power and coverage")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    draws, fewer, worlds = (20, 10, 1) if arguments.quick else (arguments.draws, arguments.draws // 4, 10)
    began = time.monotonic()
    # One thread each: these arrays are too small to share.
    with ProcessPoolExecutor(arguments.processes, initializer=threadpool_limits, initargs=(1,)) as pool:
        found: dict[str, Any] = {
            "false_rejections": false_rejections(draws, pool),
            "power": power(fewer, pool),
            "better_model": better_model(draws, pool),
            "coverage": coverage(fewer // 5, pool),
        }
    found["sandbox"] = gold(worlds, [(720, 1_200), (2_000, 8_000)])
    found |= {
        "hardware": hardware(),
        "versions": {name: version(name) for name in LIBRARIES},
        "took_seconds": round(time.monotonic() - began, 1),
    }
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    arguments.result.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(table(found))
    broken = broken_promises(found)
    for words in broken:
        print(f"BROKEN {words}")
    now, then = (max(row[key] for row in found["false_rejections"]) for key in ("rejected", "before_rejected"))
    print(f"RESULT false_reject={now:.4f} before={then:.4f}")
    if broken and not arguments.quick:
        sys.exit(1)


if __name__ == "__main__":
    main()
