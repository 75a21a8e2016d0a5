"""The first command, measured: fresh clones with empty caches, from installation to a promoted champion.

    python -m benchmarks.pipeline                              # this commit, three seeds
    python -m benchmarks.pipeline --beside ../older-checkout   # an older checkout and this commit in turn, with ratios
    python -m benchmarks.pipeline --beside ../older-checkout --steps-only --cores 1
    python -m benchmarks.pipeline --beside ../older-checkout --steps-only --neighbour

Each run clones, sets up, runs `make retrain`, and runs it again, which must find nothing to do. With --steps-only the
sides are set up once, unmeasured. --cores 1 leaves them one processor; --neighbour pins a process that spins to the
first one. Times depend on the machine, so ratios count; accuracies don't.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import hardware

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "dvc", "mlflow", "great-expectations")
NEW, OLD = "new", "old"
NOT_INHERITED = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
IMPORTS = "import prefect, prefect.flows, mlflow"
"""What the second `make retrain` can't well be quicker than, were it to import both."""


def run_once(side: str, checkout: Path, seed: int, folder: Path, venv: Path | None) -> dict[str, Any]:
    """Clone a checkout, set it up unless `venv` is given, run the pipeline, run it again; times, memory, metrics."""
    clone = folder / f"{side}-{seed}"
    subprocess.run(["git", "clone", "--quiet", str(checkout), str(clone)], check=True)
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    environment = {**inherited, "PIP_CACHE_DIR": str(folder / "pip"), "UV_CACHE_DIR": str(folder / "uv")}
    install = None
    if venv is None:
        for cache in ("pip", "uv"):  # a fresh machine has downloaded nothing yet
            shutil.rmtree(folder / cache, ignore_errors=True)
        install, _ = timed(["make", "setup"], clone, environment)
        python = clone / ".venv" / "bin" / "python"
        command = ["make", "retrain", f"OVERRIDES=train.seed={seed}"]
    else:
        # The clone's own code, whatever the environment has installed.
        python = venv / "bin" / "python"
        environment |= {"PYTHONPATH": str(clone), "PATH": f"{python.parent}{os.pathsep}{environment['PATH']}"}
        command = [str(python), "-m", "touchstone.cli", "retrain", f"train.seed={seed}"]
    with least_available_memory() as memory:
        first, code = timed(command, clone, environment)
    second, second_code = timed(command, clone, environment)
    imports = statistics.median(timed([str(python), "-c", IMPORTS], clone, environment)[0] for _ in range(3))
    (record,) = (json.loads(path.read_text()) for path in (clone / "runs").glob("*/run.json"))
    decision = json.loads(next((clone / "runs").glob("*/decision/decision.json")).read_text())
    holdout = decision["metrics"]["holdout"]
    return {
        "side": side,
        "seed": seed,
        "exit_codes": [code, second_code],
        "install": install,
        "steps": {name: round(value, 1) for name, value in record["seconds"].items()},
        "first": first,
        "whole": None if install is None else round(first + install, 1),
        "second": second,
        "imports": imports,
        "gib": memory[0],
        "verdict": decision["verdict"],
        "accuracy": holdout["accuracy"],
        "baselines": {name: result["accuracy"] for name, result in holdout["baselines"].items()},
        "gap_closed": holdout["gap_closed"],
        "artifact": record["artifact"],
    }


