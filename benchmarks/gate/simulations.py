"""How often the gate errs: many judged sets with a known truth, through the gate's own functions.

`champion` alone stands for the gate where two models are equal: every other check can only stop a promotion. Where
the candidate is better all that depends on the drawn scores must pass: evidence, floor, champion, calibration, and
the repeat on a reserved set of 40% of the holdout's size, the default shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from benchmarks.gate.worlds import World, draw
from touchstone import statistics
from touchstone.gate import checks as gates
from touchstone.settings.gates import Gates

RESERVED = 0.4
NOMINAL = 0.025
BASELINES = {"longer_wins": 0.55, "linear": 0.58}
LEVELS = (0.90, 0.95)

Draw = Callable[[int], dict[str, Any]]


def dice_of(seed: int, number: int) -> np.random.Generator:
    """Dice of one draw: the same whoever computes it."""
    return np.random.default_rng([seed, number])


def repeat(function: Draw, draws: int, pool: ProcessPoolExecutor | None) -> list[dict[str, Any]]:
    """`function(number)` for every draw, in order."""
    found: Iterable[dict[str, Any]] = (
        map(function, range(draws))
        if pool is None
        else pool.map(function, range(draws), chunksize=max(1, draws // 64))
    )
    return list(found)


def limits_for(limits: Gates, policy: str, number: int) -> Gates:
    """Thresholds with a policy, and a bootstrap seed per draw: one seed's luck would enter every draw alike."""
    return limits.model_copy(update={"policy": policy, "seed": number})


def error_of(share: float, draws: int) -> float:
    """Standard error of a share that was counted in so many draws."""
    return math.sqrt(max(share * (1 - share), 1 / draws) / draws)


def compare(
    number: int, *, world: World, prompts: int, gain: float, policy: str, limits: Gates, seed: int, naive: bool = False
) -> dict[str, Any]:
    """The champion check on one drawn set; `naive` adds what a test says that takes pairs for prompts."""
    candidate, champion = draw(world, prompts, gain, dice_of(seed, number))
    own = limits_for(limits, policy, number)
    check = gates.champion(candidate, champion, own)
    found: dict[str, Any] = {"status": check.status, "needed": check.needed}
    if naive:
        own_credits, clusters = candidate.credits()
        credits = own_credits - champion.credits()[0]
        found["correlation"] = statistics.intraclass_correlation(credits, clusters)
        found["differ"] = float(np.mean(credits != 0))
        bound = statistics.t_mean_interval(credits, 1 - 2 * NOMINAL)
        found["naive"] = bound is not None and bound.low > 0
    return found


def judge(number: int, *, world: World, prompts: int, gain: float, limits: Gates, seed: int) -> dict[str, Any]:
    """Every check of quality on one drawn set, and the repeat on a reserved one."""
    dice = dice_of(seed, number)
    candidate, champion = draw(world, prompts, gain, dice)
    own = limits_for(limits, "strict", number)
    floor = gates.floor(candidate, BASELINES, own)
    checks = [
        gates.evidence(candidate, champion, own),
        floor,
        gates.champion(candidate, champion, own),
        gates.calibration(candidate, own),
    ]
    again = draw(world, math.ceil(RESERVED * prompts), gain, dice)
    checks.append(gates.confirm(*again, floor.threshold or 1.0, own))
    statuses = {check.name: check.status for check in checks}
    return {"promoted": gates.verdict(checks, list(statuses)) is gates.Verdict.PROMOTE, **statuses}


def cover(number: int, *, world: World, prompts: int, gain: float, limits: Gates, seed: int) -> dict[str, Any]:
    """Whether each kind of interval holds the truth."""
    candidate, champion = draw(world, prompts, gain, dice_of(seed, number))
    credits, clusters = candidate.credits()
    gains = statistics.cluster_means(credits, clusters) - statistics.cluster_means(*champion.credits())
    truth = world.accuracy + gain
    found = {}
    for level in LEVELS:
        intervals = {
            "difference, BCa": (
                statistics.bootstrap_mean_interval(gains, level, limits.bootstrap_draws, number),
                gain,
            ),
            "difference, t": (statistics.t_mean_interval(gains, level), gain),
            "accuracy, BCa": (
                statistics.accuracy_interval(credits, clusters, level, limits.bootstrap_draws, number),
                truth,
            ),
        }
        for name, (interval, value) in intervals.items():
            found[f"{name} {level:.0%}"] = interval is not None and interval.low <= value <= interval.high
    return found


def refresh(number: int, *, world: World, prompts: int, gain: float, limits: Gates, seed: int) -> dict[str, Any]:
    """The refresh test on one drawn set: by the gate, and by its margin of accuracy alone."""
    candidate, champion = draw(world, prompts, gain, dice_of(seed, number))
    own = limits_for(limits, "refresh", number)
    check = gates.champion(candidate, champion, own)
    gains = statistics.cluster_means(*candidate.credits()) - statistics.cluster_means(*champion.credits())
    bound = statistics.t_mean_interval(gains, 0.90)
    return {"status": check.status, "by_accuracy": bound is not None and bound.low > -own.refresh_margin}


