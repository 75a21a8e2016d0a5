"""Can the scores be believed? Whole and finite, reproducible, untouched by training, and the same when served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from touchstone import statistics
from touchstone.gate.checks.check import Check, Details, Status
from touchstone.gate.checks.pairs import Pairs
from touchstone.model.card import Centering
from touchstone.model.scores import tolerance
from touchstone.settings.gates import Gates
from touchstone.statistics import Floats


class Scored(Protocol):
    """A score as the endpoint and the offline scorer both give it."""

    @property
    def reward(self) -> float: ...
    @property
    def centered(self) -> float: ...
    @property
    def truncated(self) -> bool: ...


def integrity(
    rewards: Floats,
    expected: int,
    pairs: Pairs,
    limits: Gates,
    *,
    filtered: int = 0,
    equal_once_cut: int = 0,
    truncated: int = 0,
    may_tie: bool = False,
) -> Check:
    """Whether the scores can be believed at all: every text scored, finite, with a spread, few ties.

    Args:
        rewards: one per scored completion, shape (texts,).
        expected: how many completions the set holds.
        filtered: judged pairs left out by a declared rule.
        equal_once_cut: judged pairs left out because the model sees the same tokens on both sides.
        truncated: completions over the token limit: shown.
        may_tie: scores are verdicts of a judge, which may find neither side better.
    """
    broken = int((~np.isfinite(rewards)).sum())
    usable = len(rewards) > 0 and not broken and bool(np.isfinite(pairs.differences).all())
    # Rewards near the end of float's range overflow here; a spread that isn't finite fails below.
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(np.std(rewards)) if usable else math.nan
    tied = float((pairs.differences[pairs.decided] == 0).mean()) if usable and pairs.decided.any() else math.nan
    filtered += equal_once_cut
    left_out = filtered / max(1, filtered + len(pairs.differences))
    details: Details = {
        "expected": expected,
        "scored": len(rewards),
        "filtered_share": left_out,
        "spread": spread if math.isfinite(spread) else None,
        "tie_share": tied if math.isfinite(tied) else None,
        "distinct_share": len(np.unique(rewards)) / len(rewards) if usable else None,
        "truncated": truncated,
        **({"equal_once_cut": equal_once_cut} if equal_once_cut else {}),
    }
    cut = f" {equal_once_cut:,} pairs are equal once cut, and left out." if equal_once_cut else ""
    status: Status = "fail"
    if len(rewards) != expected:
        reason = f"{len(rewards)} of {expected} texts were scored; every text must be."
    elif broken:
        reason = f"{broken} of {len(rewards)} scores are not finite; none may be."
    elif not math.isfinite(spread) or not math.isfinite(tied):
        reason = (
            "The scores have no usable spread: a difference or their deviation is not finite, or no pair is decided."
        )
    elif statistics.relative_spread(float(rewards.mean()), spread) <= limits.min_spread:
        reason = f"The scores' standard deviation is {spread:.2g}: the model says the same of every text."
    elif left_out > limits.max_filtered_share:
        reason = f"{left_out:.1%} of the pairs were left out; at most {limits.max_filtered_share:.1%} may be.{cut}"
    elif tied > limits.max_tie_share and not may_tie:
        reason = f"The model gives both texts the same score in {tied:.1%} of the pairs."
    else:
        status = "warn" if tied > limits.warn_tie_share and not may_tie else "pass"
        reason = f"All {expected} texts have a finite score; {tied:.1%} of the pairs tie.{cut}"
    return Check("integrity", status, reason, float(broken), None, 0.0, len(rewards), details=details)


def _tolerance(precision: str, spread: float, rewards: Floats, limits: Gates) -> float:
    """How far a score may move when nothing but batching changes."""
    size = float(np.abs(rewards).max())
    return tolerance(precision, spread, size, fp32=limits.reload_tolerance, bf16=limits.reload_tolerance_bf16)


def reload(reference: Floats, again: Mapping[str, Floats], precision: str, spread: float, limits: Gates) -> Check:
    """Whether fresh processes give the same scores whatever the batches and the order.

    Args:
        reference: rewards of some texts as they entered the decision, shape (texts,).
        again: rewards of the same texts from other processes, by what was different there.
        precision: fp32 or bf16.
        spread: standard deviation of the set's rewards.
    """
    if not again or not len(reference):
        raise ValueError("nothing was scored a second time")
    moves: dict[str, float] = {}
    flips = 0
    for way, rewards in again.items():
        if rewards.shape != reference.shape or not np.isfinite(rewards).all() or not np.isfinite(reference).all():
            raise ValueError(f"scoring {way} gave other texts or scores that are not finite")
        moves[way] = float(np.abs(rewards - reference).max())
        gaps = reference[:, None] - reference[None, :]
        clear = np.abs(gaps) > limits.sign_gap_bf16 * spread
        flips += int((clear & (np.sign(gaps) != np.sign(rewards[:, None] - rewards[None, :]))).sum()) // 2
    limit = _tolerance(precision, spread, reference, limits)
    worst = max(moves, key=lambda way: moves[way])
    passed = moves[worst] <= limit and (precision == "fp32" or flips == 0)
    reason = f"Scored again in fresh processes ({', '.join(again)}), no score moved by more than {moves[worst]:.2g}."
    if not passed:
        reason = (
            f"Scores depend on how they are computed: {worst} moved one by {moves[worst]:.2g}, at most {limit:.2g}"
        )
        reason += f" may be; {flips} clear pairs changed their order." if flips else " may be."
    details: Details = {
        "sign_flips": flips,
        **{f"moved, {w}": m for w, m in moves.items()},
    }
    status: Status = "pass" if passed else "fail"
    return Check("reload", status, reason, moves[worst], None, limit, len(reference), details=details)


def shared_prompts(train: set[str], others: Mapping[str, set[str]]) -> dict[str, int]:
    """How many of the training set's prompts (by `normalised_prompt`) stand in each other set.

    Raises:
        ValueError: a set is empty: nothing was compared.
    """
    for name, prompts in {"train": train, **others}.items():
        if not prompts:
            raise ValueError(f"the set {name} holds no prompt to compare")
    return {name: len(train & prompts) for name, prompts in others.items()}


def leakage(
    shared: Mapping[str, int],
    near: Mapping[str, int],
    swapped: int,
    champion_shared: int | None,
    champion_near: int | None,
    *,
    first: bool,
    train: int,
    adopted: bool,
    limits: Gates,
) -> Check:
    """Whether any prompt of the training set stands in another set, for the candidate and for the champion.

    Args:
        shared: from `shared_prompts`, for every other set; "holdout" and "confirm" must be there.
        near: by set, prompts that are near-duplicates of a training prompt; the same two must be there.
        swapped: pairs of the same two texts with opposite labels in the training set and in holdout or confirm.
        champion_shared, champion_near: prompts of holdout and confirm in the champion's training set, the same and
            nearly the same; None if nobody kept them.
        first: there is no champion.
        train: number of training prompts compared.
        adopted: the candidate was trained elsewhere, on what nobody here knows: then this project's training set says
            nothing about it, and the check has not run.
    """
    for counts in (shared, near):
        if not {"holdout", "confirm"} <= counts.keys() or train < 1:
            raise ValueError("a set whose prompts must be compared is missing")
    details: Details = {
        **{f"shared with {name}": count for name, count in shared.items()},
        **{f"nearly the same in {name}": count for name, count in near.items()},
        "pairs with the opposite label": swapped,
    }
    known = champion_shared is not None and champion_near is not None
    if not first:
        details["shared by the champion's training set"] = champion_shared
        details["nearly the same in the champion's training set"] = champion_near
    total = sum(shared.values()) + sum(near.values()) + swapped
    status: Status = "pass"
    reason = f"None of {train} training prompts stands in another set, the same or nearly the same."
    if total:
        found = [f"{name} {count}" for name, count in shared.items() if count]
        found += [f"{name} {count} nearly the same" for name, count in near.items() if count]
        found += [f"{swapped} pairs with the opposite label"] if swapped else []
        status = "fail"
        reason = f"Training prompts stand in other sets too: {', '.join(found)}. The evidence isn't independent."
    elif not first and (champion_shared or champion_near):
        status = "fail"
        reason = (
            f"The champion was trained on prompts of this holdout ({champion_shared or 0} the same, "
            f"{champion_near or 0} nearly): it can't be compared on it."
        )
    elif not first and not known:
        # Unknown leakage would favour the champion, so it can hold a promotion back but never cause one.
        status, reason = "warn", f"{reason} The champion's training prompts are not known."
    if adopted and status != "fail":
        status = "warn" if limits.allow_unknown_training else "not_run"
        reason = "The model was trained elsewhere: nobody here knows whether it has seen the prompts that judge it."
    return Check("leakage", status, reason, float(total), None, 0.0, train, details=details)


def holdout_use(uses: int, limits: Gates) -> Check:
    """Whether the holdout is still unspent; `uses` counts this one and all earlier ones of its lineage."""
    if uses < 1:
        raise ValueError("this use of the holdout is not in the ledger")
    limit = limits.max_holdout_uses
    reason = f"This is use {uses} of at most {limit} of this holdout."
    if uses > limit:
        reason += (
            " It is spent: choosing by it flatters every model. split.rotated=true puts the reference set's prompts, "
            "which judged none yet, in its place."
        )
    status: Status = "pass" if uses <= limit else "undecided"
    return Check("holdout_use", status, reason, float(uses), None, float(limit), uses)


def centering(stats: Centering, limits: Gates) -> Check:
    """Whether the statistics that give a score its meaning are there and precise enough."""
    ratio = stats.se_mean / stats.sd if stats.sd > 0 else math.inf
    details: Details = {
        "mean": stats.mean,
        "sd": stats.sd,
        "texts": stats.n,
        "prompts": stats.n_prompts,
        "truncated_share": stats.truncated_share,
    }
    status: Status = "fail"
    if statistics.relative_spread(stats.mean, stats.sd) <= limits.min_spread:
        reason = f"The reference rewards have a standard deviation of {stats.sd:.2g}: nothing can be centred by it."
        return Check("centering", status, reason, None, None, limits.max_centering_error, stats.n, details=details)
    reason = f"The reference mean rests on {stats.n} texts; its standard error is {ratio:.3f} standard deviations."
    if ratio <= limits.max_centering_error:
        status = "pass"
    else:
        reason += f" At most {limits.max_centering_error:g} may be: enlarge the reference set."
    return Check("centering", status, reason, ratio, None, limits.max_centering_error, stats.n, details=details)


def serving_parity(
    offline: Sequence[Scored],
    served: Sequence[Scored],
    *,
    precision: str,
    spread: float,
    limits: Gates,
    expected: Mapping[str, str],
    answered: Mapping[str, str],
) -> Check:
    """Whether an endpoint that loaded the candidate gives the scores that were judged.

    The mean centred reward of the served texts is compared with that of the same texts offline: over the whole
    reference set the latter is zero by construction, over a part of it only the difference means something.

    Args:
        offline, served: scores of the same golden texts in the same order.
        precision: fp32 or bf16, from the artifact's card.
        spread: sd of the reference rewards, from the card.
        expected, answered: what the endpoint must say of itself (version, digest, ...), and what it said.
    """
    if not offline or len(offline) != len(served):
        raise ValueError(f"{len(served)} of {len(offline)} golden texts were answered")
    ours = np.asarray([score.reward for score in offline], dtype=np.float64)
    theirs = np.asarray([score.reward for score in served], dtype=np.float64)
    centred = np.asarray([[o.centered, s.centered] for o, s in zip(offline, served, strict=True)], dtype=np.float64)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all() and np.isfinite(centred).all()):
        raise ValueError("a golden text has a score that is not finite")
    limit = _tolerance(precision, spread, ours, limits)
    worst = float(np.abs(ours - theirs).max())
    shift = float(abs(centred[:, 1].mean() - centred[:, 0].mean()))
    gaps = ours[:, None] - ours[None, :]
    inversions = int(((np.abs(gaps) > limit) & (gaps * (theirs[:, None] - theirs[None, :]) < 0)).sum()) // 2
    cut = sum(o.truncated != s.truncated for o, s in zip(offline, served, strict=True))
    strangers = sorted(key for key, value in expected.items() if answered.get(key) != value)
    faults = [
        (bool(strangers), f"the endpoint answers with another {' and '.join(strangers)}"),
        (worst > limit, f"a score differs by {worst:.2g}, at most {limit:.2g} may be"),
        (inversions > 0, f"{inversions} pairs change their order"),
        (cut > 0, f"{cut} texts are marked as truncated on one side only"),
        (shift > limits.max_centered_reference_mean, f"the mean centred reward is {shift:.3f} away"),
    ]
    found = [fault for broken, fault in faults if broken]
    reason = f"{len(served)} golden texts through the endpoint: no score differs by more than {worst:.2g}."
    if found:
        reason = "The endpoint does not serve what was judged: " + "; ".join(found) + "."
    details: Details = {"mean_shift": shift, "inversions": inversions, "truncation": cut}
    status: Status = "fail" if found else "pass"
    return Check("serving_parity", status, reason, worst, None, limit, len(served), details=details)
