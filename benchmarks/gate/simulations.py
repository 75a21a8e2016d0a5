"""How often the gate errs: many judged sets with a known truth, through the gate's own functions.

`touchstone.gate.simulation` draws and judges: the same simulator as `touchstone gate preview`'s. No check is switched
off and no threshold is moved. Prompts look like those of the default data, one in five of them about safety.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from benchmarks.gate.sandbox import ROOT
from touchstone import statistics
from touchstone.data.sources import sandbox
from touchstone.gate import checks as gates
from touchstone.gate.checks import Verdict
from touchstone.gate.preview import count
from touchstone.gate.simulation import (
    CERTAIN,
    Drawn,
    Outcome,
    Shape,
    Sizes,
    World,
    decide,
    draw,
    pairs_of,
    seal,
    shape_of,
)
from touchstone.settings import compose
from touchstone.settings.data import SandboxData
from touchstone.settings.gates import Gates

NOMINAL = 0.025
LEVELS = (0.90, 0.95)
GROUPS = 4_000
"""Of the default data: enough to know what its prompts look like."""
DISCORDANCES = (0.10, 0.15, 0.20)
PROMPTS = 1_500
BETTER = (0.02, 0.03, 0.05)

Result = TypeVar("Result")


def repeat(function: Callable[[int], Result], draws: int, pool: ProcessPoolExecutor | None) -> list[Result]:
    """`function(number)` for every draw, in order."""
    if pool is None:
        return list(map(function, range(draws)))
    return list(pool.map(function, range(draws), chunksize=max(1, draws // 64)))


def dice_of(seed: int, number: int) -> np.random.Generator:
    """Dice of one draw: the same whoever computes it."""
    return np.random.default_rng([seed, number])


def error_of(share: float, draws: int) -> float:
    """Standard error of a share that was counted in so many draws."""
    return math.sqrt(max(share * (1 - share), 1 / draws) / draws)


def share(rows: Sequence[dict[str, Any]], key: str, value: Any = True) -> float:
    """Share of the draws with this outcome."""
    return sum(row[key] == value for row in rows) / len(rows)


def sizes_of(prompts: int) -> Sizes:
    """The sets beside a holdout of so many prompts, by the default shares."""
    shares = compose([], ROOT / "configs").split.shares
    return Sizes(
        prompts, *(math.ceil(prompts * shares[name] / shares["holdout"]) for name in ("confirm", "calibration"))
    )


def default_shape(limits: Gates, groups: int = GROUPS) -> Shape:
    """What prompts of the default data look like."""
    data = compose([], ROOT / "configs").data
    assert isinstance(data, SandboxData)
    return shape_of(list(sandbox.read(data.model_copy(update={"groups": groups}), ROOT)), limits)


def even_shape(per_prompt: int, ties: float = 0.04, prompts: int = 5_000) -> Shape:
    """Prompts with the same number of pairs each, of two completions each, in no slice."""
    dice, pairs = np.random.default_rng(5), prompts * per_prompt
    lengths = dice.integers(20, 200, (2, pairs)).astype(float)
    return Shape(
        starts=np.arange(0, pairs + 1, per_prompt),
        tied=dice.random(pairs) < ties,
        groups=np.arange(pairs),
        chosen=2 * np.arange(pairs),
        rejected=2 * np.arange(pairs) + 1,
        chosen_length=lengths[0],
        rejected_length=lengths[1],
        masks={},
        absent=("axis=safety",),
    )


# --- whole decisions -------------------------------------------------------------------------------------------------


def decisions(
    shape: Shape,
    world: World,
    sizes: Sizes,
    gain: float,
    limits: Gates,
    draws: int,
    pool: ProcessPoolExecutor | None,
    seed: int,
) -> list[Outcome]:
    """So many decisions on freshly drawn sets, under the thresholds' own policy."""
    function = partial(decide, shape=shape, world=world, sizes=sizes, gain=gain, limits=limits, seed=seed)
    return repeat(function, draws, pool)


