"""The year's project: a clone of this repository with settings of its own, its endpoint, its commands as processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks.year.world import TABLE, Plan, base_texts
from touchstone import settings as settings_module
from touchstone.client import Client
from touchstone.errors import ServingError
from touchstone.model.base import build_base
from touchstone.pipeline import dvc, runs
from touchstone.runtime.files import write_atomic

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 7200
"""A command that takes longer hangs."""
SHARES = {
    "train": 0.20, "validation": 0.01, "calibration": 0.12, "holdout": 0.27, "confirm": 0.05, "reference": 0.27,
    "canary": 0.08,
}  # fmt: skip
"""A young project: what it learns from grows threefold in the year. Holdout and reference are of one size, so that one
can take the other's place. With half of that calibration set the temperature is known so badly that the check of
calibration waits for more prompts."""
DECOYS = 3.0
"""A group. With the usual half of them so few groups don't teach that an answer given twice is no better."""


def make_project(folder: Path, plan: Plan) -> Path:
    """The clone, configured; where it stands already, it stays as it is."""
    root = folder / "project"
    if root.is_dir():
        return root
    made = folder / "project.new"
    shutil.rmtree(made, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(made)], check=True)
    # What the embedded data would be is not wanted here: the first batch is the first data.
    (made / "data.dvc").unlink()
    values = settings_module.compose(["model=pretrained", "model.base=base"], made / "configs").model_dump(mode="json")
    values["name"] = "reward-year"
    values["data"] = {**TABLE, "path": str(folder / "inbox")}
    values["split"] = {**values["split"], "shares": SHARES}
    values["model"] |= {"base": str(make_base(folder, plan)), "max_tokens": 512}
    values["train"]["threads"] = 1
    values["objective"]["decoys"] = DECOYS
    values["gates"]["max_holdout_uses"] = plan.holdout_uses
    values["serve"] |= {"port": _free_port(), "threads": 1}
    values["serve"]["samples"] |= {"folder": str(folder / "samples"), "share": 1.0}
    (made / "params.yaml").write_text(settings_module.dump(settings_module.parse(values)))
    (folder / "inbox").mkdir(exist_ok=True)
    made.rename(root)
    return root


def make_base(folder: Path, plan: Plan) -> Path:
    """The model that every run of the year starts from, as an SFT model would be; made once.

    A base that each run warms up anew differs from run to run by more than a month of comparisons brings.
    """
    base = folder / "base"
    if not base.is_dir():
        settings = settings_module.compose(["model=scratch", f"model.warmup_steps={plan.warmup_steps}"])
        assert settings.model.kind == "scratch"
        build_base(base_texts(plan), settings.model, seed=plan.seed, threads=1, folder=base)
    return base


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, negative for a signal.
        last: line of what it said.
    """

    code: int
    seconds: float
    last: str


def start(root: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a command of the project in a process of its own; what it says goes to the year's log."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with (root.parent / "log").open("ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=environment, stdout=log, stderr=log)


def run(root: Path, *command: str) -> Ended:
    """Run a command of the project to its end."""
    began = time.monotonic()
    code = start(root, *command).wait(SECONDS)
    return Ended(code, round(time.monotonic() - began, 1), _last_line(root))


def stop_commands() -> None:
    """End what was started here and still runs."""
    for process in psutil.Process().children():
        process.terminate()


def _last_line(root: Path) -> str:
    return (root.parent / "log").read_text(errors="replace").rstrip().rpartition("\n")[2][:300]


def retrain_killed(root: Path, seconds: float, *command: str) -> Ended:
    """Start a retrain, kill -9 it after so many seconds, and run the same command to its end."""
    process = start(root, *command)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return run(root, *command)


def retrain_twice(root: Path, *command: str) -> tuple[Ended, int]:
    """Start the same retrain twice at once; how the one that worked ended, and the exit code of the other, which left
    the work to it (`loop.when_busy`)."""
    began = time.monotonic()
    pair = [start(root, *command) for _ in range(2)]
    while all(process.poll() is None for process in pair):
        time.sleep(0.1)
    other, worker = sorted(pair, key=lambda process: process.poll() is None)
    code = worker.wait(SECONDS)
    return Ended(code, round(time.monotonic() - began, 1), _last_line(root)), other.wait()


@contextlib.contextmanager
def endpoint(root: Path) -> Iterator[Client]:
    """`touchstone serve` for as long as the block runs, and a client of it; it follows the champion."""
    settings = settings_module.load(root / "params.yaml")
    process = start(root, "touchstone.cli", "serve")
    try:
        with Client(f"http://{settings.serve.host}:{settings.serve.port}", patience=120.0) as client:
            yield client
    finally:
        process.terminate()
        process.wait(60)


def wait_for(client: Client, version: int, seconds: float = 600.0) -> None:
    """Until the endpoint serves a version.

    Raises:
        ServingError: it doesn't in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(ServingError):
            if client.rewards([("Is it there?", ["Yes."])]).version == version:
                return
        time.sleep(0.5)
    raise ServingError(f"version {version} was promoted, and is not served after {seconds:g} seconds")


def strays(root: Path) -> list[str]:
    """Processes that work in the project and descend from nobody here: what a kill has left."""
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = process.info["cmdline"] or []  # None where it may not be read
        here = str(root) in " ".join(words) or str(process.info["cwd"]).startswith(str(root))
        if here and process.info["pid"] not in ours:
            found.append(" ".join(Path(word).name for word in words)[:100])
    return found


def rotate(root: Path) -> bool:
    """Let the reference set's prompts take the holdout's place; False where they have: then both are spent."""
    path = root / "params.yaml"
    settings = settings_module.load(path)
    if settings.split.rotated:
        return False
    split = settings.split.model_copy(update={"rotated": True})
    write_atomic(path, settings_module.dump(settings.model_copy(update={"split": split})))
    return True


@contextlib.contextmanager
def artifact_of(root: Path, run_id: str) -> Iterator[Path]:
    """The sealed model that a run made, out of the project's cache."""
    lock = runs.folder_of(root) / run_id / "dvc.lock"
    listing = dvc.cached(root, lock, "build/artifact")
    assert listing is not None, f"{lock} names an artifact that the cache doesn't hold"
    cache = dvc.cache_folder(root) / "files" / "md5"
    with tempfile.TemporaryDirectory(prefix="touchstone-year-") as scratch:
        for entry in yaml.safe_load(listing.read_text(encoding="utf-8")):
            target = Path(scratch) / entry["relpath"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cache / entry["md5"][:2] / entry["md5"][2:], target)
        yield Path(scratch)
