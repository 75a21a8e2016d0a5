"""OK, WARN or RETRAIN: two breached windows in a row, a cool-down, a budget, one at a time. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from touchstone.operations.monitoring.drift import Signal
from touchstone.settings.monitor import Monitor

MOST_DOUBLINGS = 5
ADD_UP = frozenset({"scores"})
"""Signals of which two warnings in a row are a breach."""
WEEK = timedelta(days=7)


class State(StrEnum):
    """What a look at the champion ends with."""

    OK = "OK"
    WARN = "WARN"
    RETRAIN = "RETRAIN"


@dataclass(frozen=True, slots=True)
class Retrain:
    """A retrain that monitoring asked for.

    Attributes:
        outcome: promoted, blocked, nothing or failed; None while it is under way, or was killed.
    """

    begun: datetime
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, and why."""

    state: State
    reasons: tuple[str, ...]


def decide(
    windows: Sequence[Sequence[Signal]],
    retrains: Sequence[Retrain],
    now: datetime,
    settings: Monitor,
    notes: Sequence[str] = (),
) -> Decision:
    """What the windows under the present champion, the last of them the present one, come to.

    A window in which a signal had not enough data neither breaches it nor ends its row of breaches: a gap isn't green.

    Args:
        retrains: under any champion, oldest first.
        notes: what else somebody should know, though no retrain would mend it.
    """
    # What is wrong now, and for how many windows in a row.
    present = windows[-1] if windows else ()
    rows = {signal.name: _row([_of(window, signal.name) for window in windows]) for signal in present}
    wrong = [signal for signal in present if signal.state in ("warning", "breached")]
    reasons = [*notes, *(f"{signal.name}: {signal.what}" for signal in wrong)]
    longest = max((rows[signal.name] for signal in wrong), default=0)
    if longest < settings.windows:
        if longest:
            reasons.append(f"breached in {longest} of {settings.windows} windows in a row")
        return Decision(State.WARN if reasons else State.OK, tuple(reasons))

    # It is reason to train again, unless something speaks against it.
    reasons.append(f"breached in {longest} windows in a row")
    against = held_back(retrains, now, settings)
    return Decision(State.WARN, (*reasons, against)) if against else Decision(State.RETRAIN, tuple(reasons))


def held_back(retrains: Sequence[Retrain], now: datetime, settings: Monitor) -> str | None:
    """Why no retrain may begin now; None where one may."""
    if not retrains:
        return None
    if retrains[-1].outcome is None:
        return f"a retrain of {retrains[-1].begun:%Y-%m-%d %H:%M} has not ended"
    blocked = 0
    while blocked < len(retrains) and retrains[-1 - blocked].outcome != "promoted":
        blocked += 1
    hours = settings.cool_down_hours * 2 ** min(blocked, MOST_DOUBLINGS)
    until = retrains[-1].begun + timedelta(hours=hours)
    if now < until:
        after = f" after {blocked} without a promotion" if blocked else ""
        return f"cool-down until {until:%Y-%m-%d %H:%M} ({hours:g} hours{after})"
    recent = sum(now - retrain.begun < WEEK for retrain in retrains)
    if recent >= settings.retrains_per_week:
        return f"{recent} retrains within a week, which is the budget"
    return None


def _of(window: Sequence[Signal], name: str) -> Signal | None:
    return next((signal for signal in window if signal.name == name), None)


def _row(signals: Sequence[Signal | None]) -> int:
    """How many windows in a row a signal was breached up to the last: by itself, or by a second warning in a row."""
    known = [signal for signal in signals if signal is not None and signal.state != "not enough data"]
    row = 0
    for place, signal in enumerate(known):
        again = place > 0 and known[place - 1].state == "warning" and signal.name in ADD_UP
        row = row + 1 if signal.state == "breached" or (signal.state == "warning" and again) else 0
    return row
