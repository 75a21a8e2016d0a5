"""What the promotion gate is worth: error rates, sizes, models that it must stop, tampering, cost.

    python -m benchmarks.gate                                 # three quarters of an hour on 2 cores; results/gate.json
    python -m benchmarks.gate --part known_bad --part cost    # some parts; the others stay as they were
    python -m benchmarks.gate --quick --result gate.json      # a minute or two, to see that everything runs

Four parts. `simulations`: two models with a known truth on drawn sets, through the gate's own checks, none switched
off and no threshold moved: how often an equal model is promoted, how often one that is better by three points is, how
often a truly better one is rejected, the power at the sizes that the gate asks for, and whether its intervals hold the
truth as often as they claim. `known_bad`: twelve models that must be judged rightly
for the right reason; one is the sandbox's gold reward, which must be promoted. `releases`: twenty
decisions, computed again from their records, and single bytes changed in all of them. `cost`: seconds and memory of
one judgement of 10,000 comparisons with scores given.

Writes results/gate.json and gate.svg. The exit code is 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from threadpoolctl import threadpool_limits

from benchmarks.gate import cost, known_bad, releases, simulations
from benchmarks.gate.picture import draw
from benchmarks.gate.sandbox import ROOT
from benchmarks.machine import hardware
from touchstone.settings import compose
from touchstone.settings.gates import Policy

RESULT = ROOT / "benchmarks" / "results" / "gate.json"
LIBRARIES = ("numpy", "scipy", "statsmodels", "scikit-learn", "pyarrow")
PARTS = ("simulations", "known_bad", "releases", "cost")
FALSE_PROMOTION, PROMOTE3, FALSE_REJECT, OFF, SECONDS, MIB = 0.025, 0.80, 0.03, 0.015, 30.0, 1024
"""What is promised: at most, at least, at most, at most, at most, at most."""
POWER, POWER_OFF = 0.80, 0.04
"""At the sizes that the gate asks for, and how far from it."""
FEWEST = 100
"""Draws that must have been undecided before their share is compared: of three it may be anything."""


@dataclass(frozen=True)
class Size:
    """How much of everything is done."""

    draws: int
    cell_draws: int
    policy_draws: int
    curve_draws: int
    table_sizes: tuple[int, ...]
    policy_sizes: tuple[int, ...]
    sizes: tuple[int, ...]
    bootstrap: int
    holdout: int
    models: tuple[str, ...]
    releases: int
    positions: int
    comparisons: int


FULL = Size(
    draws=2000,
    cell_draws=300,
    policy_draws=100,
    curve_draws=200,
    table_sizes=(750, 1500, 3000, 6000),
    policy_sizes=(1200, 4800),
    sizes=(500, 750, 1000, 1500, 2000, 3000),
    bootstrap=2000,
    holdout=known_bad.HOLDOUT,
    models=(),
    releases=20,
    positions=40,
    comparisons=10_000,
)
QUICK = Size(
    draws=12,
    cell_draws=4,
    policy_draws=2,
    curve_draws=10,
    table_sizes=(750, 1500),
    policy_sizes=(1200,),
    sizes=(500, 800),
    bootstrap=1000,
    holdout=900,
    models=("a good model", "constant", "inverted"),
    releases=2,
    positions=3,
    comparisons=1_500,
)
GAINS = (-0.03, 0.0, 0.02, 0.03, 0.05)
NOISES = (0.0, 0.10)


def simulate(size: Size, processes: int) -> dict[str, Any]:
    """All simulations."""

    def limits_of(policy: str) -> Any:
        chosen = compose([f"gates={policy}"], ROOT / "configs").gates
        return chosen.model_copy(update={"bootstrap_draws": size.bootstrap})

    limits = limits_of("strict")
    shape = simulations.default_shape(limits)
    # One thread of the algebra library in each: more of them spend three times the processor on two coefficients.
    with ProcessPoolExecutor(processes, initializer=threadpool_limits, initargs=(1,)) as pool:
        cells = simulations.table(
            shape, limits, size.cell_draws, pool, prompts=size.table_sizes, gains=GAINS, noises=NOISES
        )
        return {
            "bootstrap_draws": size.bootstrap,
            "pairs_per_prompt": len(shape.tied) / shape.prompts,
            "false_promotion": simulations.false_promotion(shape, limits, size.draws, pool),
            "families": simulations.families(shape, limits, size.draws, pool),
            "promote3": simulations.promote3(shape, limits, size.draws // 2, pool),
            "table": cells,
            "false_reject": simulations.false_reject(cells),
            "policies": {
                policy: simulations.table(
                    shape, limits_of(policy), size.policy_draws, pool, prompts=size.policy_sizes, gains=GAINS
                )
                for policy in get_args(Policy)
                if policy != "strict"
            },
            "asked_sizes": simulations.asked_sizes(shape, limits, size.draws, pool),
            "lineage": simulations.lineage(shape, limits, size.draws // 4, pool),
            "coverage": simulations.coverage(limits, 5 * size.draws, pool),
            "refresh": simulations.refreshes(limits, size.draws // 8 or 1, pool),
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
        copies = simulated["families"]["promoted"]
        found += [f"equal models on near copies promoted in {copies:.1%}"] if copies > FALSE_PROMOTION else []
        better = promote3_of(simulated)
        found += [f"3 points better promoted in {better:.1%}"] if better < PROMOTE3 else []
        rejected = simulated["false_reject"]
        found += [f"better models rejected in {rejected:.1%}"] if rejected > FALSE_REJECT else []
        found += [
            f"power {row['passed']:.1%} at the size asked for ({name})"
            for name, row in simulated["asked_sizes"].items()
            if row["undecided"] >= FEWEST and abs(row["passed"] - POWER) > POWER_OFF
        ]
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


def promote3_of(simulated: dict[str, Any]) -> float:
    """Share promoted of what is better by three points, where two equal models order a tenth of the pairs apart."""
    share: float = simulated["promote3"]["by_discordance"]["0.10"]["promoted"]
    return share


def last_line(whole: dict[str, Any]) -> str:
    """The numbers in one line; a dash for what wasn't measured."""
    simulated, judged, spent = whole.get("simulations"), whole.get("known_bad"), whole.get("cost")
    gold = known_bad.gold(judged["models"]) if judged else None
    worst = max(row["promoted"] for row in simulated["false_promotion"].values()) if simulated else 0.0
    values = {
        "false_promotion": f"{worst:.4f}" if simulated else "-",
        "promote3": f"{promote3_of(simulated):.4f}" if simulated else "-",
        "false_reject": f"{simulated['false_reject']:.4f}" if simulated else "-",
        "gold": "-" if gold is None else gold,
        "families": f"{simulated['families']['promoted']:.4f}" if simulated else "-",
        "known_bad": known_bad.score(judged["models"]) if judged else "-",
        "seconds": spent["seconds"] if spent else "-",
    }
    return "RESULT " + " ".join(f"{name}={value}" for name, value in values.items())


