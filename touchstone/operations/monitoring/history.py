"""What monitoring saw and decided, window by window: a ledger, a table, and metrics for Prometheus.

runs/monitor/NAME.jsonl      one entry a window, one when a retrain begins, one when it ends
runs/monitor/NAME.prom       the last window, for node_exporter's textfile collector
runs/monitor/NAME.html       the page
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from touchstone.operations.monitoring.decision import Decision, Retrain, State
from touchstone.operations.monitoring.drift import Signal
from touchstone.pipeline.runs import folder_of
from touchstone.registry import check_name
from touchstone.runtime import ledger
from touchstone.runtime.files import write_atomic


class _Part(BaseModel):
    """A part of an entry: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Entry(ledger.Event):
    """What all entries have.

    Attributes:
        at: UTC, ISO 8601.
    """

    at: str

    @property
    def time(self) -> datetime:
        """`at` as a value."""
        return datetime.fromisoformat(self.at)


class SignalSeen(_Part):
    """A `Signal` as it is written."""

    name: str
    state: Literal["ok", "warning", "breached", "not enough data"]
    value: float | None
    limit: float | None
    what: str


class Judged(_Part):
    """A labelled prompt that was scored for the first time under this champion; as `canary.JudgedPrompt`."""

    id: str
    credit: float
    residual: float


class Window(Entry):
    """One look at the champion.

    Attributes:
        version, model_digest: what the endpoint served.
        judged: labelled prompts that were new.
        traffic_from, traffic_until: the served traffic that was looked at, by the endpoint's clock; a window that had
            too little ends where it began, and the next one begins there too.
        prompts: of served traffic.
        state, reasons: what was decided.
    """

    event: Literal["window"] = "window"
    version: int
    model_digest: str
    judged: tuple[Judged, ...]
    traffic_from: str
    traffic_until: str
    prompts: int
    signals: tuple[SignalSeen, ...]
    state: Literal["OK", "WARN", "RETRAIN"]
    reasons: tuple[str, ...]

    def read_signals(self) -> tuple[Signal, ...]:
        """The signals as they were decided on."""
        return tuple(Signal(s.name, s.state, s.value, s.limit, s.what) for s in self.signals)


class RetrainBegun(Entry):
    """A retrain is asked for: entered before it begins.

    Attributes:
        window: sequence of the window that asked.
    """

    event: Literal["retrain_begun"] = "retrain_begun"
    window: int


class RetrainEnded(Entry):
    """How it ended.

    Attributes:
        begun: sequence of the entry that it ends.
    """

    event: Literal["retrain_ended"] = "retrain_ended"
    begun: int
    outcome: Literal["promoted", "blocked", "nothing", "failed"]


MonitorEntry = Annotated[Window | RetrainBegun | RetrainEnded, Field(discriminator="event")]
_KINDS: TypeAdapter[MonitorEntry] = TypeAdapter(MonitorEntry)


def file_of(root: Path, name: str, suffix: str = ".jsonl") -> Path:
    """Where what is known of a model is kept."""
    check_name(name)
    return folder_of(root) / "monitor" / f"{name}{suffix}"


