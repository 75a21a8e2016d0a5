"""How often monitoring asks for a retrain that nothing called for, and how soon it sees a fall.

    python -m benchmarks.monitoring             # 1,000 quiet periods of 30 windows; benchmarks/results/monitoring.json
    python -m benchmarks.monitoring --periods 100

At the level of scores: drawn, not computed by a model, and put through the product's own signals and decision with the
default settings. Every window of a period is compared with one baseline, and accuracy with one judgement, as in
service.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import hardware
from touchstone.operations.monitoring import canary
from touchstone.operations.monitoring.canary import Base
from touchstone.operations.monitoring.decision import State, decide
from touchstone.operations.monitoring.drift import Signal, Traffic, drift, warning_limit
from touchstone.settings import compose
from touchstone.settings.monitor import Monitor
from touchstone.statistics import clopper_pearson_upper

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "monitoring.json"
WINDOWS, SAMPLES, BASELINE = 30, 500, 1000
"""The least that the defaults ask for, where chance is largest."""
HOLDOUT, ACCURACY = 1100, 0.82
CANARY, LABELLED = 220, 50
"""Prompts of the canary set at the promotion, and those that each window adds."""
FALLS = (0.03, 0.05, 0.08)
START = datetime(2026, 1, 1, tzinfo=UTC)


def traffic(generator: np.random.Generator, count: int) -> Traffic:
    """Completions as one policy writes them: heavy-tailed scores, lengths of a logarithmic normal."""
    return Traffic(
        np.sort(generator.standard_t(5, count) * np.sqrt(3 / 5)),
        np.sort(np.round(np.exp(generator.normal(5.5, 0.6, count)))),
        np.sort(np.round(np.exp(generator.normal(6.0, 0.9, count)))),
        float((generator.random(count) < 0.02).mean()),
        float((generator.random(count) < 0.05).mean()),
    )


def judged(generator: np.random.Generator) -> Base:
    """What a decision says of a model of this accuracy."""
    seen = float((generator.random(HOLDOUT) < ACCURACY).mean())
    return Base(seen, float(np.sqrt(seen * (1 - seen) / HOLDOUT)))


def labelled(generator: np.random.Generator, count: int, fall: float) -> tuple[np.ndarray, np.ndarray]:
    """Credits and residuals of labelled prompts: confidence is right on average until accuracy falls."""
    confidence = np.clip(ACCURACY + generator.normal(0, 0.12, count), 0.5, 0.99)
    confidence += ACCURACY - confidence.mean() if count > 1000 else 0.0
    right = (generator.random(count) < np.clip(confidence - fall, 0, 1)).astype(float)
    return right, right - confidence


def quiet(generator: np.random.Generator, settings: Monitor) -> tuple[bool, int, int]:
    """Whether a quiet period asks for a retrain; its breached windows, and those with a warning."""
    first = traffic(generator, BASELINE)
    limit = warning_limit(first.scores, SAMPLES, settings.drift_warning)
    base = judged(generator)
    credits, residuals = labelled(generator, CANARY, 0.0)
    windows: list[tuple[Signal, ...]] = []
    breached = warned = 0
    retrain = False
    for number in range(WINDOWS):
        more = labelled(generator, LABELLED, 0.0)
        credits, residuals = np.concatenate([credits, more[0]]), np.concatenate([residuals, more[1]])
        signals = (
            canary.accuracy(credits, base, settings),
            canary.calibration(residuals, settings),
            *drift(first, traffic(generator, SAMPLES), limit, settings),
        )
        windows.append(signals)
        breached += any(signal.state == "breached" for signal in signals)
        warned += any(signal.state == "warning" for signal in signals)
        retrain |= decide(windows, [], START + timedelta(days=number), settings).state is State.RETRAIN
    return retrain, breached, warned


def delay(generator: np.random.Generator, settings: Monitor, fall: float) -> int:
    """Labelled prompts after the fall until a retrain is asked for; the canary set is from before it."""
    base = judged(generator)
    credits, residuals = labelled(generator, CANARY, 0.0)
    windows: list[tuple[Signal, ...]] = []
    seen = 0
    while seen < 20_000:
        more = labelled(generator, LABELLED, fall)
        credits, residuals = np.concatenate([credits, more[0]]), np.concatenate([residuals, more[1]])
        seen += LABELLED
        windows.append((canary.accuracy(credits, base, settings), canary.calibration(residuals, settings)))
        if decide(windows[-3:], [], START, settings).state is State.RETRAIN:
            break
    return seen


def main() -> None:
    """Run both, print the tables, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--periods", type=int, default=1000)
    parser.add_argument("--falls", type=int, default=200, help="repetitions of each fall")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    settings = compose([], ROOT / "configs").monitor
    generator = np.random.default_rng(arguments.seed)

    periods = [quiet(generator, settings) for _ in range(arguments.periods)]
    retrains = sum(retrain for retrain, _, _ in periods)
    upper = clopper_pearson_upper(retrains, len(periods))
    print(f"quiet periods {len(periods):,}, asked to retrain {retrains}, upper 95% bound {upper:.2%}")

    delays: dict[str, Any] = {}
    for fall in FALLS:
        found = np.array([delay(generator, settings, fall) for _ in range(arguments.falls)])
        delays[f"{fall:.2f}"] = {
            "median": int(np.median(found)),
            "p90": int(np.quantile(found, 0.9)),
            "within_2000": float((found <= 2000).mean()),
        }
        print(f"fall of {100 * fall:.0f} points: {json.dumps(delays[f'{fall:.2f}'])}")
    summary = {
        "periods": len(periods),
        "windows": WINDOWS,
        "retrains": retrains,
        "false_retrain_upper": upper,
        "breached_windows": sum(breached for _, breached, _ in periods) / (WINDOWS * len(periods)),
        "warned_windows": sum(warned for _, _, warned in periods) / (WINDOWS * len(periods)),
        "delays": delays,
    }
    result = {"summary": summary, "seed": arguments.seed, "settings": settings.model_dump(), "hardware": hardware()}
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(f"RESULT delay5={delays['0.05']['median']} false_retrain_upper={upper:.4f}")


if __name__ == "__main__":
    main()
