"""Two reward models on drawn prompts, with the truth known, judged by the gate's own checks.

What `touchstone gate preview` and the gate's benchmark draw from. A `Shape` says what a project's prompts look like,
a `World` what is assumed of models and labels; `judge` draws sets from both and gives the verdict. All checks that
depend on drawn rows are there (evidence, floor, champion, calibration, slices, length, and confirm on a reserved set).
Those that depend on texts and processes (leakage, probes, reload ...) are not: they can only stop a model, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.stats import multivariate_normal

from touchstone import statistics
from touchstone.gate import checks, rows
from touchstone.gate.checks import Check, Completions, Pairs, Status, Verdict
from touchstone.groups import Group
from touchstone.model.scores import RawScore
from touchstone.settings.gates import Gates
from touchstone.statistics import CalibrationMap, Floats, MapError

Numbers = NDArray[np.intp]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What judged prompts look like: all that the checks read of them but rewards. Arrays by pair, prompt by prompt.

    Attributes:
        starts: where each prompt's pairs begin, and where the last one's end, shape (prompts + 1,).
        tied: labelled ties.
        groups: number of each pair's group; a prompt may hold several.
        chosen, rejected: numbers of its two completions; of a labelled tie in any order.
        chosen_length, rejected_length: their lengths.
        masks: by slice, which pairs belong to it.
        absent: critical slices that the data knows nothing of.
    """

    starts: Numbers
    tied: Mask
    groups: Numbers
    chosen: Numbers
    rejected: Numbers
    chosen_length: Floats
    rejected_length: Floats
    masks: Mapping[str, Mask]
    absent: tuple[str, ...] = ()

    @property
    def prompts(self) -> int:
        """How many prompts there are to draw from."""
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class World:
    """What is assumed of models and labels.

    A pair's reward difference, counted from the side that is truly preferred, is normal and has three parts: how easy
    the prompt is and how easy the pair is, the same for both models, and how well a model does on this prompt. Both
    models are calibrated: of a normal difference with mean m and variance 1, P(right given its size) is
    sigmoid(2 m size).

    Attributes:
        accuracy: how often the champion is right about what is truly preferred.
        discordance: share of the pairs that two equal models order differently.
        label_noise: share of the labels that are the wrong way round.
        linear: accuracy of the baseline that reads words and length alone.
        copies: near copies of every prompt, all of them one family and so one cluster.
    """

    accuracy: float = 0.70
    discordance: float = 0.10
    label_noise: float = 0.0
    linear: float = 0.58
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """Prompts of the sets that a judgement rests on."""

    holdout: int
    confirm: int
    calibration: int

    def times(self, factor: float) -> Sizes:
        """All of them so many times as large."""
        return Sizes(*(math.ceil(factor * size) for size in (self.holdout, self.confirm, self.calibration)))


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A set of drawn prompts with the reward differences of candidates and champion; arrays by pair.

    Attributes:
        clusters: number of each pair's prompt, or of its family.
        places: which pairs of the shape these are.
        numbers: number of each pair's prompt, every copy a prompt of its own.
        candidates: one row for each, shape (candidates, pairs).
    """

    clusters: Numbers
    places: Numbers
    numbers: Numbers
    strengths: Floats
    candidates: Floats
    champion: Floats


@dataclass(frozen=True, slots=True)
class Outcome:
    """One simulated decision: its verdict, and what each check found up to the first that failed."""

    verdict: Verdict
    checks: tuple[Check, ...]

    @property
    def statuses(self) -> dict[str, Status]:
        """What each check found, by name."""
        return {check.name: check.status for check in self.checks}


def shape_of(groups: Sequence[Group], limits: Gates) -> Shape:
    """The shape of a set's judged pairs, cut into slices as the gate cuts them; lengths are in characters.

    Args:
        groups: with at least one judged pair.
    """
    nothing = [[RawScore(0.0, False, len(text.text)) for text in group.completions] for group in groups]
    known = {edge.annotator for group in groups for edge in group.comparisons if edge.annotator is not None}
    table = rows.Rows(rows.records("shape", groups, nothing, None, {}, frozenset(known)))
    # Prompt by prompt, whatever the order of groups.
    clusters = np.asarray(table.table["cluster_id"].to_pylist())
    order = np.argsort(clusters, kind="stable")
    _, first = np.unique(clusters[order], return_index=True)
    _, group = np.unique(np.asarray(table.table["group_id"].to_pylist()), return_inverse=True)
    swapped = table.swapped
    most = max(len(group.completions) for group in groups)
    texts = [(group * most + table.column(side)).astype(np.intp) for side in ("first", "second")]
    lengths = table.preferred("tokens")
    masks = {name: mask[order] for name, mask in table.slices(limits.slices).items()}
    return Shape(
        starts=np.append(first, len(order)).astype(np.intp),
        tied=(table.column("strength") <= 0.5)[order],
        groups=group[order],
        chosen=np.where(swapped, texts[1], texts[0])[order],
        rejected=np.where(swapped, texts[0], texts[1])[order],
        chosen_length=lengths[0][order],
        rejected_length=lengths[1][order],
        masks=masks,
        absent=tuple(name for name in limits.critical_slices if name not in masks),
    )


@cache
def likeness(accuracy: float, discordance: float) -> float:
    """Correlation of two equal models' reward differences at which they order this share of the pairs differently."""
    mean = special.ndtri(accuracy)

    def excess(correlation: float) -> float:
        both = multivariate_normal.cdf([mean, mean], cov=[[1.0, correlation], [correlation, 1.0]])
        return float(2 * (accuracy - both) - discordance)

    return float(optimize.brentq(excess, 0.0, 0.99999))


