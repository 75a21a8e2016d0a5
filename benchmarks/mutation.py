"""Would the tests notice? Small changes to the gate and its statistics, one at a time, and whether a test fails.

    pip install mutmut                                       # 3.8; no other part of the project needs it
    python -m benchmarks.mutation --sample 300 --seed 17     # benchmarks/results/mutation.json
    python -m benchmarks.mutation --sample 20 --result mutation.json

mutmut writes every mutant of touchstone/gate/checks/ and touchstone/statistics* into a copy of the project, and runs
for each the tests that reach its function, of those in TESTS alone. A mutant that no test reaches counts as a
survivor. Mutants are drawn by a seed from all of them, sorted by name; survivors are listed with file, line and
change. The last line has the share that was killed; below 90% the exit code is 1.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "mutation.json"
WANTED = 0.9
MUTATED = ("touchstone/gate/checks/*", "touchstone/statistics*")
TESTS = (
    "tests/gate/test_gates*.py",
    "tests/gate/test_*_gate.py",
    "tests/gate/test_looks_and_sizes.py",
    "tests/gate/test_judging_evidence.py",
    "tests/ground/test_statistics*.py",
    "tests/ground/test_c[al]*.py",
    "tests/ground/test_error_area.py",
    "tests/ground/test_falls.py",
    "tests/ground/test_first_error.py",
    "tests/ground/test_sequences.py",
    "tests/evaluation/test_best_of_n.py",
)
"""Those that ask the gate's checks and the statistics what they say, and that don't start a program."""
LIBRARIES = ("mutmut", "pytest", "hypothesis")
OUTCOMES = {"killed": "killed", "timeout": "killed", "survived": "survived", "no tests": "not reached"}
"""mutmut's words and ours; an endless loop is noticed by whoever waits for the tests."""


def copy_project(folder: Path, slow: bool) -> None:
    """What git knows or would know of the project, with mutmut's settings in the copy."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    tests = [path.relative_to(ROOT).as_posix() for pattern in TESTS for path in sorted(ROOT.glob(pattern))]
    entries = sorted({name.split("/")[0] for name in listed} - {"touchstone"})
    settings = {
        "source_paths": ["touchstone"],
        "only_mutate": list(MUTATED),
        "also_copy": [name for name in entries if (folder / name).exists()],
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": ["-p", "no:cacheprovider", *(("-m", "slow or not slow") if slow else ())],
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    with (folder / "pyproject.toml").open("a") as file:
        file.write("\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in the copy; its output, or an end with what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / ".hypothesis")},
        check=False,
    )
    if done.returncode:
        sys.exit(f"mutmut {arguments[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def outcomes(folder: Path) -> dict[str, str]:
    """Outcome of every mutant by name, in mutmut's words."""
    lines = [line.strip() for line in mutmut(folder, "results", "--all", "true").splitlines() if ": " in line]
    return dict(line.rsplit(": ", 1) for line in lines)


def describe(folder: Path, name: str) -> dict[str, Any]:
    """File, line and change of one mutant."""
    changed = mutmut(folder, "show", name).splitlines()
    before = [line[1:] for line in changed if re.match(r"-(?!--)", line)]
    after = [line[1:] for line in changed if re.match(r"\+(?!\+\+)", line)]
    path = next(line.split()[1].removeprefix("a/") for line in changed if line.startswith("--- "))
    function = re.search(r"[xǁ]_?(\w+?)__mutmut_\d+$", name.rsplit("ǁ", 1)[-1] if "ǁ" in name else name)
    own = function.group(1) if function else ""
    source = (ROOT / path).read_text()
    lines = source.splitlines()
    spans = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == own.removeprefix("x_")
    ]
    places = [
        n for low, high in spans for n in range(low, high + 1) if before and lines[n - 1].strip() == before[0].strip()
    ]
    return {
        "mutant": name,
        "file": path,
        "line": places[0] if places else (spans[0][0] if spans else None),
        "before": "\n".join(line.strip() for line in before),
        "after": "\n".join(line.strip() for line in after),
    }


def main() -> None:
    """Draw mutants, test them, print the survivors, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--slow", action="store_true", help="run the slow tests too")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="touchstone-mutation-") as place:
        folder = Path(place)
        copy_project(folder, arguments.slow)
        processes = ("--max-children", str(arguments.processes))
        # One mutant writes them all, and times every test.
        mutmut(folder, "run", *processes, "*x_verdict__mutmut_1")
        names = sorted(outcomes(folder))
        drawn = sorted(random.Random(arguments.seed).sample(names, min(arguments.sample, len(names))))
        print(f"{len(drawn)} of {len(names)} mutants", flush=True)
        began = time.monotonic()
        mutmut(folder, "run", *processes, *drawn)
        seconds = time.monotonic() - began
        found = outcomes(folder)
        survivors = [
            {**describe(folder, name), "outcome": OUTCOMES.get(found[name], found[name])}
            for name in drawn
            if OUTCOMES.get(found[name]) != "killed"
        ]
    files = Counter(name.rsplit(".", 1)[0] for name in drawn)
    alive = Counter(survivor["mutant"].rsplit(".", 1)[0] for survivor in survivors)
    killed = len(drawn) - len(survivors)
    for survivor in survivors:
        print(f"{survivor['outcome']}: {survivor['file']}:{survivor['line']}")
        print(f"    {survivor['before']}\n    {survivor['after']}")
    summary = {
        "mutants": len(names),
        "sample": len(drawn),
        "seed": arguments.seed,
        "killed": killed,
        "killed_share": round(killed / len(drawn), 4),
        "by_module": {name: f"{files[name] - alive[name]}/{files[name]}" for name in sorted(files)},
        "seconds": round(seconds, 1),
        "seconds_per_mutant": round(seconds / len(drawn), 2),
    }
    whole = {"survivors": survivors, "summary": summary, "hardware": hardware()}
    whole["versions"] = {name: version(name) for name in LIBRARIES}
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    print(f"RESULT killed={killed}/{len(drawn)} share={killed / len(drawn):.3f} seconds={seconds:.0f}")
    if killed < WANTED * len(drawn):
        sys.exit(1)


if __name__ == "__main__":
    main()
