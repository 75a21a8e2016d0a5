"""Every kind of reward model on its data, by the product's one command: what each reaches, and its verdict.

    python -m benchmarks.kinds --data ../shared/data                 # nine runs, six to 24 minutes each on one core
    python -m benchmarks.kinds --data ../shared/data --only outcome-sandbox --keep FOLDER

Every run is `touchstone retrain` in a clone of its own, on one thread. Sets with few prompts are run with
`gates=small_data`, whose verdict is INCONCLUSIVE at best: where it is, `touchstone promote --override` registers the
version as a person would. Beside the model stand the baselines of its own decision, on the same holdout: the majority,
length, words with length (TF-IDF), and the best possible where the world is known. Intervals are 95% over prompts.
Writes results/kinds.json after every run, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware
from benchmarks.pipeline import timed
from touchstone.runtime.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "kinds.json"
LIBRARIES = ("torch", "transformers", "tokenizers", "scikit-learn")
SMALL = "gates=small_data"


@dataclass(frozen=True)
class Kind:
    """One run.

    Attributes:
        words: what is learnt, and from what.
        overrides: of the command; {data} is the folder of public sets.
    """

    words: str
    overrides: tuple[str, ...]


KINDS = {
    "outcome-sandbox": Kind("outcome, the sandbox", ("objective=outcome",)),
    "outcome-gsm8k": Kind(
        "outcome, GSM8K's model solutions", ("objective=outcome", "data=gsm8k", "data.path={data}/gsm8k", SMALL)
    ),
    "process-sandbox": Kind("steps, the sandbox", ("objective=process", "data=sandbox_steps")),
    "process-bigbench": Kind(
        "steps, BIG-Bench Mistake",
        ("objective=process", "data=bigbench_mistake", "data.path={data}/bigbench-mistake", SMALL),
    ),
    "process-prmbench": Kind(
        "steps, PRMBench",
        ("objective=process", "objective.step_classes=2", "data=prmbench", "data.path={data}/prmbench", SMALL),
    ),
    "ranked-oasst": Kind(
        "K-wise, OASST's Chinese rankings",
        ("objective=plackett_luce", "data=oasst_rank_zh", "data.path={data}/oasst-rank-zh", SMALL),
    ),
    "ranked-topical": Kind(
        "K-wise, Topical-Chat",
        ("objective=plackett_luce", "data=topical_chat", "data.path={data}/topical-chat", SMALL),
    ),
    "ties-pandalm": Kind(
        "votes and ties, PandaLM", ("objective=davidson", "data=pandalm", "data.path={data}/pandalm", SMALL)
    ),
    "votes-ukp": Kind(
        "votes and ties, UKPConvArg1's XML",
        ("objective=soft_labels", "data=ukpconvarg1", "data.variant=full", "data.path={data}/ukpconvarg1", SMALL),
    ),
}
BASELINES = {"majority": "majority", "length": "longer_wins", "words": "linear", "best": "bayes_optimal"}
"""Column by column what a pair's decision calls it; a step's decision says `length` and `words` itself."""


def run_kind(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Clone, retrain, register where the verdict leaves it to a person; what came of it."""
    kind, clone = KINDS[name], folder / name
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    overrides = [override.format(data=data) for override in kind.overrides]
    seconds, code = touchstone(clone, "retrain", *overrides, "train.threads=1")
    decisions = list((clone / "runs").glob("*/decision/decision.json"))
    if not decisions:
        return {"what": kind.words, "overrides": list(kind.overrides), "exit": code, "last": last_line(clone)}
    (decided,) = decisions
    decision = json.loads(decided.read_text(encoding="utf-8"))
    run = decided.parent.parent
    registered = decision["verdict"] == "PROMOTE"
    if decision["verdict"] == "INCONCLUSIVE" and SMALL in kind.overrides:
        reason = "what the override of a small set's verdict registers"
        override = ("--override", "--by", "benchmarks.kinds", "--reason", reason)
        registered = touchstone(clone, "promote", run.name, *override)[1] == 0
    steps = json.loads((run / "run.json").read_text(encoding="utf-8"))["seconds"]
    return {
        "what": kind.words,
        "overrides": list(kind.overrides),
        "exit": code,
        "minutes": round(seconds / 60, 1),
        "train_seconds": round(steps["train"]),
        "verdict": decision["verdict"],
        "registered": registered,
        "open_or_failed": {
            check["name"]: check["status"]
            for check in decision["checks"]
            if check["required"] and check["status"] in ("fail", "undecided")
        },
        "checks": {check["name"]: check["reason"] for check in decision["checks"] if check["required"]},
        **reached(decision),
    }


