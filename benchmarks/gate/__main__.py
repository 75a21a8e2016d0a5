"""What the promotion gate is worth: error rates, models that it must stop, tampering, cost.

    python -m benchmarks.gate                                 # half an hour on 2 cores; benchmarks/results/gate.json
    python -m benchmarks.gate --part known_bad --part cost    # some parts; the others stay as they were
    python -m benchmarks.gate --quick --result gate.json      # a minute or two, to see that everything runs

Four parts. `simulations`: two models of known accuracy on 2,000 drawn sets, 6 and 15 judged pairs per prompt, through
the gate's own functions: how often an equal model is promoted, how often a better one is at the size that the gate
asks for, and whether its intervals hold the truth as often as they claim. `known_bad`: twelve models that must be
judged rightly for the right reason; one is the sandbox's gold reward, which must be promoted. `releases`: twenty
decisions, computed again from their records, and single bytes changed in all of them. `cost`: seconds and memory of
one judgement of 10,000 comparisons with scores given.

Writes results/gate.json and gate.svg. The exit code is 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gate import cost, known_bad, releases, simulations
from benchmarks.gate.picture import draw
from benchmarks.gate.sandbox import ROOT
from touchstone.settings import compose

RESULT = ROOT / "benchmarks" / "results" / "gate.json"
LIBRARIES = ("numpy", "scipy", "statsmodels", "scikit-learn", "pyarrow")
PARTS = ("simulations", "known_bad", "releases", "cost")
FALSE_PROMOTION, POWER, OFF, SECONDS, MIB = 0.03, 0.80, 0.015, 30.0, 1024
"""What is promised: at most, at least, at most, at most, at most."""


@dataclass(frozen=True)
class Size:
    """How much of everything is done."""

    draws: int
    curve_draws: int
    sizes: tuple[int, ...]
    bootstrap: int
    holdout: int
    models: tuple[str, ...]
    releases: int
    positions: int
    comparisons: int


FULL = Size(2000, 200, (500, 750, 1000, 1500, 2000, 3000), 2000, known_bad.HOLDOUT, (), 20, 40, 10_000)
QUICK = Size(20, 10, (500, 800), 1000, 900, ("a good model", "constant", "inverted"), 2, 3, 1_500)


def simulate(size: Size, processes: int) -> dict[str, Any]:
    """All simulations."""
    limits = compose([], ROOT / "configs").gates.model_copy(update={"bootstrap_draws": size.bootstrap})
    with ProcessPoolExecutor(processes) as pool:
        return {
            "bootstrap_draws": size.bootstrap,
            "false_promotion": simulations.false_promotion(limits, size.draws, pool),
            "power": simulations.power(limits, size.draws, pool),
            "coverage": simulations.coverage(limits, 5 * size.draws, pool),
            "refresh": simulations.refreshes(limits, size.draws // 8, pool),
            "curves": simulations.curves(limits, size.curve_draws, pool, size.sizes, (0.0, 0.02, 0.03)),
        }


def measure(part: str, size: Size, processes: int, folder: Path) -> dict[str, Any]:
    """One part of the result."""
    if part == "simulations":
        return simulate(size, processes)
    if part == "known_bad":
        return known_bad.run(folder, known_bad.defaults(size.holdout), size.models)
    if part == "releases":
        return releases.run(folder, count=size.releases, positions=size.positions)
    return cost.run(folder, size.comparisons)


def broken_promises(whole: dict[str, Any]) -> list[str]:
    """What the parts that are there don't keep."""
    found = []
    if simulated := whole.get("simulations"):
        worst = max(row["promoted"] for row in simulated["false_promotion"].values())
        found += [f"equal models promoted in {worst:.1%}"] if worst > FALSE_PROMOTION else []
        found += [f"power {simulated['power']['promoted']:.1%}"] if simulated["power"]["promoted"] < POWER else []
        off = simulated["coverage"]["largest_distance"]
        found += [f"an interval's coverage is off by {off:.1%}"] if off > OFF else []
    if judged := whole.get("known_bad"):
        found += [f"{row['model']}: {row['verdict']}, {row['reason']}" for row in judged["models"] if not row["right"]]
    if ledger := whole.get("releases"):
        decided = len(ledger["verdicts"])
        found += [f"{decided - ledger['recomputed']} verdicts came out otherwise"] * (ledger["recomputed"] < decided)
        missed = ledger["tampering"]["missed"]
        found += [f"{len(missed)} of {ledger['tampering']['changed']} changes unseen"] if missed else []
    if (spent := whole.get("cost")) and (spent["seconds"] > SECONDS or spent["peak_mib"] > MIB):
        found.append(f"{spent['seconds']} seconds, {spent['peak_mib']} MiB")
    return found


def last_line(whole: dict[str, Any]) -> str:
    """The numbers in one line; a dash for what wasn't measured."""
    simulated, judged, spent = whole.get("simulations"), whole.get("known_bad"), whole.get("cost")
    worst = max(row["promoted"] for row in simulated["false_promotion"].values()) if simulated else None
    values = {
        "false_promotion": "-" if worst is None else f"{worst:.4f}",
        "power": f"{simulated['power']['promoted']:.4f}" if simulated else "-",
        "coverage": f"{simulated['coverage']['shares']['difference, BCa 95%']:.4f}" if simulated else "-",
        "known_bad": known_bad.score(judged["models"]) if judged else "-",
        "gold": "-"
        if judged is None or known_bad.gold(judged["models"]) is None
        else known_bad.gold(judged["models"]),
        "seconds": spent["seconds"] if spent else "-",
    }
    return "RESULT " + " ".join(f"{name}={value}" for name, value in values.items())


def main() -> None:
    """Measure, print, write the result and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    whole: dict[str, Any] = json.loads(arguments.result.read_text()) if arguments.result.exists() else {}
    hardware = {"cpu_count": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    for part in arguments.part or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="touchstone-gate-") as folder:
            whole[part] = measure(part, size, arguments.processes, Path(folder))
        whole[part]["took_seconds"] = round(time.monotonic() - began, 1)
        shown = {key: value for key, value in whole[part].items() if key not in ("curves", "models")}
        print(f"{part}: {json.dumps(shown)}", flush=True)
    if "models" in whole.get("known_bad", {}):
        print(known_bad.table(whole["known_bad"]["models"]))
    whole |= {"hardware": hardware, "versions": {name: version(name) for name in LIBRARIES}}
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    arguments.result.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    if "simulations" in whole:
        draw(whole["simulations"], arguments.result.with_suffix(".svg"))
    broken = broken_promises(whole)
    for words in broken:
        print(f"BROKEN {words}")
    print(last_line(whole))
    if broken and not arguments.quick:
        sys.exit(1)


if __name__ == "__main__":
    main()
