"""How often monitoring asks for a retrain that nothing called for, and how soon it sees a fall.

    python -m benchmarks.monitoring             # 1,000 quiet periods of 30 windows; benchmarks/results/monitoring.json
    python -m benchmarks.monitoring --periods 100

At the level of scores: drawn, not computed by a model, and put through the product's own signals and decision with the
default settings. Every window of a period is compared with one baseline, and accuracy with one judgement, as in
service. Falls begin with the first look, or after a quiet period; those that were alarmed within it are left out.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import hardware
from touchstone.operations.monitoring import canary
from touchstone.operations.monitoring.canary import Base
from touchstone.operations.monitoring.decision import State, decide
from touchstone.operations.monitoring.drift import Signal, Traffic, drift, warning_limit
from touchstone.settings import compose
from touchstone.settings.monitor import Monitor
from touchstone.statistics import clopper_pearson_upper

Array = npt.NDArray[np.float64]

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "monitoring.json"
WINDOWS, SAMPLES, BASELINE = 30, 500, 1000
"""The least that the defaults ask for, where chance is largest."""
ACCURACY = 0.82
JUDGED = {"default": 1540, "large": 4200}
"""Prompts of holdout and confirm together: 1,100 and 440, as the embedded data has them; 3,000 and 1,200."""
CANARY, LABELLED = 220, 50
"""Prompts of the canary set at the promotion, and those that each window adds."""
FALLS = (0.03, 0.05, 0.08)
LATE = 30
"""Quiet windows before a late fall."""
MOST_PROMPTS = 10_000
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


def judged(generator: np.random.Generator, prompts: int) -> Base:
    """What a decision says of a model of this accuracy."""
    seen = float((generator.random(prompts) < ACCURACY).mean())
    return Base(seen, float(np.sqrt(seen * (1 - seen) / prompts)))


def labelled(generator: np.random.Generator, count: int, fall: float) -> tuple[Array, Array]:
    """Credits and residuals of labelled prompts: confidence is right on average until accuracy falls."""
    confidence = np.clip(ACCURACY + generator.normal(0, 0.12, count), 0.5, 0.99)
    confidence += ACCURACY - confidence.mean() if count > 1000 else 0.0
    right = (generator.random(count) < np.clip(confidence - fall, 0, 1)).astype(float)
    return right, right - confidence


def quiet(generator: np.random.Generator, settings: Monitor) -> tuple[bool, int, int]:
    """Whether a quiet period asks for a retrain; its breached windows, and those with a warning."""
    first = traffic(generator, BASELINE)
    limit = warning_limit(first.scores, SAMPLES, settings.drift_warning)
    base = judged(generator, JUDGED["default"])
    first_credits, residuals = labelled(generator, CANARY, 0.0)
    looks = [first_credits]
    windows: list[tuple[Signal, ...]] = []
    breached = warned = 0
    retrain = False
    for number in range(WINDOWS):
        more = labelled(generator, LABELLED, 0.0)
        looks, residuals = seen_also(looks, more[0]), np.concatenate([residuals, more[1]])
        signals = (
            canary.accuracy(looks, base, settings),
            canary.calibration(residuals, settings),
            *drift(first, traffic(generator, SAMPLES), limit, settings),
        )
        windows.append(signals)
        breached += any(signal.state == "breached" for signal in signals)
        warned += any(signal.state == "warning" for signal in signals)
        retrain |= decide(windows, [], START + timedelta(days=number), settings).state is State.RETRAIN
    return retrain, breached, warned


def seen_also(looks: list[Array], credits: Array) -> list[Array]:
    """The looks with one more; the first one also sees the canary set that there was at the promotion."""
    return [*looks, credits] if len(looks) > 1 or len(looks[0]) > CANARY else [np.concatenate([*looks, credits])]


def delay(generator: np.random.Generator, settings: Monitor, fall: float, prompts: int, quiet: int) -> int | None:
    """Labelled prompts after a fall until a retrain is asked for; None where one is asked for before it.

    Args:
        prompts: that the champion was judged on.
        quiet: windows before the fall. The canary set of the promotion is from before it.
    """
    base = judged(generator, prompts)
    first_credits, residuals = labelled(generator, CANARY, 0.0)
    looks = [first_credits]
    windows: list[tuple[Signal, ...]] = []
    seen = -quiet * LABELLED
    while seen < MOST_PROMPTS:
        more = labelled(generator, LABELLED, fall if seen >= 0 else 0.0)
        looks, residuals = seen_also(looks, more[0]), np.concatenate([residuals, more[1]])
        seen += LABELLED
        windows.append((canary.accuracy(looks, base, settings), canary.calibration(residuals, settings)))
        if decide(windows[-3:], [], START, settings).state is State.RETRAIN:
            return seen if seen > 0 else None
    return seen


def delays_of(generator: np.random.Generator, settings: Monitor, repetitions: int) -> dict[str, dict[str, Any]]:
    """Delays by how many prompts the champion was judged on, when the fall begins, and its size."""
    found: dict[str, dict[str, Any]] = {}
    for name, prompts in JUDGED.items():
        for when, before in (("at once", 0), (f"after {LATE} windows", LATE)):
            table = found.setdefault(f"{name}, {when}", {})
            for fall in FALLS:
                made = [delay(generator, settings, fall, prompts, before) for _ in range(repetitions)]
                values = np.array([value for value in made if value is not None])
                table[f"{fall:.2f}"] = {
                    "falls": len(values),
                    "median": int(np.median(values)),
                    "p90": int(np.quantile(values, 0.9)),
                    "within_2000": float((values <= 2000).mean()),
                }
                print(
                    f"{name} ({prompts:,} prompts), {when}, fall of {100 * fall:.0f} points: "
                    f"{json.dumps(table[f'{fall:.2f}'])}",
                    flush=True,
                )
    return found


def false_retrains(generator: np.random.Generator, settings: Monitor, count: int) -> dict[str, Any]:
    """Retrains that quiet periods ask for, and the upper 95% bound of their rate."""
    periods = [quiet(generator, settings) for _ in range(count)]
    retrains = sum(retrain for retrain, _, _ in periods)
    upper = clopper_pearson_upper(retrains, len(periods))
    print(f"quiet periods {len(periods):,}, asked to retrain {retrains}, upper 95% bound {upper:.2%}", flush=True)
    return {
        "periods": len(periods),
        "windows": WINDOWS,
        "retrains": retrains,
        "false_retrain_upper": upper,
        "breached_windows": sum(breached for _, breached, _ in periods) / (WINDOWS * len(periods)),
        "warned_windows": sum(warned for _, _, warned in periods) / (WINDOWS * len(periods)),
    }


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

    summary = false_retrains(generator, settings, arguments.periods)
    summary["judged"], summary["delays"] = JUDGED, delays_of(generator, settings, arguments.falls)
    result = {"summary": summary, "seed": arguments.seed, "settings": settings.model_dump(), "hardware": hardware()}
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(
        f"RESULT delay5={summary['delays']['large, at once']['0.05']['median']} "
        f"false_retrain_upper={summary['false_retrain_upper']:.4f}"
    )


if __name__ == "__main__":
    main()