def timed(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> tuple[float, int]:
    """Seconds and exit code of a command; its output goes to a file beside the folder, and is shown if it fails."""
    log = folder.with_suffix(".log")
    start = time.monotonic()
    with log.open("ab") as output:
        code = subprocess.run(command, cwd=folder, env=dict(environment), stdout=output, stderr=output).returncode
    seconds = round(time.monotonic() - start, 1)
    if code:
        sys.stderr.write(f"{' '.join(command)} in {folder.name} ended with {code}:\n{log.read_text()[-2000:]}\n")
    return seconds, code


@contextlib.contextmanager
def least_available_memory() -> Iterator[list[float]]:
    """Within, watch the machine's memory; afterwards the list holds the most that was taken, in GiB.

    Of the machine and not of processes: what several of them share is counted once.
    """
    start = psutil.virtual_memory().available
    taken, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.25):
            taken[0] = max(taken[0], round((start - psutil.virtual_memory().available) / 2**30, 2))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def conditions(cores: int | None, neighbour: bool) -> Iterator[None]:
    """Within, this process and all that it starts have so many processors, and a neighbour spins on the first one."""
    allowed = os.sched_getaffinity(0)
    spinning = None
    if neighbour:
        spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        os.sched_setaffinity(spinning.pid, {min(allowed)})
    if cores is not None:
        os.sched_setaffinity(0, set(sorted(allowed)[:cores]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        if spinning is not None:
            spinning.kill()
            spinning.wait()


def measure(checkouts: Mapping[str, Path], seeds: Sequence[int], steps_only: bool) -> list[dict[str, Any]]:
    """The sides in turn, seed by seed."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as place:
        folder = Path(place)
        venvs: dict[str, Path | None] = dict.fromkeys(checkouts)
        if steps_only:
            for side, checkout in checkouts.items():
                home = folder / f"{side}-home"
                subprocess.run(["git", "clone", "--quiet", str(checkout), str(home)], check=True)
                timed(["make", "setup"], home, os.environ)
                venvs[side] = home / ".venv"
        for seed in seeds:
            for side, checkout in checkouts.items():
                row = run_once(side, checkout, seed, folder, venvs[side])
                print(json.dumps(row), flush=True)
                rows.append(row)
                shutil.rmtree(folder / f"{side}-{seed}")
    return rows


def medians(rows: Sequence[Mapping[str, Any]], side: str) -> dict[str, float]:
    """Median over the seeds of every figure of a side; steps by their names, and `steps`, their sum."""
    own_rows = [row for row in rows if row["side"] == side]
    figures: dict[str, list[float]] = {}
    for row in own_rows:
        flat = {**{f"step {name}": value for name, value in row["steps"].items()}, "steps": sum(row["steps"].values())}
        flat |= {name: row[name] for name in ("install", "first", "whole", "second", "imports", "gib", "gap_closed")}
        for name, value in flat.items():
            if value is not None:
                figures.setdefault(name, []).append(value)
    return {name: round(statistics.median(values), 3) for name, values in figures.items()}


def main() -> None:
    """Measure, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--append", action="store_true", help="keep the result's runs of other seeds")
    parser.add_argument("--beside", type=Path, help="an older checkout to compare with")
    parser.add_argument("--steps-only", action="store_true", help="set both sides up once, unmeasured")
    parser.add_argument("--cores", type=int, help="processors left to both sides")
    parser.add_argument("--neighbour", action="store_true", help="beside a process that spins on one processor")
    options = parser.parse_args()
    checkouts = {NEW: ROOT} if options.beside is None else {OLD: options.beside.resolve(), NEW: ROOT}
    with conditions(options.cores, options.neighbour):
        rows = measure(checkouts, options.seeds, options.steps_only)
    name = "pipeline" + (f"_cores_{options.cores}" if options.cores else "") + ("_neighbour" * options.neighbour)
    if options.append:
        earlier = json.loads((RESULTS / f"{name}.json").read_text())["runs"]
        rows = [*(row for row in earlier if row["seed"] not in options.seeds), *rows]
    result: dict[str, Any] = {
        "runs": rows,
        "median": {side: medians(rows, side) for side in checkouts},
        "conditions": {"cores": options.cores or os.cpu_count(), "neighbour": options.neighbour},
        "hardware": hardware(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    new, old = result["median"][NEW], result["median"].get(OLD)
    print(f"{'':<16}" + (f"{'old':>8}" if old else "") + f"{'new':>8}" + (f"{'ratio':>8}" if old else ""))
    for figure, value in new.items():
        before = old.get(figure) if old else None
        ratio = f"{value / before:>8.2f}" if before else ""
        print(
            f"{figure:<16}"
            + (f"{before:>8.1f}" if before is not None else " " * 8 * bool(old))
            + f"{value:>8.1f}{ratio}"
        )
    if old:
        ratios = {name: new[name] / old[name] for name in ("install", "steps", "whole") if name in new and name in old}
        ratios["first"] = new["first"] / old["first"]
        words = {
            **ratios,
            "second": new["second"] / old["second"],
            "second_to_imports": new["second"] / new["imports"],
        }
    else:
        words = {name: new[name] for name in ("steps", "first", "second")}
    print(
        "RESULT " + " ".join(f"{key}={value:.3f}" for key, value in {**words, "gap_closed": new["gap_closed"]}.items())
    )


if __name__ == "__main__":
    main()
