"""Import, validate, audit and split a million generated groups, a part of them broken in known ways; find each.

    touchstone bench data                    # about 1.5 GB of JSON lines, some minutes on two cores
    python -m benchmarks.data --groups 20000
    python -m benchmarks.data --table        # the import alone: the table source beside the reader of pairs

The file is generated first, outside the measured time: pairs with prompts, chosen, rejected and margin, of which 0.4%
are broken in the twelve ways of `FAULTS`. Beside them lie pairs judged the other way in another place, which must be
counted and become votes on one pair, and near duplicates of earlier prompts, which must lie in one set with what they
repeat. Every stage runs in
a process of its own, as `dvc repro` runs it; memory is that of the process and its children together (PSS), sampled.
Writes results/data.json; with --table results/data_table.json, medians of imports by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from benchmarks.machine import hardware
from touchstone import settings
from touchstone.data.importing import import_source
from touchstone.runtime.progress import progress
from touchstone.settings.checks import SETS

RESULTS = Path(__file__).resolve().parent / "results"
ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.004
PROMPT, ANSWER = 70, 85
"""Words."""

FAULTS = {
    # how a row is broken: the reason or check that must name it
    "cut": "not valid JSON (cut short, or followed by something else)",
    "encoding": "not valid UTF-8",
    "repeated_key": "a JSON object with a repeated key",
    "nan": "'margin' is not finite",
    "missing": "no field 'rejected'",
    "number": "'chosen' is not text",
    "blank": "'rejected' is empty",
    "surrogate": "a lone surrogate",
    "negative_margin": "'margin' is below 0: by it the rejected completion is the better one",
    "equal": "has_good_comparison",
    "repeated": "no_duplicate",
    "endless": "texts_are_varied",
}

READERS = {
    "preference": ["data=preference", "data.margin_field=margin"],
    "table": ["data=table", "data.judgements.helpfulness.margin=margin"],
}
"""Settings by which either source reads the file."""


def generate(path: Path, groups: int, seed: int) -> dict[str, Any]:
    """Write the file; returns what was planted: kind by line, contradicted lines, and near duplicates by line."""
    dice = np.random.Generator(np.random.PCG64(seed))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(dice.choice(letters, size)) for size in dice.integers(3, 10, 20_000)])
    lines = dice.choice(np.arange(2, groups), int(SHARE * groups), replace=False).tolist()
    broken = {line: list(FAULTS)[number % len(FAULTS)] for number, line in enumerate(lines)}
    planted: dict[str, Any] = {"faults": {}, "contradicted": [], "near": {}}
    last: dict[str, Any] = {}
    last_line = 0
    with path.open("wb") as file:
        for start in progress(range(0, groups, 1000), "generate", -(-groups // 1000)):
            count = min(1000, groups - start)
            drawn = words[dice.integers(0, len(words), (count, PROMPT + 2 * ANSWER))]
            for number in range(count):
                line = start + number + 1
                text = drawn[number].tolist()
                row = {
                    "prompt": " ".join(text[:PROMPT]),
                    "chosen": " ".join(text[PROMPT : PROMPT + ANSWER]),
                    "rejected": " ".join(text[PROMPT + ANSWER :]),
                    "margin": round(float(dice.random() * 3), 2),
                }
                kind = broken.get(line)
                if kind is not None:
                    planted["faults"][line] = kind
                elif last and line % 997 == 0:
                    row = {**last, "chosen": last["rejected"], "rejected": last["chosen"]}
                    planted["contradicted"].append(line)
                elif last and line % 991 == 0:
                    row["prompt"] = last["prompt"].rsplit(" ", 1)[0] + " else"
                    planted["near"][line] = last_line
                file.write(broken_line(row, kind, last) if kind else json.dumps(row).encode() + b"\n")
                if kind is None and line not in planted["contradicted"][-1:]:
                    last, last_line = row, line
    return planted


def broken_line(row: dict[str, Any], kind: str, last: dict[str, Any]) -> bytes:
    """The row's line, broken in one way."""
    line = json.dumps(row).encode()
    match kind:
        case "cut":
            line = line[: len(line) // 2]
        case "encoding":
            line = line.replace(b'"chosen": "', b'"chosen": "\xff', 1)
        case "repeated_key":
            line = line[:-1] + b', "prompt": "again"}'
        case "nan":
            line = json.dumps({**row, "margin": float("nan")}).encode()
        case "missing":
            line = json.dumps({key: value for key, value in row.items() if key != "rejected"}).encode()
        case "number":
            line = json.dumps({**row, "chosen": 42}).encode()
        case "blank":
            line = json.dumps({**row, "rejected": " \t "}).encode()
        case "surrogate":
            line = json.dumps({**row, "chosen": row["chosen"] + " \ud800"}).encode()
        case "negative_margin":
            line = json.dumps({**row, "margin": -1.0}).encode()
        case "equal":
            line = json.dumps({**row, "rejected": row["chosen"].replace(" ", "  ")}).encode()
        case "repeated":
            line = json.dumps(last).encode()
        case "endless":
            line = json.dumps({**row, "chosen": "a" * 5000}).encode()
    return line + b"\n"


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; returns its seconds and the most GiB that it and its children held."""
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    peak = 0
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in family))
        except psutil.Error:
            pass  # one of them has just ended
        time.sleep(0.25)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}")
    return seconds, peak / 2**30


def judge(folder: Path, planted: dict[str, Any], groups: int) -> dict[str, Any]:
    """What was found of what was planted, and what was set aside without reason."""
    rows = pl.read_parquet(folder / "build/quarantine.parquet").to_dicts()
    imported = {row["line"]: row["reason"] for row in rows if row["check"] == "import"}
    lines = [line for line in range(1, groups + 1) if line not in imported]
    # A comparison that goes with its group has a row of its own; the group's row says why.
    groups_aside = [row for row in rows if row["check"] != "import" and row["comparison"] is None]
    checked = {lines[row["line"] - 1]: row["check"] for row in groups_aside}
    found = {line: imported.get(line, checked.get(line)) for line in planted["faults"]}
    right = [line for line, kind in planted["faults"].items() if found[line] == FAULTS[kind]]
    missed = Counter(kind for line, kind in planted["faults"].items() if found[line] != FAULTS[kind])
    false = [line for line in {*imported, *checked} if line not in planted["faults"]]
    report = json.loads((folder / "build/validation.json").read_text())
    split = json.loads((folder / "build/splits/summary.json").read_text())
    places: dict[str, str] = {}
    for name in SETS:
        places |= dict.fromkeys(pl.read_parquet(folder / f"build/splits/{name}.parquet", columns=["id"])["id"], name)
    ids = pl.read_parquet(folder / "build/groups.parquet", columns=["id"])["id"].to_list()
    # What contradicts its line is a vote on the pair of an earlier one.
    elsewhere = {*checked, *planted["contradicted"]}
    alone = (line for line in lines if line not in elsewhere)
    kept = dict(zip(alone, ids, strict=True))
    pairs = [(places.get(kept[one]), places.get(kept[other])) for one, other in planted["near"].items()]
    apart = sum(None not in pair and pair[0] != pair[1] for pair in pairs)
    return {
        "planted": len(planted["faults"]),
        "found": len(right),
        "missed": dict(missed),
        "false": len(false),
        "contradicted": [2 * len(planted["contradicted"]), report["totals"]["contradicted_pairs"]],
        "merged": [len(planted["contradicted"]), report["totals"]["groups_merged"]],
        "near_duplicates": [len(planted["near"]), len(planted["near"]) - apart],
        "joined": sum(counts["clusters"] - counts["families"] for counts in split["sets"].values()),
        "near_duplicates_set_aside": split["groups_set_aside"],
    }


def compare_readers(folder: Path, repeats: int) -> dict[str, Any]:
    """Import the file by either reader, by turns; medians of seconds and GiB, and the table's over the other's."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in READERS}
    for _ in range(repeats):
        for name, overrides in READERS.items():
            params = settings.compose([*overrides, "data.path=pairs.jsonl", "data.name=pairs"], ROOT / "configs")
            (folder / "params.yaml").write_text(settings.dump(params))
            shutil.rmtree(folder / "data", ignore_errors=True)
            measured[name].append(run([sys.executable, "-m", "benchmarks.data", "--import-only", "."], folder))
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in measured.items()
    }
    ratios = [mine / other for mine, other in zip(medians["table"], medians["preference"], strict=True)]
    named = {name: {"seconds": round(seconds, 1), "gib": round(gib, 3)} for name, (seconds, gib) in medians.items()}
    return {"medians": named, "seconds_ratio": round(ratios[0], 3), "gib_ratio": round(ratios[1], 3)}


