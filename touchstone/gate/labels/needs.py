"""What is open in a decision, and how many labels would close it: asked of a pool, or added to the data."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from touchstone import statistics
from touchstone.errors import GateError
from touchstone.gate import rows
from touchstone.gate.checks import Verdict
from touchstone.gate.checks.comparison import SUPERIORITY_ERROR
from touchstone.gate.checks.sizes import AIMED_POWER, GAINS, spent
from touchstone.gate.disagreements import short_slices
from touchstone.gate.labels import union
from touchstone.gate.labels.sample import WHOLE, Mask
from touchstone.gate.record import ASKED, FILE, ROWS, Decision, load_decision
from touchstone.settings.gates import ERROR_RATE, Gates
from touchstone.statistics import Floats

FEWEST_SHARE = 0.05
"""Of the prompts that an open part has, at least so many more are asked for: one prompt closes nothing, though the
normal approximation may say so of a part that another kind of interval has left open."""


@dataclass(frozen=True, slots=True)
class Target:
    """What must be shown: that the mean difference of credits lies above a border.

    Attributes:
        border: what the lower bound must exceed.
        alpha: the error that the next look may make.
        gains: true gains at which the need is listed.
    """

    border: float
    alpha: float
    gains: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OpenPart:
    """One open part of a decision: the whole, or a critical slice.

    Attributes:
        gains: differences of credits so far, one per cluster of the holdout and of earlier samples.
        in_holdout: the holdout's among them.
        share: of new labelled prompts that come to lie in the holdout, and in the slice.
        fewest: prompts that are missing before it is judged at all.
    """

    name: str
    target: Target
    gains: Floats
    in_holdout: Floats
    share: float
    fewest: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """What one part of a decision needs at one true gain, for a power of 80%.

    Attributes:
        gain: the true difference of credits that is assumed.
        observed: whether that is what was seen so far.
        prompts: more prompts of the pool (of its slice).
        labels: disagreements among these, which are all that people have to label.
        otherwise: labelled prompts that would have to be added to the data instead, of which only some reach the
            holdout; None where the holdout has none of the slice.
    """

    part: str
    gain: float
    observed: bool
    prompts: int
    labels: int
    otherwise: int | None


def open_decision(state: Path, name: str, candidate: str, champion: str) -> Decision:
    """The last decision about the two artifacts, which must be open.

    Args:
        state: keeps the decisions.
        candidate, champion: digests of the artifacts.

    Raises:
        GateError: there is none, or it isn't INCONCLUSIVE.
    """
    folders: dict[int, Path] = {}
    for path in (state / "decisions").glob(f"[!.]*/{FILE}"):
        if path.parent.name.startswith("work-"):
            continue
        values = json.loads(path.read_text(encoding="utf-8"))
        digests = values["digests"]
        if (values["name"], digests["artifact"], digests["champion"]) == (name, candidate, champion):
            folders[values["ledger"]["sequence"]] = path.parent
    if not folders:
        raise GateError(
            f"the candidate {candidate[:12]} has not been judged against the champion {champion[:12]} of {name}; run "
            "`touchstone judge`: it says what is open, and the questions follow from that"
        )
    decision = load_decision(folders[max(folders)])
    if decision.verdict is not Verdict.INCONCLUSIVE:
        raise GateError(f"there is nothing to ask: the last verdict is {decision.verdict}. {decision.summary}")
    return decision


def open_parts(decision: Decision, limits: Gates, reaches: float) -> list[OpenPart]:
    """The whole where the check `champion` is undecided, and the critical slices that are.

    Args:
        reaches: share of new labelled prompts that come to lie in the holdout.
    """
    # Read the decision's evidence: the holdout's rows, and what was asked before.
    facts = decision.record.facts
    held_out = rows.read(decision.path / ROWS, "holdout")
    candidate, champion = held_out.candidate(facts.calibration_map), held_out.champion(facts.champion_map)
    assert champion is not None  # noqa: S101  the decision is about one
    path = decision.path / ASKED
    asked = union.read(path) if path.exists() else None
    # The whole.
    parts = []
    in_holdout = candidate.gains(champion)
    statuses = {check.name: check.status for check in decision.checks}
    if statuses["champion"] == "undecided":
        target = champion_target(limits, facts.look + 1)
        sample = union.asked_whole(asked, limits) if asked is not None else None
        gains = in_holdout if sample is None else np.concatenate([in_holdout, sample.gains])
        parts.append(OpenPart(WHOLE, target, gains, in_holdout, reaches))
    # The slices.
    masks = held_out.slices(limits.slices)
    sample = union.asked_by_slice(asked, limits) if asked is not None else None
    for name in sorted(short_slices(decision.checks) & set(limits.critical_slices)):
        mask = masks.get(name, np.zeros(len(candidate.differences), dtype=bool))
        inside = candidate.where(mask)
        in_slice = inside.gains(champion.where(mask)) if inside.decided.any() else np.zeros(0)
        sampled = sample.gains[sample.masks[name]] if sample is not None and name in sample.masks else np.zeros(0)
        gains, share = np.concatenate([in_slice, sampled]), reaches * len(in_slice) / len(in_holdout)
        fewest = max(0, limits.min_slice_clusters - len(gains))
        parts.append(OpenPart(name, slice_target(limits), gains, in_slice, share, fewest))
    return parts


def champion_target(limits: Gates, look: int) -> Target:
    """What the check `champion` asks for at a look."""
    if limits.policy == "refresh":
        return Target(-limits.refresh_margin, spent(ERROR_RATE, look), (0.0,))
    return Target(0.0, spent(SUPERIORITY_ERROR, look), GAINS)


def slice_target(limits: Gates) -> Target:
    """What is asked of a critical slice: no loss beyond the margin."""
    return Target(-limits.slice_margin, ERROR_RATE, (0.0,))


def needs_of(part: OpenPart, disagreements: Mask, start: int) -> list[Need]:
    """What a part needs at the gains of its target, and at the observed one where that lies above the border.

    Args:
        disagreements: of the pool's pairs in this part, in their order.
        start: how many of them the decision has counted already.
    """
    rate = float(disagreements.mean())
    fewest = max(part.fewest, math.ceil(FEWEST_SHARE * len(part.gains)))
    gains = [(gain, False) for gain in part.target.gains]
    if len(part.gains) and (observed := float(part.gains.mean())) > part.target.border:
        gains.append((observed, True))
    needs = []
    for gain, is_observed in gains:
        # d of one pair a prompt is 0 or as good as 1: its variance is the share of disagreements, and larger than that
        # of a holdout that averages several pairs a prompt.
        more = _more(part, gain, math.sqrt(rate))
        if more is None:
            continue
        prompts = max(fewest, more)
        at_hand = disagreements[start : start + prompts]
        labels = int(at_hand.sum()) + math.ceil((prompts - len(at_hand)) * rate)
        in_holdout = _more(part, gain, float(part.in_holdout.std())) if len(part.in_holdout) and part.share else None
        otherwise = None if in_holdout is None else math.ceil(max(fewest, in_holdout) / part.share)
        needs.append(Need(part.name, gain, is_observed, prompts, labels, otherwise))
    return needs


def _more(part: OpenPart, gain: float, deviation: float) -> int | None:
    """How many more prompts with this true gain and deviation close a part in four of five cases; None: no number."""
    seen, border = part.gains, part.target.border
    mean, spread = (float(seen.mean()), float(seen.std())) if len(seen) else (border, 0.0)
    return statistics.more_clusters(
        len(seen),
        mean - border,
        spread,
        gain - border,
        alpha=part.target.alpha,
        power=AIMED_POWER,
        new_deviation=deviation,
    )


def wanted_prompts(part: str, needs: Sequence[Need], limits: Gates) -> int:
    """More prompts that a part is given by default; 0 where nothing is open.

    Superiority: at the observed gain, but at none smaller than is worth a release. A critical slice, and the whole of
    a refresh, must be shown to be no worse: there the true difference is taken to be 0.
    """
    mine = [need for need in needs if need.part == part]
    if part == WHOLE and limits.policy != "refresh":
        mine = [need for need in mine if need.gain >= limits.smallest_effect]
        mine.sort(key=lambda need: not need.observed)
    return mine[0].prompts if mine else 0
