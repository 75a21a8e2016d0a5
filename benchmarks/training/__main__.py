"""Pairs per second of reward-model training beside TRL's `RewardTrainer`, on real comparisons and a tiny Qwen3.

    touchstone bench train                         # all of it, about an hour on two cores
    python -m benchmarks.training --only hh --repeats 1

Same model, token ids, optimizer, precision, comparisons per optimizer step, and no activation checkpointing on either
side. Precision is bf16 autocast, or fp32 where the processor would emulate bf16; the result says which. The opponents:
TRL as its documentation runs it (random batches of 8 pairs), and TRL tuned: the fastest of batches of 1, 2, 4, 8 and
16 pairs, random or grouped by length. Every contestant has a process of its own; their epochs over the same
comparisons take turns, so that whatever else the machine does hits all alike; what is compared is the median over
rounds of the ratio inside a round. Writes results/training.json and training.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NoReturn

from benchmarks.machine import hardware
from benchmarks.training.plot import draw

RESULTS = Path(__file__).resolve().parent.parent / "results"
DOCUMENTED = "trl-8"
BATCHES = [1, 2, 4, 8, 16]
OURS = "touchstone"
WORKLOADS = {
    # comparisons of an epoch, of an optimizer step, and what the workload stands for
    "hh": (320, 64, "hh-rlhf, multi-turn dialogues, pairs"),
    "ukp": (256, 64, "UKPConvArg1 strict, pairs taken singly"),
    "ukp_groups": (512, 512, "UKPConvArg1 strict, topics as groups"),
    "k6": (256, 64, "topical-chat, six completions a group, all pairs"),
    "worst": (64, 64, "long completions, no prompt"),
}
LIBRARIES = ("torch", "transformers", "trl", "accelerate")


class Worker:
    """A process that trains; `epoch` lets it do so once."""

    def __init__(self, workload: str, data: Path, pairs: int, extra: list[str]) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  it lives as long as the process
        command = [sys.executable, "-m", "benchmarks.training.worker", workload, "--data", str(data)]
        self._process = subprocess.Popen(
            [*command, "--pairs", str(pairs), *extra],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def warm_up(self) -> None:
        """Wait until the libraries are loaded and a step has been trained."""
        if self._process.stdout is None or not self._process.stdout.readline():
            self._fail("the warm-up")

    def _fail(self, what: str) -> NoReturn:
        self._errors.seek(0)
        sys.exit(f"{what} failed:\n{self._errors.read()[-2000:]}")

    def epoch(self, name: str) -> dict[str, Any]:
        """Let a contestant train one epoch, and wait for its result."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._fail(name)
        result: dict[str, Any] = json.loads(line)
        result["rate"] = result["pairs"] / result["seconds"]
        return result

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()


def tuned(workload: str, data: Path, pairs: int, extra: list[str], batches: list[int]) -> tuple[str, dict[str, float]]:
    """TRL's fastest batch size and order on this workload, and what each reached."""
    rates: dict[str, float] = {}
    worker = Worker(workload, data, pairs, extra)
    worker.warm_up()
    for batch in batches:
        for name in (f"trl-{batch}", f"trl-{batch}-grouped"):
            rates[name] = worker.epoch(name)["rate"]
            print(f"  {name:<16}{rates[name]:8.1f} pairs/s", flush=True)
    worker.close()
    return max(rates, key=lambda name: rates[name]), rates


