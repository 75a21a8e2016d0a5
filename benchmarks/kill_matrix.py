"""kill -9 at random moments of training, half of them inside the writing of a checkpoint; then the same command again.

    python -m benchmarks.kill_matrix             # 30 kills; benchmarks/results/kill_matrix.json
    python -m benchmarks.kill_matrix --kills 4 --groups 300

One checkpoint is kept. Every resumed run must end with the weights and the curve of a run that nobody touched, byte
for byte, and may repeat no more steps than lie between two checkpoints. The processes are forked from one that has
loaded the libraries, which saves their loading and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import hardware
from touchstone.data.sources.sandbox import read
from touchstone.groups import read_parquet, write_parquet
from touchstone.model.base import build_base
from touchstone.runtime.files import digest_file, digest_folder, digest_value
from touchstone.settings import Settings, compose, parse
from touchstone.training.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "kill_matrix.json"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "safetensors")
CHECKPOINT_STEPS = 10


def configure(groups: int) -> Settings:
    """The sandbox's settings, smaller, with a checkpoint every few steps."""
    values = compose([], ROOT / "configs").model_dump(mode="json")
    values["data"]["groups"] = groups
    values["model"] |= {"layers": 2, "warmup_steps": 5}
    values["train"] |= {"checkpoint_steps": CHECKPOINT_STEPS, "checkpoints_kept": 1, "threads": 1}
    return parse(values)


def prepare(folder: Path, settings: Settings) -> Path:
    """A build folder with a training set and a base."""
    assert settings.data.source == "sandbox"
    assert settings.model.kind == "scratch"
    path = folder / "splits" / "train.parquet"
    path.parent.mkdir(parents=True)
    write_parquet(path, read(settings.data, ROOT))
    build_base(read_parquet(path), settings.model, seed=17, threads=1, folder=folder / "base")
    return folder


def place(folder: Path, prepared: Path) -> Path:
    """A build folder of its own with the prepared inputs."""
    folder.mkdir()
    for name in ("splits", "base"):
        (folder / name).symlink_to(prepared / name)
    return folder


def start(settings: Settings, build: Path, events: Path) -> int:
    """Train in a process of its own; returns its id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(build / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        tempfile.tempdir = str(build)
        train(settings, build, events)
        code = 0
    finally:
        os._exit(code)


def finished(child: int) -> bool:
    """Wait; whether the process ended by itself and well."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def outcome(build: Path) -> str:
    """One digest of weights, tokenizer and curve."""
    return digest_value({"model": digest_folder(build / "model"), "curve": digest_file(build / "curve.jsonl")})


def last_step(events: Path) -> int:
    """Steps whose row was written whole."""
    lines = events.read_bytes().split(b"\n")[:-1] if events.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def trial(settings: Settings, build: Path, dice: random.Random, seconds: float, inside: bool) -> dict[str, Any] | None:
    """Kill one training, at a random moment or inside a random save, and resume it to the end.

    None where it had ended before: how fast it is depends on what else the machine does.
    """
    keep = build / "checkpoints"
    child = start(settings, build, build / "killed.jsonl")
    end = time.monotonic() + seconds * dice.uniform(0.02, 0.9)
    ended = 0
    while time.monotonic() < end and not ended:
        time.sleep(0.001)
        ended = os.waitpid(child, os.WNOHANG)[0]
    while inside and not ended:
        if list(keep.glob(".step-*")):
            time.sleep(dice.uniform(0.0, 0.02))
            break
        ended = os.waitpid(child, os.WNOHANG)[0]
    if ended:
        return None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = last_step(build / "killed.jsonl")
    hit = bool([left for left in keep.glob(".*") if left.is_dir()])
    resumed = finished(start(settings, build, build / "resumed.jsonl"))
    first = json.loads((build / "resumed.jsonl").read_text().splitlines()[0])["step"]
    return {
        "killed_after_step": done,
        "inside_save": hit,
        "went_on_from_step": first - 1,
        "steps_repeated": done - (first - 1),
        "ended_well": resumed,
        "outcome": outcome(build) if resumed else None,
    }


def matrix(kills: int, groups: int, seed: int, folder: Path) -> dict[str, Any]:
    """All trials against the run that nobody touched. At least half of the kills hit a save."""
    settings = configure(groups)
    prepared = prepare(folder / "prepared", settings)
    whole = place(folder / "whole", prepared)
    began = time.monotonic()
    assert finished(start(settings, whole, whole / "events.jsonl")), (whole / "log").read_text()
    seconds = time.monotonic() - began
    expected = outcome(whole)
    dice = random.Random(seed)
    trials: list[dict[str, Any]] = []
    while len(trials) < kills or 2 * sum(made["inside_save"] for made in trials) < kills:
        inside = 2 * sum(made["inside_save"] for made in trials) <= len(trials)
        build = place(folder / f"trial-{dice.getrandbits(64):016x}", prepared)
        made = trial(settings, build, dice, seconds, inside)
        if made is None:
            continue
        made["equal"] = made.pop("outcome") == expected
        trials.append(made)
        print(json.dumps(made), flush=True)
    return {"seconds": round(seconds, 1), "steps": last_step(whole / "events.jsonl"), "trials": trials}


def main() -> None:
    """Run the matrix, print a line per kill, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--groups", type=int, default=1600, help="size of the training set")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="touchstone-kills-") as folder:
        result = matrix(arguments.kills, arguments.groups, arguments.seed, Path(folder))
    trials = result["trials"]
    equal = sum(made["equal"] for made in trials)
    summary = {
        "kills": len(trials),
        "inside_save": sum(made["inside_save"] for made in trials),
        "resumed_equal": equal,
        "most_steps_repeated": max(made["steps_repeated"] for made in trials),
        "checkpoint_steps": CHECKPOINT_STEPS,
        "checkpoints_kept": 1,
    }
    whole = {**result, "summary": summary, "hardware": hardware(), "versions": {n: version(n) for n in LIBRARIES}}
    arguments.result.parent.mkdir(exist_ok=True)
    arguments.result.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    print(
        f"RESULT resumed={equal}/{len(trials)} inside_save={summary['inside_save']} "
        f"most_steps_repeated={summary['most_steps_repeated']} checkpoint_steps={CHECKPOINT_STEPS}"
    )
    if equal < len(trials):
        sys.exit(1)


if __name__ == "__main__":
    main()
