"""The endpoint beside the servers that people use today: the same tiny Qwen3, fp32, two cores, real texts.

    touchstone bench serve                                   # everybody that can be installed here, about an hour
    python -m benchmarks.serving --quick --only serve_rm --only mlflow

Workloads: (a) 64 clients that post single samples, (b) one prompt of 512 tokens with 16 completions of 128, (c) a bulk
of 500 groups; and one client alone that posts single samples. Token ids are compared before anything is timed, then
scores against single, unpadded forward passes. Each contestant takes its best setting of threads on each workload; one
that can't be installed or started here stands in the table with the reason. Rounds are interleaved, whoever's turn it
isn't is stopped, and what is compared is the median over rounds of the ratio inside a round. No request is sent twice,
so nobody's cache of prompts answers. Writes results/serving.json and serving.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware
from benchmarks.serving.plot import draw
from benchmarks.serving.rivals import OURS, RIVALS, ROOT, THREADS, Rival, Server, UnavailableError, interpreter
from benchmarks.serving.workloads import QUICK, Asked, Sizes, Texts
from touchstone.runtime import processes

RESULTS = Path(__file__).resolve().parent.parent / "results"
LOOP = "transformers"
LOOP_BATCH = 16
WORKLOADS = {
    "a": "64 clients, single samples",
    "b": "512-token prompt, 16 completions of 128",
    "c": "bulk of 500 groups",
    "s": "one client alone, single samples",
}
TARGETS = {
    "a_vs_mlflow": (">=", 5.0),
    "a_vs_best": (">=", 0.9),
    "a_p99_vs_best": ("<=", 1.1),
    "b_vs_transformers": (">=", 4.0),
    "b_vs_best": (">=", 1.5),
    "c_vs_transformers": (">=", 3.0),
    "single": ("<=", 1.3),
}
SAME = 1e-3
"""Largest difference of scores from the single, unpadded forward pass."""


class Loop:
    """The plain transformers loop in a process of its own, with one setting of threads.

    Stopped by SIGSTOP while it isn't its turn: threads that spin while they wait would take a core from the others.
    """

    def __init__(self, process: processes.Dialogue) -> None:
        self._process = process
        line = self._process.receive(120)
        if line is None:
            sys.exit(f"the plain loop did not start: {self._process.finish(1).complaint}")
        self._pid = int(line)
        os.kill(self._pid, signal.SIGSTOP)

    def run(self, texts: Sequence[str], batch: int) -> dict[str, Any]:
        """Rewards of texts, and the seconds of each batch."""
        os.kill(self._pid, signal.SIGCONT)
        self._process.send(json.dumps({"texts": list(texts), "batch": batch}))
        line = self._process.receive(1800)
        os.kill(self._pid, signal.SIGSTOP)
        if line is None:
            sys.exit(f"the plain loop ended: {self._process.finish(1).complaint}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def resume(self) -> None:
        """Let it go on, to its end."""
        os.kill(self._pid, signal.SIGCONT)


@contextmanager
def loop(checkpoint: Path, threads: str) -> Iterator[Loop]:
    """Start the plain loop; afterwards nothing of it is left."""
    environment = {**os.environ, **THREADS[threads], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.serving.servers.plain", str(checkpoint)]
    with processes.dialogue(command, cwd=ROOT, env=environment) as process:
        running = Loop(process)
        try:
            yield running
        finally:
            running.resume()


# --- one turn of one contestant --------------------------------------------------------------------------------------


def turn(server: Server, workload: str, asked: Sequence[Asked], sizes: Sizes) -> dict[str, Any]:
    """A workload's round by a server: its rate, latencies and errors."""
    clients = {"a": sizes.clients, "b": 1, "s": 1, "c": server.rival.bulk[1]}[workload]
    size = server.rival.bulk[0] if workload == "c" else 1
    requests = [
        request
        for start in range(0, len(asked), size)
        for request in server.rival.requests(asked[start : start + size], server.checkpoint)
    ]
    result = server.load(requests, clients)
    count = sum(len(each.texts) for each in asked)
    failed = sum(result["errors"].values()) / max(1, len(requests))
    latencies = sorted(result["latencies"]) or [math.nan]
    return {
        "rate": count * (1 - failed) / result["seconds"],
        "p50": statistics.median(latencies),
        "p99": latencies[min(len(latencies) - 1, math.ceil(0.99 * len(latencies)) - 1)],
        "errors": result["errors"],
    }


