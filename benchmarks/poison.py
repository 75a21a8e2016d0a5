"""Does the audit name what poisoned the labels, and is it quiet where nothing did?

    python -m benchmarks.poison                 # 12,000 groups; benchmarks/results/poison.json
    python -m benchmarks.poison --groups 6000 --clean 4 --result poison.json

Sandboxes without poison (20 seeds, and some with noisy labels or a bias for length) must raise at most one alarm of
kind annotator, entity or phrase. With 3% of the comparisons turned by one annotator, 3% won by whoever mentions one
name, or a phrase planted in 5% of the completions, the audit must name who or what it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware
from touchstone.data.audit import audit
from touchstone.data.audit.alarms import KINDS
from touchstone.data.sources import sandbox
from touchstone.groups import write_parquet
from touchstone.settings import compose
from touchstone.settings.data import SandboxData

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "poison.json"
LIBRARIES = ("numpy", "scipy", "scikit-learn", "polars", "pyarrow")
POISONS = {"annotator": 0.03, "entity": 0.03, "trigger": 0.05}
ODD = ({"label_noise": 0.1}, {"length_bias": 1.0}, {"label_noise": 0.1, "length_bias": 3.0})
"""Further worlds without poison."""


def named(poison: str, alarm: dict[str, Any]) -> bool:
    """Whether an alarm names what the sandbox's poison serves."""
    kind, name = alarm["kind"], alarm["name"]
    if poison == "annotator":
        return bool(kind == "annotator" and name == sandbox.annotator_name(sandbox.SPITEFUL))
    if poison == "entity":
        return bool(kind == "entity" and name == sandbox.ENTITY)
    return bool(kind == "phrase" and name in sandbox.TRIGGER.lower())


def examine(folder: Path, knobs: dict[str, Any]) -> dict[str, Any]:
    """Make a sandbox, audit it, and say which poisoning alarms came."""
    settings = compose([], ROOT / "configs")
    path = folder / "groups.parquet"
    write_parquet(path, sandbox.read(SandboxData.model_validate({**settings.data.model_dump(), **knobs}), ROOT))
    began = time.monotonic()
    alarms = [alarm for alarm in audit(path, settings.audit)["alarms"] if alarm["kind"] in KINDS]
    poison = knobs.get("poison", "none")
    hits = [alarm for alarm in alarms if poison != "none" and named(poison, alarm)]
    return {
        **knobs,
        "named": bool(hits),
        "p_value": min((alarm["p_value"] for alarm in hits), default=None),
        "false_alarms": [[alarm["kind"], alarm["name"], alarm["p_value"]] for alarm in alarms if alarm not in hits],
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Examine every world, print a line for each, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=12_000)
    parser.add_argument("--clean", type=int, default=20, help="seeds without poison")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every poison and of every odd world")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    clean: list[dict[str, Any]] = [{"seed": seed} for seed in range(1, arguments.clean + 1)]
    odd = [{"seed": seed, **knobs} for knobs in ODD for seed in range(1, arguments.seeds + 1)]
    poisoned = [
        {"seed": seed, "poison": poison, "poison_share": share}
        for poison, share in POISONS.items()
        for seed in range(1, arguments.seeds + 1)
    ]
    began = time.monotonic()
    rows: dict[str, list[dict[str, Any]]] = {"clean": [], "odd": [], "poisoned": []}
    with tempfile.TemporaryDirectory(prefix="touchstone-poison-") as folder:
        for part, worlds in (("poisoned", poisoned), ("clean", clean), ("odd", odd)):
            for knobs in worlds:
                rows[part].append(examine(Path(folder), {"groups": arguments.groups, **knobs}))
                print(json.dumps(rows[part][-1]), flush=True)
    found = sum(row["named"] for row in rows["poisoned"])
    false = {part: sum(bool(row["false_alarms"]) for row in rows[part]) for part in rows}
    summary = {
        "groups": arguments.groups,
        "named": f"{found}/{len(poisoned)}",
        **{f"{part}_with_false_alarm": f"{false[part]}/{len(rows[part])}" for part in rows},
        "seconds": round(time.monotonic() - began, 1),
    }
    whole = {**rows, "summary": summary, "hardware": hardware(), "versions": {n: version(n) for n in LIBRARIES}}
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    print(f"RESULT named={found}/{len(poisoned)} false={false['clean']}/{len(clean)} seconds={summary['seconds']}")
    if found < len(poisoned) or false["clean"] > 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