def share(rows: list[dict[str, Any]], key: str, value: Any = True) -> float:
    """Share of the draws with this outcome."""
    return sum(row[key] == value for row in rows) / len(rows)


def false_promotion(
    limits: Gates,
    draws: int,
    pool: ProcessPoolExecutor | None,
    *,
    prompts: int = 600,
    pairs: tuple[int, ...] = (6, 15),
) -> dict[str, Any]:
    """How often the superiority test lets one of two equal models through, by pairs per prompt."""
    found = {}
    for seed, per_prompt in enumerate(pairs, start=100):
        world = World(per_prompt)
        options = {"prompts": prompts, "gain": 0.0, "policy": "strict", "seed": seed, "naive": True}
        rows = repeat(partial(compare, world=world, limits=limits, **options), draws, pool)
        found[str(per_prompt)] = {
            "prompts": prompts,
            "draws": draws,
            "promoted": share(rows, "status", "pass"),
            "promoted_error": error_of(share(rows, "status", "pass"), draws),
            "promoted_if_pairs_were_prompts": share(rows, "naive"),
            "rejected": share(rows, "status", "fail"),
            "pairs_that_differ": float(np.mean([row["differ"] for row in rows])),
            "intraclass_correlation": float(np.mean([row["correlation"] for row in rows])),
        }
    return found


def power(
    limits: Gates, draws: int, pool: ProcessPoolExecutor | None, *, gain: float = 0.03, per_prompt: int = 6
) -> dict[str, Any]:
    """How often a candidate that is better by `gain` is promoted at the size that an undecided gate asks for."""
    world = World(per_prompt)
    first = limits.min_clusters
    pilots = repeat(
        partial(compare, world=world, prompts=first, gain=0.0, policy="strict", limits=limits, seed=200),
        max(20, draws // 20),
        pool,
    )
    asked = [row["needed"] for row in pilots if row["status"] == "undecided"]
    prompts = first + int(np.median(asked))
    rows = repeat(partial(judge, world=world, prompts=prompts, gain=gain, limits=limits, seed=201), draws, pool)
    return {
        "gain": gain,
        "first_prompts": first,
        "more_asked": int(np.median(asked)),
        "prompts": prompts,
        "reserved_prompts": math.ceil(RESERVED * prompts),
        "draws": draws,
        "promoted": share(rows, "promoted"),
        "promoted_error": error_of(share(rows, "promoted"), draws),
        **{f"{name}_passed": share(rows, name, "pass") for name in rows[0] if name != "promoted"},
    }


def coverage(
    limits: Gates, draws: int, pool: ProcessPoolExecutor | None, *, prompts: int = 500, per_prompt: int = 6
) -> dict[str, Any]:
    """How often each kind of interval holds the truth, and the largest distance to what it claims."""
    world = World(per_prompt)
    rows = repeat(partial(cover, world=world, prompts=prompts, gain=0.03, limits=limits, seed=300), draws, pool)
    shares = {name: share(rows, name) for name in rows[0]}
    worst = max(abs(value - float(name.rsplit(" ", 1)[1].rstrip("%")) / 100) for name, value in shares.items())
    return {"prompts": prompts, "draws": draws, "shares": shares, "largest_distance": worst}


REFRESH_SIZES = ((0.05, 3092), (0.10, 6183))
"""Share of the pairs that differ, and the prompts at which an equal model passes with 80%."""


def refreshes(
    limits: Gates, draws: int, pool: ProcessPoolExecutor | None, sizes: Iterable[tuple[float, int]] = REFRESH_SIZES
) -> list[dict[str, Any]]:
    """The refresh test of two equal models, and of one that is worse by the margin, at the sizes of the specification.

    There an equal model passes the margin of accuracy with 80%; the margin of the log loss is a test of its own.
    """
    found = []
    cases = [(*size, gain) for size in sizes for gain in (0.0, -limits.refresh_margin)]
    for number, (disagreement, prompts, gain) in enumerate(cases):
        world = World(1, disagreement=disagreement, ties=0.0)
        options = {"prompts": prompts, "gain": gain, "seed": 400 + number}
        rows = repeat(partial(refresh, world=world, limits=limits, **options), draws, pool)
        found.append(
            {
                "pairs_that_differ": disagreement,
                "prompts": prompts,
                "gain": gain,
                "draws": draws,
                "passed": share(rows, "status", "pass"),
                "passed_by_accuracy": share(rows, "by_accuracy"),
                "failed": share(rows, "status", "fail"),
            }
        )
    return found


def curves(
    limits: Gates, draws: int, pool: ProcessPoolExecutor | None, sizes: Iterable[int], gains: Iterable[float]
) -> list[dict[str, Any]]:
    """Share of promotions by the superiority test over the number of prompts, for the picture."""
    found = []
    for prompts in sizes:
        for gain in gains:
            options = {"prompts": prompts, "gain": gain, "policy": "strict", "seed": 500 + prompts, "naive": True}
            rows = repeat(partial(compare, world=World(6), limits=limits, **options), draws, pool)
            found.append(
                {
                    "prompts": prompts,
                    "gain": gain,
                    "draws": draws,
                    "promoted": share(rows, "status", "pass"),
                    "promoted_if_pairs_were_prompts": share(rows, "naive"),
                }
            )
    return found