def promoted(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Share of the verdicts, with the error of the first, and how often the comparison alone passed."""
    draws = len(outcomes)
    verdicts = {name: sum(outcome.verdict is name for outcome in outcomes) / draws for name in Verdict}
    passed = sum(outcome.statuses.get("champion") == "pass" for outcome in outcomes) / draws
    return {
        "draws": draws,
        "promoted": verdicts[Verdict.PROMOTE],
        "promoted_error": error_of(verdicts[Verdict.PROMOTE], draws),
        "rejected": verdicts[Verdict.REJECT],
        "inconclusive": verdicts[Verdict.INCONCLUSIVE],
        "error": verdicts[Verdict.ERROR],
        "champion_passed": passed,
        "champion_passed_error": error_of(passed, draws),
        "open": count(0, 0.0, outcomes).open,
    }


def false_promotion(
    shape: Shape, limits: Gates, draws: int, pool: ProcessPoolExecutor | None, prompts: int = PROMPTS
) -> dict[str, Any]:
    """How often one of two equal models is promoted: default data, and many pairs of every prompt."""
    cases = {
        f"default data, {prompts} prompts": (shape, prompts),
        "6 pairs a prompt, 600 prompts": (even_shape(6), 600),
        "15 pairs a prompt, 600 prompts": (even_shape(15), 600),
    }
    return {
        name: promoted(decisions(case, World(), sizes_of(size), 0.0, limits, draws, pool, seed=100 + number))
        for number, (name, (case, size)) in enumerate(cases.items())
    }


def families(
    shape: Shape, limits: Gates, draws: int, pool: ProcessPoolExecutor | None, prompts: int = 600
) -> dict[str, Any]:
    """The same where every prompt has five near copies, which are one family and so one cluster."""
    outcomes = decisions(shape, World(copies=5), sizes_of(prompts), 0.0, limits, draws, pool, seed=110)
    return {"families": prompts, "copies": 5, **promoted(outcomes)}


def promote3(
    shape: Shape, limits: Gates, draws: int, pool: ProcessPoolExecutor | None, prompts: int = PROMPTS
) -> dict[str, Any]:
    """How often a candidate that is truly better by 3 points is promoted, by how differently two models order."""
    cases = {}
    for number, discordance in enumerate(DISCORDANCES):
        world = World(discordance=discordance)
        outcomes = decisions(shape, world, sizes_of(prompts), 0.03, limits, draws, pool, seed=200 + number)
        cases[f"{discordance:.2f}"] = promoted(outcomes)
    safety = float(shape.masks["axis=safety"].mean())
    return {"prompts": prompts, "gain": 0.03, "safety_share": safety, "by_discordance": cases}


def table(
    shape: Shape,
    limits: Gates,
    draws: int,
    pool: ProcessPoolExecutor | None,
    *,
    prompts: Iterable[int],
    gains: Iterable[float],
    noises: Iterable[float] = (0.0,),
) -> list[dict[str, Any]]:
    """Shares of the verdicts by label noise, size and true gain."""
    cells = []
    keys = [(noise, size, gain) for noise in noises for size in prompts for gain in gains]
    for number, (noise, size, gain) in enumerate(keys):
        world = World(label_noise=noise)
        outcomes = decisions(shape, world, sizes_of(size), gain, limits, draws, pool, seed=300 + number)
        cells.append({"label_noise": noise, **asdict(count(size, gain, outcomes))})
    return cells


def false_reject(cells: Sequence[dict[str, Any]]) -> float:
    """Share of REJECT among candidates that are truly better and calibrated, labels without noise: the worst gain's
    over all sizes."""
    clean = [cell for cell in cells if cell["label_noise"] == 0]
    shares = [[cell["reject"] for cell in clean if cell["gain"] == gain] for gain in BETTER]
    return max(float(np.mean(values)) for values in shares if values)


# --- sizes and looks -------------------------------------------------------------------------------------------------


def together(first: Drawn, second: Drawn) -> Drawn:
    """Two drawn sets as one."""
    shift = int(first.clusters.max()) + 1
    moved = replace(second, clusters=second.clusters + shift, numbers=second.numbers + int(first.numbers.max()) + 1)
    names = ("clusters", "places", "numbers", "strengths", "candidates", "champion")
    return Drawn(*(np.concatenate([getattr(first, name), getattr(moved, name)], axis=-1) for name in names))


def ask(
    number: int, *, shape: Shape, gain: float, observed: bool, prompts: int, look: int, limits: Gates, seed: int
) -> dict[str, Any] | None:
    """One undecided comparison, and the next look at it with the prompts that it asked for; None if it was decided.

    Args:
        gain: of the candidate; the one that the size was asked for.
        observed: the size was asked for the gain seen so far, and the prompts to come have that one.
    """
    dice, own_limits = dice_of(seed, number), limits.model_copy(update={"seed": number})
    seen = draw(shape, World(), prompts, [gain], dice)
    check = gates.champion(*pairs_of(seen, CERTAIN), own_limits, look)
    if check.status != "undecided" or check.value is None:
        return None
    true = check.value if observed else gain
    kind = "observed" if observed else "assumed"
    size = next(row for row in check.sizes if row["kind"] == kind and (observed or row["gain"] == gain))
    more = size["more_prompts"]
    if not isinstance(more, int) or (observed and check.value < limits.smallest_effect):
        return None
    both = together(seen, draw(shape, World(), more, [true], dice))
    again = gates.champion(*pairs_of(both, CERTAIN), own_limits, look + 1)
    return {"more": more, "passed": again.status == "pass", "headline": check.needed}


def asked_sizes(
    shape: Shape, limits: Gates, draws: int, pool: ProcessPoolExecutor | None, *, prompts: int = 800
) -> dict[str, Any]:
    """The power at the size that an undecided comparison asks for, at the look that it will be: 80% is promised."""
    cases: dict[str, Any] = {}
    keys = [
        (gain, observed, look) for look in (1, 3) for gain, observed in [*((g, False) for g in BETTER), (0.025, True)]
    ]
    for number, (gain, observed, look) in enumerate(keys):
        function = partial(
            ask,
            shape=shape,
            gain=gain,
            observed=observed,
            prompts=prompts,
            look=look,
            limits=limits,
            seed=400 + number,
        )
        rows = [row for row in repeat(function, draws, pool) if row is not None]
        what = "the gain seen so far" if observed else f"{100 * gain:+.0f} points"
        passed = share(rows, "passed") if rows else math.nan
        cases[f"{what}, look {look + 1}"] = {
            "first_prompts": prompts,
            "undecided": len(rows),
            "more_asked": int(np.median([row["more"] for row in rows])) if rows else None,
            "passed": passed,
            "passed_error": error_of(passed, len(rows)) if rows else None,
        }
    return cases


def line_of_candidates(
    number: int, *, shape: Shape, candidates: int, sizes: Sizes, limits: Gates, seed: int
) -> dict[str, Any]:
    """Whether luck passes any of several candidates, all of them as good as the champion, on one lineage of sets."""
    dice, own_limits = dice_of(seed, number), limits.model_copy(update={"seed": number})
    holdout, reserved = (
        draw(shape, World(), prompts, [0.0] * candidates, dice) for prompts in (sizes.holdout, sizes.confirm)
    )
    lucky = [
        candidate
        for candidate in range(candidates)
        if gates.champion(*pairs_of(holdout, CERTAIN, candidate), own_limits).status == "pass"
    ]
    confirmed = [
        candidate
        for candidate in lucky
        if gates.confirm(*pairs_of(reserved, CERTAIN, candidate), 0.5, own_limits).status == "pass"
    ]
    return {"passed": bool(lucky), "confirmed": bool(confirmed)}


def lineage(
    shape: Shape,
    limits: Gates,
    draws: int,
    pool: ProcessPoolExecutor | None,
    *,
    candidates: int = 20,
    prompts: int = PROMPTS,
) -> dict[str, Any]:
    """The chance that luck promotes one of twenty equal candidates on one lineage, before and after `confirm`."""
    sizes = sizes_of(prompts)
    function = partial(line_of_candidates, shape=shape, candidates=candidates, sizes=sizes, limits=limits, seed=500)
    rows = repeat(function, draws, pool)
    return {
        "candidates": candidates,
        "prompts": prompts,
        "draws": draws,
        "passed_the_holdout": share(rows, "passed"),
        "promoted": share(rows, "confirmed"),
        "promoted_error": error_of(share(rows, "confirmed"), draws),
        "claimed_at_most": gates.lineage_chance(candidates),
    }


# --- the parts of a decision -----------------------------------------------------------------------------------------


def compare(number: int, *, shape: Shape, prompts: int, gain: float, limits: Gates, seed: int) -> dict[str, Any]:
    """The champion check on one drawn set, and what a test says that takes pairs for prompts."""
    drawn = draw(shape, World(discordance=0.15), prompts, [gain], dice_of(seed, number))
    candidate, champion = pairs_of(drawn, CERTAIN)
    check = gates.champion(candidate, champion, limits.model_copy(update={"seed": number}))
    credits = candidate.credits()[0] - champion.credits()[0]
    bound = statistics.t_mean_interval(credits, 1 - 2 * NOMINAL)
    return {"status": check.status, "naive": bound is not None and bound.low > 0}


def curves(
    limits: Gates, draws: int, pool: ProcessPoolExecutor | None, sizes: Iterable[int], gains: Sequence[float]
) -> list[dict[str, Any]]:
    """Share of promotions by the superiority test over the number of prompts, for the picture."""
    shape, found = even_shape(6), []
    for prompts in sizes:
        for gain in gains:
            function = partial(compare, shape=shape, prompts=prompts, gain=gain, limits=limits, seed=600 + prompts)
            rows = repeat(function, draws, pool)
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


def cover(number: int, *, shape: Shape, prompts: int, gain: float, limits: Gates, seed: int) -> dict[str, Any]:
    """Whether each kind of interval holds the truth."""
    world = World(discordance=0.15)
    candidate, champion = pairs_of(draw(shape, world, prompts, [gain], dice_of(seed, number)), CERTAIN)
    credits, clusters = candidate.credits()
    gains = candidate.gains(champion)
    truth = world.accuracy + gain
    found = {}
    for level in LEVELS:
        draws = limits.bootstrap_draws
        intervals: dict[str, tuple[statistics.Interval | None, float]] = {
            "difference, BCa": (statistics.bootstrap_mean_interval(gains, level, draws, number), gain),
            "difference, t": (statistics.t_mean_interval(gains, level), gain),
            "difference, paired": (statistics.paired_interval(gains, level), gain),
            "accuracy, BCa": (statistics.accuracy_interval(credits, clusters, level, draws, number), truth),
        }
        for name, (interval, value) in intervals.items():
            found[f"{name} {level:.0%}"] = interval is not None and interval.low <= value <= interval.high
    return found


def coverage(
    limits: Gates, draws: int, pool: ProcessPoolExecutor | None, *, prompts: int = 500, per_prompt: int = 6
) -> dict[str, Any]:
    """How often each kind of interval holds the truth, and the largest distance to what it claims."""
    function = partial(cover, shape=even_shape(per_prompt), prompts=prompts, gain=0.03, limits=limits, seed=700)
    rows = repeat(function, draws, pool)
    shares = {name: share(rows, name) for name in rows[0]}
    worst = max(abs(value - float(name.rsplit(" ", 1)[1].rstrip("%")) / 100) for name, value in shares.items())
    return {"prompts": prompts, "draws": draws, "shares": shares, "largest_distance": worst}


def refresh(
    number: int, *, shape: Shape, discordance: float, prompts: int, gain: float, limits: Gates, seed: int
) -> dict[str, Any]:
    """The refresh test on one drawn set: by the gate, and by its margin of accuracy alone."""
    dice, world = dice_of(seed, number), World(discordance=discordance)
    sealed = seal(draw(shape, world, prompts, [gain], dice))
    candidate, champion = pairs_of(draw(shape, world, prompts, [gain], dice), sealed)
    own_limits = limits.model_copy(update={"policy": "refresh", "seed": number})
    check = gates.champion(candidate, champion, own_limits)
    bound = statistics.t_mean_interval(candidate.gains(champion), 0.90)
    return {"status": check.status, "by_accuracy": bound is not None and bound.low > -own_limits.refresh_margin}


REFRESH_SIZES = ((0.05, 3092), (0.10, 6183))
"""Share of the pairs that differ, and the prompts at which an equal model passes with 80%."""


def refreshes(
    limits: Gates, draws: int, pool: ProcessPoolExecutor | None, sizes: Iterable[tuple[float, int]] = REFRESH_SIZES
) -> list[dict[str, Any]]:
    """The refresh test of two equal models, and of one that is worse by the margin, at the sizes of the specification.

    There an equal model passes the margin of accuracy with 80%; the margin of the log loss is a test of its own.
    """
    shape, found = even_shape(1, ties=0.0), []
    cases = [(*size, gain) for size in sizes for gain in (0.0, -limits.refresh_margin)]
    for number, (discordance, prompts, gain) in enumerate(cases):
        function = partial(
            refresh,
            shape=shape,
            discordance=discordance,
            prompts=prompts,
            gain=gain,
            limits=limits,
            seed=800 + number,
        )
        rows = repeat(function, draws, pool)
        found.append(
            {
                "pairs_that_differ": discordance,
                "prompts": prompts,
                "gain": gain,
                "draws": draws,
                "passed": share(rows, "status", "pass"),
                "passed_by_accuracy": share(rows, "by_accuracy"),
                "failed": share(rows, "status", "fail"),
            }
        )
    return found