def main() -> None:
    """Generate, run the stages, judge, write the result, print the last line."""
    parser = argparse.ArgumentParser(prog="touchstone bench data", description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="the import by the table source and by that of pairs")
    parser.add_argument("--repeats", type=int, default=3, help="of --table")
    parser.add_argument("--import-only", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.import_only:
        print(import_source(settings.load(), given.import_only, Path("data")))
        return
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as name:
        folder = Path(name)
        planted = generate(folder / "pairs.jsonl", given.groups, given.seed)
        size = (folder / "pairs.jsonl").stat().st_size
        if given.table:
            compared = {"hardware": hardware(), "groups": given.groups, **compare_readers(folder, given.repeats)}
            given.out.mkdir(parents=True, exist_ok=True)
            (given.out / "data_table.json").write_text(json.dumps(compared, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(compared, indent=1))
            print(f"RESULT seconds_ratio={compared['seconds_ratio']} gib_ratio={compared['gib_ratio']}")
            return
        overrides = [*READERS["preference"], "data.path=pairs.jsonl"]
        (folder / "params.yaml").write_text(settings.dump(settings.compose(overrides, ROOT / "configs")))
        python = [sys.executable, "-m"]
        commands = {
            "import": [*python, "benchmarks.data", "--import-only", "."],
            "validate": [*python, "touchstone.data.validation"],
            "audit": [*python, "touchstone.data.audit"],
            "split": [*python, "touchstone.data.splits"],
        }
        stages = {}
        for stage, command in commands.items():
            seconds, gib = run(command, folder)
            stages[stage] = {"seconds": round(seconds, 1), "gib": round(gib, 2)}
        found = judge(folder, planted, given.groups)
    record = {
        "hardware": hardware(),
        "libraries": {library: version(library) for library in ("polars", "pyarrow", "great-expectations")},
        "groups": given.groups,
        "gigabytes": round(size / 1e9, 2),
        "stages": stages,
        **found,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "data.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))
    seconds, gib = sum(stage["seconds"] for stage in stages.values()), max(stage["gib"] for stage in stages.values())
    print(
        f"RESULT seconds={seconds:.0f} gib={gib:.2f} planted={found['planted']} found={found['found']} "
        f"false={found['false']}"
    )


if __name__ == "__main__":
    main()