def draw(shape: Shape, world: World, prompts: int, gains: Sequence[float], dice: np.random.Generator) -> Drawn:
    """Freshly drawn prompts; each candidate is right more often than the champion by its gain."""
    # Which prompts, and whether their labels are right.
    chosen = dice.integers(0, shape.prompts, prompts)
    sizes = shape.starts[chosen + 1] - shape.starts[chosen]
    owners = np.repeat(np.arange(prompts), sizes)
    ends = np.cumsum(sizes)
    places = np.arange(len(owners)) - (ends - sizes)[owners] + shape.starts[chosen][owners]
    tied = shape.tied[places]
    signs = np.where(tied, 0.0, np.where(dice.random(len(owners)) < world.label_noise, -1.0, 1.0))

    # What both models find easy, and what each makes of a prompt.
    common = likeness(world.accuracy, world.discordance)
    easy = np.sqrt(common / 2) * (dice.normal(size=prompts)[owners] + dice.normal(size=len(owners)))

    def differences(accuracy: float) -> Floats:
        mean = float(special.ndtri(accuracy))
        skill = np.sqrt(1 - common) * dice.normal(size=prompts)[owners]
        return np.asarray(2 * mean * (signs * mean + easy + skill), dtype=np.float64)

    copied = np.tile(np.arange(len(owners)), world.copies)
    return Drawn(
        clusters=owners[copied],
        places=places[copied],
        numbers=(owners[copied] + prompts * (np.arange(len(copied)) // len(owners))).astype(np.intp),
        strengths=np.where(tied, 0.5, 1.0)[copied],
        candidates=np.stack([differences(world.accuracy + gain)[copied] for gain in gains]),
        champion=differences(world.accuracy)[copied],
    )


class Sealed(NamedTuple):
    """What sealing fits: the calibration maps of candidate and champion, and the error of the candidate's."""

    candidate: CalibrationMap
    champion: CalibrationMap
    error: MapError | None


CERTAIN = Sealed(CalibrationMap(1.0), CalibrationMap(1.0), None)
"""The maps of models whose differences are log odds, known for certain."""


def seal(drawn: Drawn) -> Sealed:
    """What sealing fits on a calibration set, for the first candidate and for the champion."""
    candidate, champion = (
        statistics.fit_calibration_map(differences, drawn.strengths, drawn.clusters)
        for differences in (drawn.candidates[0], drawn.champion)
    )
    return Sealed(candidate.map, champion.map, candidate.error)


def pairs_of(drawn: Drawn, sealed: Sealed, candidate: int = 0) -> tuple[Pairs, Pairs]:
    """A candidate's pairs and the champion's, as the gate has them."""
    return (
        Pairs(drawn.clusters, drawn.candidates[candidate], drawn.strengths, sealed.candidate, sealed.error),
        Pairs(drawn.clusters, drawn.champion, drawn.strengths, sealed.champion),
    )


def judge(
    shape: Shape,
    world: World,
    sizes: Sizes,
    gain: float,
    limits: Gates,
    dice: np.random.Generator,
    look: int = 1,
) -> Outcome:
    """One decision on freshly drawn sets.

    Under the policy first_model the candidate is judged alone, and `gain` counts from `world.accuracy` all the same.
    """
    # Draw, and seal.
    sealed = seal(draw(shape, world, sizes.calibration, [gain], dice))
    drawn = draw(shape, world, sizes.holdout, [gain], dice)
    candidate, drawn_champion = pairs_of(drawn, sealed)
    champion = None if limits.policy == "first_model" else drawn_champion
    masks = {name: mask[drawn.places] for name, mask in shape.masks.items()}

    # Every check on the holdout, the dearest last: after a fail none of the others changes the verdict.
    on_holdout: dict[str, Callable[[], Check]] = {
        "champion": lambda: checks.champion(candidate, champion, limits, look),
        "slices": lambda: checks.slices(candidate, champion, masks, shape.absent, limits),
        "evidence": lambda: checks.evidence(candidate, champion, limits),
        "floor": lambda: checks.floor(candidate, _baselines(shape, world, drawn), limits),
        "length": lambda: _length(shape, drawn, candidate, limits),
        "calibration": lambda: checks.calibration(candidate, limits),
    }
    results: dict[str, Check] = {}
    for name, check in on_holdout.items():
        results[name] = checks.run(name, check)
        if results[name].status == "fail":
            return Outcome(Verdict.REJECT, tuple(results.values()))
    if (person := checks.unattended(limits)) is not None:
        results[person.name] = person

    # The repeat on the reserved set, where they have passed.
    if checks.verdict(list(results.values()), ()) is Verdict.PROMOTE:
        again, before = pairs_of(draw(shape, world, sizes.confirm, [gain], dice), sealed)
        threshold = results["floor"].threshold or 1.0
        results["confirm"] = checks.run(
            "confirm", lambda: checks.confirm(again, before if champion else None, threshold, limits)
        )
    return Outcome(checks.verdict(list(results.values()), ()), tuple(results.values()))


def decide(
    number: int,
    *,
    shape: Shape,
    world: World,
    sizes: Sizes,
    gain: float,
    limits: Gates,
    seed: int = 0,
    look: int = 1,
) -> Outcome:
    """`judge` with the dice of one draw: the same whoever computes it, another bootstrap seed for every draw."""
    own_limits = limits.model_copy(update={"seed": number})
    return judge(shape, world, sizes, gain, own_limits, np.random.default_rng([seed, number]), look)


def _baselines(shape: Shape, world: World, drawn: Drawn) -> dict[str, float]:
    """Accuracy of length alone, in the direction that wins, and what is assumed of words."""
    decided = drawn.strengths > 0.5
    places = drawn.places[decided]
    longer = shape.chosen_length[places] - shape.rejected_length[places]
    accuracy = statistics.accuracy(statistics.credit(longer), drawn.clusters[decided])
    return {"longer_wins": max(accuracy, 1 - accuracy), "linear": world.linear}


def _length(shape: Shape, drawn: Drawn, candidate: Pairs, limits: Gates) -> Check:
    """The check of length; a completion's reward is the mean of what its pairs say of it."""
    texts, groups = int(max(shape.chosen.max(), shape.rejected.max())) + 1, int(shape.groups.max()) + 1
    sides = (shape.chosen[drawn.places], shape.rejected[drawn.places])
    keys, owners = np.unique(np.concatenate([drawn.numbers * texts + side for side in sides]), return_inverse=True)
    counts = np.bincount(owners)
    halves = np.concatenate([candidate.differences / 2, -candidate.differences / 2])
    lengths = np.concatenate([shape.chosen_length[drawn.places], shape.rejected_length[drawn.places]])
    first = np.zeros(len(keys), dtype=np.intp)
    first[owners] = np.arange(len(owners))
    pair = first % len(drawn.places)
    return checks.length(
        candidate,
        Completions(
            groups=drawn.numbers[pair] * groups + shape.groups[drawn.places][pair],
            rewards=np.bincount(owners, weights=halves) / counts,
            tokens=lengths[first],
            wins=np.bincount(owners, weights=np.sign(halves) / 2 + 0.5) / counts,
            clusters=drawn.clusters[pair],
        ),
        shape.chosen_length[drawn.places],
        shape.rejected_length[drawn.places],
        limits,
    )
