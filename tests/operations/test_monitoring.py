"""Monitoring: what is a breach, when it calls for a retrain, and a look at a real endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.places import ROOT
from tests.worlds.registered import NAME, open_registry, publish, tiny_settings
from tests.worlds.sealed import make_tiny_groups
from tests.worlds.served import one_version, running, serve_settings
from touchstone import settings as settings_module
from touchstone.client import Client
from touchstone.errors import BusyError, LedgerError, PipelineError, ServingError
from touchstone.gate.record import Accuracy
from touchstone.groups import Completion, Message, make_group, write_parquet
from touchstone.operations.monitoring import canary, history, page
from touchstone.operations.monitoring import look as looking
from touchstone.operations.monitoring.canary import Base
from touchstone.operations.monitoring.decision import Retrain, State, decide
from touchstone.operations.monitoring.drift import (
    Signal,
    Traffic,
    drift,
    kolmogorov_smirnov,
    stability_index,
    warning_limit,
    wasserstein,
)
from touchstone.operations.monitoring.history import Judged, RetrainBegun, Window
from touchstone.operations.monitoring.look import look
from touchstone.operations.monitoring.retraining import asked, due
from touchstone.serving import temporary_endpoint
from touchstone.settings import Settings

MONITOR = settings_module.load(ROOT / "params.yaml").monitor
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BREACH, WARNING = ("breached", "warning")


def signal(state: str = "ok", name: str = "scores") -> Signal:
    return Signal(name, state, 0.1, 0.2, "as it is")  # type: ignore[arg-type]


def states(*windows: str, retrains: tuple[Retrain, ...] = (), **changed: Any) -> State:
    chosen = MONITOR.model_copy(update=changed)
    return decide([(signal(state),) for state in windows], retrains, NOW, chosen).state


# The decision.


def test_two_breached_windows_in_a_row_call_for_a_retrain() -> None:
    assert states("ok") is State.OK
    assert states(BREACH) is State.WARN
    assert states(BREACH, "ok", BREACH) is State.WARN
    assert states(BREACH, BREACH) is State.RETRAIN
    assert states(BREACH, BREACH, windows=3) is State.WARN


def test_a_gap_neither_breaches_nor_ends_a_row() -> None:
    gap = "not enough data"
    assert states(gap) is State.OK
    assert states(BREACH, gap) is State.OK
    assert states(BREACH, gap, BREACH) is State.RETRAIN


def test_a_second_warning_in_a_row_is_a_breach() -> None:
    assert states(WARNING) is State.WARN
    assert states(WARNING, WARNING) is State.WARN
    assert states(WARNING, WARNING, WARNING) is State.RETRAIN


def test_two_signals_that_are_breached_in_turn_are_no_row() -> None:
    windows = [(signal(BREACH, "scores"), signal("ok", "truncation")), (signal("ok"), signal(BREACH, "truncation"))]
    assert decide(windows, [], NOW, MONITOR).state is State.WARN


@pytest.mark.parametrize(
    ("outcomes", "hours", "words"),
    [
        (("promoted",), 23, "cool-down until 2026-03-01 13:00 (24 hours)"),
        (("blocked",), 47, "cool-down until 2026-03-01 13:00 (48 hours after 1 without a promotion)"),
        (("blocked", "nothing"), 95, "cool-down until 2026-03-01 13:00 (96 hours after 2 without a promotion)"),
        ((None,), 400, "has not ended"),
    ],
)
def test_what_holds_a_retrain_back(outcomes: tuple[str | None, ...], hours: int, words: str) -> None:
    begun = NOW - timedelta(hours=hours)
    retrains = [Retrain(begun - timedelta(days=9 * k), outcome) for k, outcome in enumerate(reversed(outcomes))][::-1]
    windows = [(signal(BREACH),)] * 2
    decision = decide(windows, retrains, NOW, MONITOR)
    assert decision.state is State.WARN
    assert words in decision.reasons[-1]
    later = NOW + timedelta(hours=2)
    assert outcomes == (None,) or decide(windows, retrains, later, MONITOR).state is State.RETRAIN


def test_the_budget_of_a_week_holds() -> None:
    retrains = tuple(Retrain(NOW - timedelta(days=days), "promoted") for days in (6, 2))
    assert states(BREACH, BREACH, retrains=retrains) is State.WARN
    assert states(BREACH, BREACH, retrains=retrains, retrains_per_week=3) is State.RETRAIN


# Signals.


def test_distances_are_those_of_scipy() -> None:
    generator = np.random.default_rng(1)
    first, second = np.sort(generator.normal(size=400)), np.sort(generator.normal(0.3, 1.2, 150))
    assert wasserstein(first, second) == pytest.approx(stats.wasserstein_distance(first, second))
    distance, chance = kolmogorov_smirnov(first, second)
    expected = stats.ks_2samp(first, second, method="asymp")
    assert distance == pytest.approx(expected.statistic)
    assert expected.pvalue <= chance <= 2 * expected.pvalue  # the limit, which is a little careful at these sizes
    assert stability_index(first, first) == 0


def traffic(generator: np.random.Generator, count: int, shift: float = 0.0, truncated: float = 0.02) -> Traffic:
    scores, lengths = generator.normal(shift, 1, count), generator.lognormal(5, 0.5, count)
    return Traffic(np.sort(scores), np.sort(lengths), np.sort(lengths), truncated, 0.0)


@pytest.mark.parametrize(
    ("shift", "truncated", "breached"),
    [(0.0, 0.02, set()), (0.35, 0.02, {"scores"}), (0.0, 0.2, {"truncation"}), (8.0, 0.02, {"scores", "saturation"})],
)
def test_what_has_drifted_is_named(shift: float, truncated: float, breached: set[str]) -> None:
    generator = np.random.default_rng(2)
    baseline, window = traffic(generator, 2000), traffic(generator, 1000, shift, truncated)
    limit = warning_limit(baseline.scores, 1000, MONITOR.drift_warning)
    signals = drift(baseline, window, limit, MONITOR)
    assert {signal.name for signal in signals if signal.state == "breached"} == breached


def test_longer_completions_are_a_breach_by_themselves() -> None:
    generator = np.random.default_rng(3)
    baseline, window = traffic(generator, 2000), traffic(generator, 1000)
    longer = Traffic(window.scores, window.characters * 1.5, window.prompt_characters, 0.02, 0.0)
    signals = drift(baseline, longer, 0.1, MONITOR)
    assert [signal.name for signal in signals if signal.state == "breached"] == ["completion length"]


def test_a_small_window_says_nothing() -> None:
    generator = np.random.default_rng(4)
    few, many = traffic(generator, 499), traffic(generator, 1000)
    assert {signal.state for signal in drift(many, few, 0.1, MONITOR)} == {"not enough data"}
    assert {signal.state for signal in drift(None, many, None, MONITOR)} == {"not enough data"}


def sample(prompt: str, *texts: str, centered: float = 0.0) -> dict[str, Any]:
    completions = [{"text": text, "centered": centered, "truncated": False} for text in texts]
    return {"prompt": [{"role": "user", "content": prompt}], "completions": completions}


def test_a_prompt_counts_once_however_often_it_is_sent() -> None:
    seen = Traffic.of([sample("a", "x", "y"), sample("a", "z"), sample("b", "long text", centered=-1.0)])
    assert seen.scores.tolist() == [-1.0, 0.0]
    assert seen.characters.tolist() == [1.0, 9.0]
    assert seen.repeated == pytest.approx(1 / 3)
    again = Traffic.from_json(json.loads(json.dumps(seen.to_json())))
    assert again.scores.tolist() == seen.scores.tolist()
    assert again.repeated == seen.repeated


def test_a_fall_of_accuracy_is_breached_and_chance_is_not() -> None:
    base = Base(0.82, 0.012)
    generator = np.random.default_rng(8)
    same, fallen = ([(generator.random(50) < mean).tolist() for _ in range(30)] for mean in (0.82, 0.74))
    assert canary.accuracy(same, base, MONITOR).state == "ok"
    assert canary.accuracy(fallen, base, MONITOR).state == "breached"
    assert canary.accuracy(fallen[:8], base, MONITOR).state == "not enough data"
    assert canary.accuracy(fallen, None, MONITOR).what == "no decision to compare with"
    assert canary.accuracy([*fallen, []], base, MONITOR).what == "none new"
    late = canary.accuracy([*same, *fallen], base, MONITOR)
    assert late.state == "breached"
    assert late.value is not None
    assert late.limit is not None
    assert late.value <= late.limit < 0.85
    assert re.search(r"in the last 1,\d\d0 of 3,000 prompts, 8\d\.\d% before", late.what)


def test_what_a_champion_was_judged_with_is_that_of_all_its_sets() -> None:
    holdout = Accuracy(accuracy=0.80, accuracy_low=0.78, accuracy_high=0.82)
    confirm = Accuracy(accuracy=0.86, accuracy_low=0.82, accuracy_high=0.90)
    both = Base.of([holdout, confirm])
    assert both is not None
    assert both.accuracy == pytest.approx(0.8 * 0.80 + 0.2 * 0.86)  # half the error is four times the precision
    assert both.error == pytest.approx(0.02 / 1.959964 * np.sqrt(0.8))
    assert Base.of([]) is None


def test_a_model_that_is_too_sure_is_breached() -> None:
    residuals = np.random.default_rng(9).choice([0.2, -0.8], 1500, p=[0.7, 0.3])
    found = canary.calibration(residuals, MONITOR)
    assert found.state == "breached"
    assert found.what.startswith("too sure by 1")
    assert canary.calibration(residuals - residuals.mean(), MONITOR).state == "ok"


# History.


def window(state: str = "OK", at: str = "2026-03-01T00:00:00+00:00", digest: str = "d") -> Window:
    return history.entry_of(
        decide([], [], NOW, MONITOR),
        [Signal("accuracy", "ok", 0.8, 0.75, "80.0% of 2 prompts")],
        version=1,
        model_digest=digest,
        judged=[Judged(id="a", credit=1.0, residual=0.2), Judged(id="b", credit=0.0, residual=-0.7)],
        traffic=(at, at),
        prompts=0,
        at=at,
    ).model_copy(update={"state": state})


def test_a_retrain_is_entered_before_it_begins_and_carried_out_once(tmp_path: Path) -> None:
    history.append(tmp_path, NAME, window("RETRAIN"))
    assert due(tmp_path, NAME)
    with pytest.raises(KeyboardInterrupt), asked(tmp_path, NAME):  # killed, as far as the history knows
        raise KeyboardInterrupt
    assert [retrain.outcome for retrain in history.retrains_of(history.read(tmp_path, NAME))] == [None]
    with asked(tmp_path, NAME) as note:
        assert note is not None
        with pytest.raises(BusyError, match="is under way"):
            asked(tmp_path, NAME).__enter__()
        note("promoted")
    assert [retrain.outcome for retrain in history.retrains_of(history.read(tmp_path, NAME))] == ["promoted"]
    with asked(tmp_path, NAME) as note:
        assert note is None
    history.append(tmp_path, NAME, window("RETRAIN"))
    with pytest.raises(PipelineError), asked(tmp_path, NAME):
        raise PipelineError("a stage failed")
    assert not due(tmp_path, NAME)
    assert [retrain.outcome for retrain in history.retrains_of(history.read(tmp_path, NAME))] == ["promoted", "failed"]


def test_the_history_is_a_table_a_page_and_metrics(tmp_path: Path) -> None:
    first = history.append(tmp_path, NAME, window("RETRAIN"))
    history.append(tmp_path, NAME, RetrainBegun(at=history.now(), window=first.sequence))
    entries = history.read(tmp_path, NAME)
    assert isinstance(first, Window)
    assert "80.0%" in history.table(entries)
    assert "RETRAIN, retrain: not ended" in history.table(entries)
    text = history.metrics(NAME, first, 1)
    assert f'touchstone_monitor_state{{model="{NAME}"}} 2' in text
    assert f'touchstone_monitor_signal_value{{model="{NAME}",signal="accuracy"}} 0.8' in text
    assert "# TYPE touchstone_monitor_retrains_total counter" in text
    html = page.write_page(tmp_path, NAME, entries, MONITOR).read_text()
    assert "<svg" in html
    assert "80.0% of 2 prompts" in html


def test_a_history_whose_end_was_cut_off_is_refused(tmp_path: Path) -> None:
    for _ in range(2):
        history.append(tmp_path, NAME, window())
    path = history.file_of(tmp_path, NAME)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(LedgerError, match="its end was cut off"):
        history.read(tmp_path, NAME)


# A look at an endpoint.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Settings]]:
    """A registry with a champion and an endpoint that serves it; the windows ask for few prompts."""
    root = tmp_path_factory.mktemp("served")
    registry = open_registry(root)
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    settings = tiny_settings()
    with temporary_endpoint(root, settings, NAME) as client:
        few = {"url": client.url, "first_prompts": 20, "window_samples": 30, "baseline_samples": 40}
        yield root, settings.model_copy(update={"monitor": MONITOR.model_copy(update=few)})


def write_samples(store: Path, digest: str, first: int, count: int, centered: float, minute: int) -> None:
    store.mkdir(exist_ok=True)
    generator = np.random.default_rng(first)
    lines = [
        {
            **sample(f"prompt {number}", "a text", centered=float(generator.normal(centered))),
            "digest": digest,
            "at": f"2026-03-01T00:{minute:02}:00+00:00",
        }
        for number in range(first, first + count)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (store / f"samples-{minute + 1}-1-1.jsonl").write_text(text)


@pytest.mark.slow
def test_looks_at_an_endpoint_come_to_a_retrain(served: tuple[Path, Settings], tmp_path: Path) -> None:
    root, settings = served
    version = open_registry(root).version(NAME, "champion")
    assert version is not None
    groups = make_tiny_groups(60, seed=7)
    write_parquet(tmp_path / "canary.parquet", groups[:30])
    store = tmp_path / "samples"

    # The first look: labelled prompts through the endpoint, and a baseline of traffic.
    write_samples(store, version.digest, 0, 50, 0.0, 0)
    first = look(root, settings, canary_file=tmp_path / "canary.parquet", traffic=store)
    states = {signal.name: signal.state for signal in first.signals}
    assert first.version == 1
    assert states["calibration"] != "not enough data"
    assert {signal.what for signal in first.signals if signal.name == "accuracy"} == {"no decision to compare with"}
    assert {signal.what for signal in first.signals if signal.name == "scores"} == {
        "50 prompts are the baseline of later windows"
    }

    # Few new ones: a gap that the next window goes on with.
    write_samples(store, version.digest, 100, 20, 3.0, 1)
    second = look(root, settings, canary_file=tmp_path / "canary.parquet", traffic=store)
    assert second.judged == ()
    assert {signal.state for signal in second.signals} == {"not enough data"}
    assert second.traffic_until == second.traffic_from == first.traffic_until

    # The policy writes what scores far higher: two windows of it.
    write_samples(store, version.digest, 200, 20, 3.0, 2)
    write_parquet(tmp_path / "canary.parquet", groups)
    third = look(root, settings, canary_file=tmp_path / "canary.parquet", traffic=store)
    assert third.prompts == 40
    assert 0 < len(third.judged) <= 30
    assert third.state == "WARN"
    write_samples(store, version.digest, 300, 40, 3.0, 3)
    fourth = look(root, settings, canary_file=tmp_path / "canary.parquet", traffic=store)
    assert fourth.state == "RETRAIN", fourth.reasons
    assert due(root, NAME)
    assert history.file_of(root, NAME, ".prom").read_text() == history.metrics(NAME, fourth, 0)
    assert "RETRAIN" in history.file_of(root, NAME, ".html").read_text()


def test_without_an_endpoint_there_is_no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "PATIENCE_SECONDS", 0.0)
    open_registry(tmp_path)
    write_parquet(tmp_path / "canary.parquet", make_tiny_groups(3))
    nowhere = MONITOR.model_copy(update={"url": "http://127.0.0.1:9"})
    settings = tiny_settings().model_copy(update={"monitor": nowhere})
    with pytest.raises(ServingError):
        look(tmp_path, settings, canary_file=tmp_path / "canary.parquet")
    assert history.read(tmp_path, NAME) == []


def test_the_canary_asks_about_its_completions_as_they_are(tmp_path: Path) -> None:
    group = make_group(
        prompt=[Message("user", "2+2?")],
        completions=[Completion("4"), Completion("It is five.")],
        comparisons=[],
        source="test",
    )
    with running(one_version(tmp_path), serve_settings()) as endpoint, Client(endpoint.url) as client:
        (answered,) = canary.ask(client, [group]).scores
        (scores,) = client.rewards([("2+2?", ["4", "It is five."])]).scores
    assert [score.reward for score in answered] == [score.reward for score in scores]