def words(simulated: dict[str, Any]) -> str:
    """What the simulations say, for people."""
    lines = ["true +3 points, 1,500 prompts, a fifth of them about safety:"]
    for discordance, row in simulated["promote3"]["by_discordance"].items():
        lines.append(
            f"  discordance {discordance}: promoted {row['promoted']:.1%} (±{row['promoted_error']:.1%}), "
            f"rejected {row['rejected']:.1%}; open: {row['open']}"
        )
    lines.append(f"{'noise':>6}{'prompts':>9}{'gain':>7}{'PROMOTE':>9}{'REJECT':>8}{'INCONCL.':>9}")
    for cell in simulated["table"]:
        lines.append(
            f"{cell['label_noise']:>6.0%}{cell['prompts']:>9,}{100 * cell['gain']:>+7.0f}{cell['promote']:>9.0%}"
            f"{cell['reject']:>8.0%}{cell['inconclusive']:>9.0%}"
        )
    return "\n".join(lines)


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
    for part in arguments.part or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="touchstone-gate-") as folder:
            whole[part] = measure(part, size, arguments.processes, Path(folder))
        whole[part]["took_seconds"] = round(time.monotonic() - began, 1)
        shown = {key: value for key, value in whole[part].items() if key not in ("curves", "models", "table")}
        print(f"{part}: {json.dumps(shown)}", flush=True)
    if "table" in whole.get("simulations", {}):
        print(words(whole["simulations"]))
    if "models" in whole.get("known_bad", {}):
        print(known_bad.table(whole["known_bad"]["models"]))
    whole |= {"hardware": hardware(), "versions": {name: version(name) for name in LIBRARIES}}
    arguments.result.parent.mkdir(parents=True, exist_ok=True)
    arguments.result.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    if "simulations" in whole:
        draw(whole["simulations"], arguments.result.with_suffix(".svg"))
    broken = broken_promises(whole)
    for promise in broken:
        print(f"BROKEN {promise}")
    print(last_line(whole))
    if broken and not arguments.quick:
        sys.exit(1)


if __name__ == "__main__":
    main()