def now() -> str:
    """This second, as entries have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(root: Path, name: str) -> list[MonitorEntry]:
    """All entries, oldest first.

    Raises:
        LedgerError: the chain is broken.
    """
    return ledger.read_events(file_of(root, name), _KINDS)


def append(root: Path, name: str, entry: MonitorEntry) -> MonitorEntry:
    """Write an entry; returned as written.

    Raises:
        LedgerError: the chain is broken, or the file can't be written.
    """
    return ledger.append_event(file_of(root, name), _KINDS, entry)


def windows_of(entries: Sequence[MonitorEntry], model_digest: str) -> list[Window]:
    """The windows under one champion: only they are compared with one another."""
    return [entry for entry in entries if isinstance(entry, Window) and entry.model_digest == model_digest]


def retrains_of(entries: Sequence[MonitorEntry]) -> list[Retrain]:
    """Retrains that monitoring asked for, oldest first."""
    outcomes = {entry.begun: entry.outcome for entry in entries if isinstance(entry, RetrainEnded)}
    return [Retrain(e.time, outcomes.get(e.sequence)) for e in entries if isinstance(e, RetrainBegun)]


def unfinished(entries: Sequence[MonitorEntry]) -> RetrainBegun | None:
    """The retrain that has begun and not ended; None where there is none."""
    ended = {entry.begun for entry in entries if isinstance(entry, RetrainEnded)}
    return next((e for e in reversed(entries) if isinstance(e, RetrainBegun) and e.sequence not in ended), None)


def table(entries: Sequence[MonitorEntry], most: int = 30) -> str:
    """The last windows as aligned plain text."""
    windows = [entry for entry in entries if isinstance(entry, Window)][-most:]
    begun = {entry.window: entry.sequence for entry in entries if isinstance(entry, RetrainBegun)}
    outcomes = {entry.begun: entry.outcome for entry in entries if isinstance(entry, RetrainEnded)}
    lines = [f"{'when (UTC)':<17}{'version':>8}{'labelled':>10}{'prompts':>9}{'accuracy':>10}{'drift':>8}  state"]
    for window in windows:
        values = {signal.name: signal.value for signal in window.signals}
        accuracy, distance = values.get("accuracy"), values.get("scores")
        words: str = window.state
        if window.sequence in begun:
            words += f", retrain: {outcomes.get(begun[window.sequence], 'not ended')}"
        lines.append(
            f"{window.time:%Y-%m-%d %H:%M} {window.version:>8}{len(window.judged):>10,}{window.prompts:>9,}"
            f"{'' if accuracy is None else f'{accuracy:.1%}':>10}{'' if distance is None else f'{distance:.3f}':>8}"
            f"  {words}{': ' + window.reasons[0] if window.reasons else ''}"
        )
    return "\n".join(lines)


def words_of(window: Window) -> str:
    """One window in full."""
    width = max(len(signal.name) for signal in window.signals)
    lines = [f"{signal.name:<{width}}  {signal.state:<15}  {signal.what}" for signal in window.signals]
    return "\n".join([f"{window.state}: version {window.version}", *(f"  {line}" for line in lines), *window.reasons])


def metrics(name: str, window: Window, retrains: int) -> str:
    """The last window in Prometheus' text format."""
    label = f'model="{name}"'
    states = {"ok": 0, "warning": 1, "breached": 2}
    lines = _metric("state", "0 OK, 1 WARN, 2 RETRAIN", {label: list(State).index(State(window.state))})
    lines += _metric("last_look_timestamp_seconds", "When the champion was seen.", {label: window.time.timestamp()})
    lines += _metric("version", "The version that was served.", {label: window.version})
    lines += _metric("retrains_total", "Retrains that monitoring asked for.", {label: retrains}, kind="counter")
    known = {f'{label},signal="{s.name}"': s for s in window.signals if s.state in states}
    lines += _metric("signal_state", "0 ok, 1 warning, 2 breached.", {k: states[s.state] for k, s in known.items()})
    numbers = {key: signal.value for key, signal in known.items() if signal.value is not None}
    lines += _metric("signal_value", "The number that is compared.", numbers)
    return "\n".join(lines) + "\n"


def write_metrics(root: Path, name: str, window: Window, entries: Sequence[MonitorEntry]) -> None:
    """Write them where a collector reads."""
    write_atomic(file_of(root, name, ".prom"), metrics(name, window, len(retrains_of(entries))))


def _metric(name: str, words: str, values: dict[str, float], kind: str = "gauge") -> list[str]:
    full = f"touchstone_monitor_{name}"
    samples = [f"{full}{{{labels}}} {value!r}" for labels, value in values.items()]
    return [f"# HELP {full} {words}", f"# TYPE {full} {kind}", *samples]


def entry_of(
    decision: Decision, signals: Sequence[Signal], *, version: int, model_digest: str, judged: Sequence[Judged],
    traffic: tuple[str, str], prompts: int, at: str,
) -> Window:  # fmt: skip
    """A window that is about to be written."""
    seen = tuple(SignalSeen(name=s.name, state=s.state, value=s.value, limit=s.limit, what=s.what) for s in signals)
    return Window(
        at=at,
        version=version,
        model_digest=model_digest,
        judged=tuple(judged),
        traffic_from=traffic[0],
        traffic_until=traffic[1],
        prompts=prompts,
        signals=seen,
        state=decision.state.value,
        reasons=decision.reasons,
    )