def touchstone(clone: Path, *command: str) -> tuple[float, int]:
    """Seconds and exit code of a command of a clone, by the code of the clone."""
    environment = {**os.environ, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    return timed([sys.executable, "-m", "touchstone.cli", *command], clone, environment)


def last_line(clone: Path) -> str:
    """What the clone's commands said last."""
    return clone.with_suffix(".log").read_text(errors="replace").rstrip().rpartition("\n")[2][:300]


def reached(decision: Mapping[str, Any]) -> dict[str, Any]:
    """The kind's own measure of the model and of its baselines on the holdout, each with its interval."""
    tables = [check["table"] for check in decision["checks"] if check["table"] and "f1" in check["table"][0]]
    if tables:
        rows = {row["model"]: {"value": row["f1"], "low": row["low"], "high": row["high"]} for row in tables[0]}
        model = rows.pop("model", None) or rows.pop("candidate")
        return {"measure": "F1 of the first wrong step", "model": model, "baselines": rows}
    holdout = decision["metrics"]["holdout"]
    if holdout is None:
        return {"measure": None, "model": None, "baselines": {}}
    found = {"measure": "accuracy of pairs", **_results(holdout, "accuracy")}
    if outcome := holdout.get("outcome"):
        found |= {"auc": _results(outcome, "auc"), "best_of": outcome["best_of"]}
    return {**found, "pairs": holdout.get("pairs"), "clusters": holdout.get("clusters")}


def _results(metrics: Mapping[str, Any], measure: str) -> dict[str, Any]:
    def result(row: Mapping[str, Any]) -> dict[str, float]:
        return {"value": row[measure], "low": row[f"{measure}_low"], "high": row[f"{measure}_high"]}

    return {
        "model": result(metrics),
        "baselines": {name: result(row) for name, row in metrics["baselines"].items()},
    }


def table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each run, two where answers are classified too."""
    head = ["kind and data", "measure", "model", "majority", "length", "words, length", "best possible"]
    head += ["verdict", "open or failed", "minutes"]
    lines = [_line(head), _line(["---"] * len(head))]
    for run in (runs[name] for name in KINDS if name in runs):
        if "verdict" not in run:
            lines.append(_line([run["what"], *[""] * 6, f"none: exit {run['exit']}", run["last"], ""]))
            continue
        measures = [(run["measure"], run)] + ([("AUC of answers", run["auc"])] if "auc" in run else [])
        for number, (measure, results) in enumerate(measures):
            baselines = [
                _cell(results["baselines"].get(column) or results["baselines"].get(name))
                for column, name in BASELINES.items()
            ]
            start, end = [run["what"]], [run["verdict"], ", ".join(run["open_or_failed"]), f"{run['minutes']:.0f}"]
            if number:
                start, end = [""], ["", "", ""]
            lines.append(_line([*start, str(measure), _cell(results["model"]), *baselines, *end]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(result: Mapping[str, float] | None) -> str:
    return "" if result is None else f"{result['value']:.3f} ({result['low']:.3f} to {result['high']:.3f})"


def measure(names: Sequence[str], data: Path, folder: Path, at_once: int) -> dict[str, dict[str, Any]]:
    """Run kinds, so many at once; what is finished is written at once."""
    record: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": {}}
    with ThreadPoolExecutor(at_once) as pool:
        for name, run in zip(names, pool.map(lambda name: run_kind(name, data, folder), names), strict=True):
            done = {**record["runs"], name: run}
            record["runs"] = {key: done[key] for key in KINDS if key in done}
            print(f"{name}: {run.get('verdict', 'no verdict')} in {run.get('minutes', 'nan')} minutes", flush=True)
            libraries = {library: version(library) for library in LIBRARIES}
            write_json(RESULT, {"hardware": hardware(), "libraries": libraries, "at_once": at_once, **record})
    runs: dict[str, dict[str, Any]] = record["runs"]
    return runs


def main() -> None:
    """Run, write, print the table and the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", choices=KINDS, action="append", help="these runs; the others keep their last result")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="where clones stay; default: they are deleted")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="touchstone-kinds-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        runs = measure(given.only or list(KINDS), given.data.resolve(), folder, given.at_once)
    print(table(runs))
    decided = sum("verdict" in run for run in runs.values())
    registered = sum(bool(run.get("registered")) for run in runs.values())
    longest = max((run["minutes"] for run in runs.values() if "minutes" in run), default=float("nan"))
    print(f"RESULT kinds={len(runs)} decided={decided} registered={registered} longest={longest:.1f}")


if __name__ == "__main__":
    main()
