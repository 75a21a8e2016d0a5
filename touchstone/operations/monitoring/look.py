"""One look at the served champion: canary and traffic, signals, decision, history.

    window = look(root, settings)
    print(words_of(window))

Missing data is a gap and never green: where the endpoint doesn't answer there is no window, but an error.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from touchstone.errors import DataError, ServingError
from touchstone.gate.record import load_decision
from touchstone.groups import read_parquet
from touchstone.model import card
from touchstone.operations.monitoring import canary, history
from touchstone.operations.monitoring.canary import Base
from touchstone.operations.monitoring.decision import decide
from touchstone.operations.monitoring.drift import Signal, Traffic, drift, warning_limit
from touchstone.operations.monitoring.history import Judged, Window
from touchstone.operations.monitoring.page import write_page
from touchstone.pipeline import lease
from touchstone.registry import Registry, Version
from touchstone.runtime.files import write_json
from touchstone.runtime.parallel import one_algebra_thread
from touchstone.serving import Client, Reply, samples
from touchstone.settings import Settings, load_project
from touchstone.settings.monitor import Monitor

PATIENCE_SECONDS = 10.0
"""For an endpoint that is busy, or swaps."""

FIRST = "1970-01-01T00:00:00+00:00"


@one_algebra_thread()
def look(root: Path, settings: Settings, *, canary_file: Path | None = None, traffic: Path | None = None) -> Window:
    """Look at what the endpoint serves, decide, and write it down.

    Args:
        canary_file: judged groups; default: the newest canary set.
        traffic: an endpoint's store of samples; default: the settings' one, if there is one.

    Raises:
        BusyError: another process is looking.
        DataError: there is no canary set.
        ServingError: the endpoint doesn't answer, or serves what isn't registered.
        LedgerError: the history is damaged.
    """
    name = settings.name
    with lease.hold(lease.folder_of(root), f"monitor-{name}", f"a look at {name}"):
        return _look(root, settings, canary_file or canary.find(root), traffic)


def look_at_project() -> tuple[str, Window]:
    """The present project's model, and a look at it.

    Raises:
        TouchstoneError: as `look`.
    """
    root, settings = load_project()
    return settings.name, look(root, settings)


def _look(root: Path, settings: Settings, canary_file: Path, traffic: Path | None) -> Window:
    name, registry = settings.name, Registry.open(root)
    entries = history.read(root, name)
    now = history.now()

    # The labelled prompts, through the endpoint. The first look at one counts.
    groups = read_parquet(canary_file)
    if not groups:
        raise DataError(f"{canary_file} holds no group")
    with Client(url_of(settings), patience=PATIENCE_SECONDS) as client:
        reply = canary.ask(client, groups)
    version = _served(registry, name, reply)
    earlier = history.windows_of(entries, version.digest)
    seen = [judged for window in earlier for judged in window.judged]
    known = {judged.id for judged in seen}
    folder = registry.download(version)
    prompts = canary.judge(groups, reply, card.read(folder).calibration.map)
    fresh = [Judged(id=p.id, credit=p.credit, residual=p.residual) for p in prompts if p.id not in known]
    stream = [*seen, *fresh]
    credits = [[judged.credit for judged in look] for look in (*(window.judged for window in earlier), fresh)]
    chosen = settings.monitor
    signals: list[Signal] = [
        canary.accuracy(credits, base_of(registry, version), chosen),
        canary.calibration([p.residual for p in stream], chosen, fresh=bool(fresh)),
    ]

    # Served traffic since the last window that had enough.
    store = traffic or samples.folder_of(root, settings.serve.samples)
    since = earlier[-1].traffic_until if earlier else FIRST
    span, lines = _traffic(store, version.digest, since)
    if lines or store is not None:
        of_traffic = _drift(root, name, version, lines, chosen)
        signals += of_traffic
        if all(signal.state == "not enough data" for signal in of_traffic) and not _is_baseline(of_traffic):
            span = (span[0], span[0])

    # Decide, and write it down.
    windows = [window.read_signals() for window in earlier]
    retrains, notes = history.retrains_of(entries), _notes(registry, name, version)
    decision = decide([*windows, tuple(signals)], retrains, datetime.fromisoformat(now), chosen, notes)
    window = history.append(
        root,
        name,
        history.entry_of(
            decision,
            signals,
            version=version.version,
            model_digest=version.digest,
            judged=fresh,
            traffic=span,
            prompts=len(lines),
            at=now,
        ),
    )
    assert isinstance(window, Window)  # noqa: S101 - for the type checker: it is what was handed in
    entries = [*entries, window]
    history.write_metrics(root, name, window, entries)
    write_page(root, name, entries, chosen)
    return window


def url_of(settings: Settings) -> str:
    """Where the endpoint listens."""
    host = settings.serve.host
    return settings.monitor.url or f"http://{f'[{host}]' if ':' in host else host}:{settings.serve.port}"


def base_of(registry: Registry, version: Version) -> Base | None:
    """The accuracy that a version was judged with on holdout and confirm together; None where it was not."""
    folder = registry.evidence(version, "decision")
    if folder is None:
        return None
    metrics = load_decision(folder).record.metrics
    return Base.of([judged for judged in (metrics.holdout, metrics.confirm) if judged is not None])


def _served(registry: Registry, name: str, reply: Reply) -> Version:
    version = registry.version(name, reply.version)
    if version is None or version.digest != reply.digest:
        raise ServingError(
            f"the endpoint serves version {reply.version} with the digest {reply.digest[:12]}, which is not "
            f"registered as {name}; point monitor.url at the endpoint of {name}"
        )
    return version


def _notes(registry: Registry, name: str, version: Version) -> list[str]:
    """Whether something else than the champion is served."""
    champion = registry.aliases(name).get("champion")
    if champion == version.version:
        return []
    return [f"the endpoint serves version {version.version}, and the champion is {champion or 'none'}"]


def _traffic(store: Path | None, digest: str, since: str) -> tuple[tuple[str, str], list[dict[str, Any]]]:
    """What a store holds of one artifact's answers after a moment, and from when until when."""
    lines: list[dict[str, Any]] = []
    if store is not None and store.is_dir():
        for path in samples.part_files(store):
            with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
                parsed = [json.loads(line) for line in file if line.endswith("\n")]
                lines += [line for line in parsed if line["digest"] == digest and line["at"] > since]
    return (since, max((line["at"] for line in lines), default=since)), lines


def _drift(
    root: Path, name: str, version: Version, lines: Sequence[dict[str, Any]], settings: Monitor
) -> tuple[Signal, ...]:
    """Compare with the first traffic under this version; take that down where there is none yet."""
    path = history.file_of(root, name, f"-{version.digest[:12]}-baseline.json")
    window = Traffic.of(lines)
    if not path.exists():
        if len(window.scores) >= settings.baseline_samples:
            write_json(path, window.to_json())
            words = f"{len(window.scores):,} prompts are the baseline of later windows"
            return tuple(Signal(s.name, s.state, None, None, words) for s in drift(None, window, None, settings))
        return drift(None, window, None, settings)
    baseline = Traffic.from_json(json.loads(path.read_text(encoding="utf-8")))
    if len(window.scores) < settings.window_samples:
        return drift(baseline, window, None, settings)
    limit = warning_limit(baseline.scores, len(window.scores), settings.drift_warning)
    return drift(baseline, window, limit, settings)


def _is_baseline(signals: Sequence[Signal]) -> bool:
    return any("are the baseline" in signal.what for signal in signals)