def turn_of_loop(plain: Loop, workload: str, asked: Sequence[Asked]) -> dict[str, Any]:
    """The same by the plain loop; alone it computes one text at a time."""
    texts = [text for each in asked for text in each.texts]
    result = plain.run(texts, 1 if workload == "s" else LOOP_BATCH)
    return {
        "rate": len(texts) / sum(result["seconds"]),
        "p50": statistics.median(result["seconds"]),
        "p99": max(result["seconds"]),
        "errors": {},
    }


# --- before anything is timed ----------------------------------------------------------------------------------------


def same_ids(rival: Rival, checkpoint: Path, asked: Sequence[Asked]) -> bool:
    """Whether the rival's environment makes the token ids that we score.

    Raises:
        UnavailableError: it can't be installed.
    """
    question: dict[str, Any] = {"folder": str(rival.checkpoint(checkpoint))}
    if rival.pairs:
        question["pairs"] = [
            (text.removesuffix(completion + "<|im_end|>"), completion + "<|im_end|>")
            for each in asked
            for text, completion in zip(each.texts, each.completions, strict=True)
        ]
    else:
        question["texts"] = [text for each in asked for text in each.texts]
    command = [interpreter(rival), "-m", "benchmarks.serving.servers.ids"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UnavailableError(f"its tokenizer does not load: {done.stderr.strip().splitlines()[-1][:200]}")
    return bool(json.loads(done.stdout) == [list(ids) for each in asked for ids in each.ids])


def tuned(
    rival: Rival,
    checkpoint: Path,
    texts: Texts,
    sizes: Sizes,
    settings: Sequence[str],
    expected: Sequence[float],
    scratch: Path,
) -> dict[str, Any]:
    """A rival's best setting of threads on each workload, with its scores checked first.

    Raises:
        UnavailableError: it can't be installed or doesn't start.
    """
    small = Sizes(max(16, sizes.singles // 6), max(2, sizes.groups // 4), max(8, sizes.bulk // 8), 8, sizes.clients)
    probe = texts.probe
    same = same_ids(rival, checkpoint, probe)
    rates: dict[str, dict[str, float]] = {}
    difference = 0.0
    for setting in settings:
        server = Server(rival, rival.checkpoint(checkpoint), setting, scratch)
        try:
            rewards = server.wait(probe)
            difference = max(abs(reward - value) for reward, value in zip(rewards, expected, strict=True))
            for workload in rival.workloads:
                asked = texts.round(workload, small, -1)
                turn(server, workload, probe[:2], small)
                result = turn(server, workload, asked, small)
                # Alone, what counts is how long one request takes.
                rates.setdefault(workload, {})[setting] = 1 / result["p50"] if workload == "s" else result["rate"]
        finally:
            server.stop()
        print(
            f"  {rival.name:<14}{setting:<10}"
            + "".join(f"{rates[w][setting] if w in rates else math.nan:10.1f}" for w in WORKLOADS),
            flush=True,
        )
    best = {workload: max(rates[workload], key=lambda setting: rates[workload][setting]) for workload in rates}
    return {"what": rival.what, "same_ids": same, "difference": difference, "best": best, "tuning": rates}


def tuned_loop(
    checkpoint: Path, texts: Texts, sizes: Sizes, settings: Sequence[str]
) -> tuple[dict[str, Any], list[float]]:
    """The plain loop's best settings, and the probe's rewards by single, unpadded forward passes."""
    rates: dict[str, dict[str, float]] = {}
    expected: list[float] = []
    for setting in settings:
        with loop(checkpoint, setting) as plain:
            expected = plain.run([text for each in texts.probe for text in each.texts], 1)["rewards"]
            for workload in WORKLOADS:
                asked = texts.round(workload, sizes, -1)
                asked = asked[: max(2, len(asked) // 6)]
                turn_of_loop(plain, workload, texts.probe[:2])
                result = turn_of_loop(plain, workload, asked)
                rates.setdefault(workload, {})[setting] = 1 / result["p50"] if workload == "s" else result["rate"]
        print(f"  {LOOP:<14}{setting:<10}" + "".join(f"{rates[w][setting]:10.1f}" for w in WORKLOADS), flush=True)
    best = {workload: max(rates[workload], key=lambda setting: rates[workload][setting]) for workload in WORKLOADS}
    what = f"the plain transformers loop in batches of {LOOP_BATCH}"
    return {"what": what, "same_ids": True, "difference": 0.0, "best": best, "tuning": rates}, expected


# --- interleaved rounds ----------------------------------------------------------------------------------------------


def measure(
    rows: dict[str, dict[str, Any]], checkpoint: Path, texts: Texts, sizes: Sizes, repeats: int, scratch: Path
) -> None:
    """Rounds of all workloads by everybody with their best settings, into `rows`."""
    rivals = {rival.name: rival for rival in (OURS, *RIVALS)}
    with ExitStack() as stack:
        servers: dict[tuple[str, str], Server] = {}
        loops: dict[str, Loop] = {}
        for name, row in rows.items():
            for setting in sorted(set(row["best"].values())):
                if name == LOOP:
                    loops[setting] = stack.enter_context(loop(checkpoint, setting))
                    continue
                server = Server(rivals[name], rivals[name].checkpoint(checkpoint), setting, scratch)
                stack.callback(server.stop)
                server.wait(texts.probe)
                server.pause()
                servers[name, setting] = server
        for workload in WORKLOADS:
            for number in range(repeats):
                # Who comes first changes from round to round.
                names = list(rows)
                names = names[number % len(names) :] + names[: number % len(names)]
                asked = texts.round(workload, sizes, number)
                for name in names:
                    if workload not in rows[name]["best"]:
                        continue
                    setting = rows[name]["best"][workload]
                    if name == LOOP:
                        result = turn_of_loop(loops[setting], workload, asked)
                    else:
                        server = servers[name, setting]
                        server.resume()
                        server.rewards(texts.probe[:1])
                        result = turn(server, workload, asked, sizes)
                        server.pause()
                    rows[name].setdefault("rounds", {}).setdefault(workload, []).append(result)
                print(
                    f"  {workload} {number + 1}/{repeats}  "
                    + "  ".join(
                        f"{name} {row['rounds'][workload][-1]['rate']:.1f}"
                        for name, row in rows.items()
                        if workload in row["best"]
                    ),
                    flush=True,
                )


def figures(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The ratios that are promised; nan for what was not run."""
    ours = rows[OURS.name]["rounds"]
    others = [name for name in rows if name not in (OURS.name, LOOP)]

    def ratio(workload: str, name: str, key: str = "rate") -> float:
        if name not in rows or workload not in rows[name]["best"]:
            return math.nan
        pairs = zip(ours[workload], rows[name]["rounds"][workload], strict=True)
        return statistics.median(own[key] / rival[key] for own, rival in pairs)

    def beside_best(workload: str) -> float:
        return min((ratio(workload, name) for name in others), default=math.nan)

    return {
        "a_vs_mlflow": ratio("a", "mlflow"),
        "a_vs_best": beside_best("a"),
        "a_p99_vs_best": max((ratio("a", name, "p99") for name in others), default=math.nan),
        "b_vs_transformers": ratio("b", LOOP),
        "b_vs_best": beside_best("b"),
        "c_vs_transformers": ratio("c", LOOP),
        "single": ratio("s", LOOP, "p50"),
    }


def table(record: dict[str, Any]) -> str:
    """One line per contestant, also for those that could not be run, and one per promise."""
    lines = [
        f"{'':<14}{'a: req/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}{'b: texts/s':>12}{'c: texts/s':>12}"
        f"{'alone ms':>10}  {'ids':<9}{'scores off by':<15}threads a/b/c/alone"
    ]
    for name, row in record["contestants"].items():
        if "unavailable" in row:
            lines.append(f"{name:<14}not run: {row['unavailable']}")
            continue
        a, b, c, alone = (
            {
                key: statistics.median([result[key] for result in row["rounds"].get(w, [])] or [math.nan])
                for key in ("rate", "p50", "p99")
            }
            for w in WORKLOADS
        )
        errors = sum(sum(result["errors"].values()) for results in row["rounds"].values() for result in results)
        served = f"{1000 * a['p50']:>9.1f}{1000 * a['p99']:>9.1f}" if name != LOOP else f"{'':>18}"
        lines.append(
            f"{name:<14}{a['rate']:>10.1f}{served}{errors:>8}{b['rate']:>12.1f}{c['rate']:>12.1f}"
            f"{1000 * alone['p50']:>10.2f}  {'the same' if row['same_ids'] else 'other':<9}{row['difference']:<15.1e}"
            + "/".join(row["best"].get(w, "-") for w in WORKLOADS)
        )
    for name, (sign, target) in TARGETS.items():
        value = record["figures"][name]
        reached = value >= target if sign == ">=" else value <= target
        words = "not measured" if math.isnan(value) else "reached" if reached else "MISSED"
        lines.append(f"{name:<20}{value:>8.2f}  asked for {sign} {target:<5} {words}")
    return "\n".join(lines)


def last_line(numbers: dict[str, float]) -> str:
    """RESULT and its figures."""
    names = ("a_vs_mlflow", "a_vs_best", "b_vs_transformers", "b_vs_best", "c_vs_transformers", "single")
    return "RESULT " + " ".join(f"{name}={numbers[name]:.2f}" for name in names)


def main() -> None:
    """Install, compare ids and scores, tune, measure, write, print the last line."""
    parser = argparse.ArgumentParser(prog="touchstone bench serve", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="where hh-rlhf/ lies; default: the sandbox's texts")
    parser.add_argument("--only", choices=[rival.name for rival in RIVALS], action="append", help="these rivals")
    parser.add_argument("--threads", choices=THREADS, action="append", help="these settings of threads; default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--singles", type=int, default=Sizes.singles, help="requests of workload a")
    parser.add_argument("--quick", action="store_true", help="small workloads, two rounds: to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.data is not None and not (given.data / "hh-rlhf").is_dir():
        parser.error(f"{given.data}/hh-rlhf does not exist; leave --data out for the sandbox's texts")
    sizes, repeats = (QUICK, min(2, given.repeats)) if given.quick else (Sizes(singles=given.singles), given.repeats)
    texts = Texts(given.data.resolve() if given.data else None)
    rivals = [rival for rival in RIVALS if given.only is None or rival.name in given.only]
    settings = given.threads or list(THREADS)
    rows: dict[str, dict[str, Any]] = {}
    missing: dict[str, dict[str, Any]] = {}

    # However this ends, no server is left.
    with processes.stopped_by_sigterm(), tempfile.TemporaryDirectory(prefix="touchstone-bench-serve-") as folder:
        scratch = Path(folder)
        checkpoint = texts.checkpoint(scratch / "checkpoint")
        print(f"texts: {texts.source}; tuning by threads: {'  '.join(WORKLOADS)}", flush=True)
        rows[LOOP], expected = tuned_loop(checkpoint, texts, sizes, settings)
        for rival in (OURS, *rivals):
            try:
                rows[rival.name] = tuned(rival, checkpoint, texts, sizes, settings, expected, scratch)
            except UnavailableError as error:
                if rival is OURS:
                    raise
                missing[rival.name] = {"what": rival.what, "unavailable": str(error)}
                print(f"  {rival.name}: {error}", flush=True)
                continue
            # Ours and every rival that reads the same ids must compute the same.
            row = rows[rival.name]
            if row["same_ids"] and row["difference"] > SAME and rival is OURS:
                sys.exit(f"{rival.name} is off by {row['difference']:.1e} from the unpadded forward pass")
        measure(rows, checkpoint, texts, sizes, repeats, scratch)

    record = {
        "hardware": hardware(),
        "libraries": {name: version(name) for name in ("torch", "transformers", "fastapi", "uvicorn", "mlflow")},
        "texts": texts.source,
        "model": "Qwen3 for sequence classification, 6 layers, hidden 256, 8192 tokens, fp32, random weights",
        "quick": given.quick,
        "repeats": repeats,
        "sizes": vars(sizes),
        "workloads": WORKLOADS,
        "contestants": {**rows, **missing},
        "figures": figures(rows),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "serving.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(record, given.out / "serving.svg")
    print(table(record))
    print(last_line(record["figures"]))


if __name__ == "__main__":
    main()