def measure(
    workload: str, data: Path, repeats: int, scale: float, extra: list[str], batches: list[int]
) -> dict[str, Any]:
    """One workload: tune TRL, then interleaved repeats of everybody."""
    most, step, what = WORKLOADS[workload]
    pairs = max(step, int(most * scale))
    extra = [*extra, "--step", str(step)]
    print(f"{workload}: {what}; {pairs} comparisons", flush=True)
    best, rates = tuned(workload, data, max(step, pairs // 4), extra, batches)
    names = list(dict.fromkeys([OURS, DOCUMENTED, best]))
    workers = {}
    for name in names:
        workers[name] = Worker(workload, data, pairs, extra)
        workers[name].warm_up()  # one after the other: together they would crowd the cores for minutes
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, worker in workers.items():
            found[name].append(worker.epoch(name))
        print("  " + "  ".join(f"{name} {found[name][-1]['rate']:.1f}" for name in names), flush=True)
    for worker in workers.values():
        worker.close()
    rows = {name: _summary(results) for name, results in found.items()}
    return {"what": what, "contestants": rows, "tuned": best, "tuning": rates, **compare(rows, best)}


def compare(rows: dict[str, dict[str, Any]], best: str) -> dict[str, float]:
    """Ours beside TRL documented and tuned: the ratio is the median over rounds of the ratio inside a round.

    Epochs of one round follow one another, so a slow minute of the machine is in both sides of a ratio.
    """
    ours, opponent = rows[OURS], rows[best]

    def ratio(other: str) -> float:
        return statistics.median(own / rate for own, rate in zip(ours["rates"], rows[other]["rates"], strict=True))

    return {
        "ratio_documented": ratio(DOCUMENTED),
        "ratio_tuned": ratio(best),
        "bound_reached": ours["bound"] / ours["computed"],
        "padding": 1 - ours["tokens"] / ours["computed"],
        "memory_ratio": ours["peak"] / opponent["peak"],
    }


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    last = results[-1]
    return {
        "rate": statistics.median(result["rate"] for result in results),
        "rates": [round(result["rate"], 2) for result in results],
        "pairs": last["pairs"],
        "bound": last["bound"],
        "computed": last["computed"],
        "tokens": last["tokens"],
        "peak": max(result["peak"] for result in results),
        "before": last["before"],
    }


def usable_precision() -> tuple[str, str]:
    """What both sides compute in here, for the worker and for people.

    Emulated bf16 is many times slower than fp32, on both sides: an hour would be a day, and measure the emulation.
    """
    import torch

    from touchstone.model.processor import has_bf16

    cuda = torch.cuda.is_available()
    if has_bf16(torch.device("cuda" if cuda else "cpu")):
        return "bf16", "bf16 autocast"
    return "fp32", "fp32, because this processor has no bf16"


def main() -> None:
    """Measure, write the results, print the last line."""
    parser = argparse.ArgumentParser(prog="touchstone bench train", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where hh-rlhf/ and the others lie")
    parser.add_argument("--only", choices=WORKLOADS, action="append", help="these workloads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the comparisons in an epoch")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="pairs in TRL's batches when tuning")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=int, default=2048, help="our tokens per micro-batch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    data = given.data.resolve()
    if not data.is_dir():
        parser.error(f"{data} does not exist; name the folder of the real data with --data")
    precision, words = usable_precision()
    print(f"precision: {words}", flush=True)
    extra = ["--threads", str(given.threads), "--budget", str(given.budget), "--precision", precision]
    chosen = given.only or list(WORKLOADS)
    facts = {
        "hardware": hardware(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "repeats": given.repeats,
        "threads": given.threads,
        "model": f"Qwen3, 6 layers, hidden 256, 8192 tokens in the vocabulary; {words}",
    }
    file = given.out / "training.json"
    given.out.mkdir(parents=True, exist_ok=True)
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    # What another call of the same kind has measured stays: the whole is an hour on a slow machine.
    measured = {
        name: {**row, **compare(row["contestants"], row["tuned"])} for name, row in before.pop("workloads", {}).items()
    }
    workloads = measured if before == facts else {}
    for name in chosen:
        found = measure(name, data, given.repeats, given.scale, extra, given.batches)
        workloads[name] = {"budget": given.budget, **found}
        record = {**facts, "workloads": {name: workloads[name] for name in WORKLOADS if name in workloads}}
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        draw(record, given.out / "training.svg")
    print(table(record))
    print(last_line(workloads))


def table(record: dict[str, Any]) -> str:
    """One line per workload and contestant."""
    lines = [f"{'':<34}{'pairs/s':>9}{'tokens':>10}{'must be':>10}{'peak MiB':>10}"]
    for name, row in record["workloads"].items():
        lines.append(
            f"{name}: {row['ratio_documented']:.2f}x documented, {row['ratio_tuned']:.2f}x tuned; "
            f"{row['bound_reached']:.0%} of the computed tokens had to be"
        )
        for who, facts in row["contestants"].items():
            label = f"  {who}{' (documented)' if who == DOCUMENTED else ''}{' (tuned)' if who == row['tuned'] else ''}"
            numbers = f"{facts['rate']:>9.1f}{facts['computed']:>10}{facts['bound']:>10}{facts['peak'] / 2**20:>10.0f}"
            lines.append(f"{label:<34}{numbers}")
    return "\n".join(lines)


def last_line(workloads: dict[str, Any]) -> str:
    """RESULT and its figures; nan for what was not run."""
    missing: dict[str, Any] = {"ratio_documented": float("nan"), "ratio_tuned": float("nan")}
    hh, ukp, k6, worst = (workloads.get(name, missing) for name in ("hh", "ukp", "k6", "worst"))
    padding = max(row["padding"] for row in workloads.values())
    memory = max(row["memory_ratio"] for row in workloads.values())
    return (
        f"RESULT hh={hh['ratio_documented']:.2f} hh_tuned={hh['ratio_tuned']:.2f} ukp={ukp['ratio_documented']:.2f} "
        f"ukp_tuned={ukp['ratio_tuned']:.2f} k6_tuned={k6['ratio_tuned']:.2f} worst_tuned={worst['ratio_tuned']:.2f} "
        f"padding={padding:.3f} memory={memory:.2f}"
    )


if __name__ == "__main__":
    main()
