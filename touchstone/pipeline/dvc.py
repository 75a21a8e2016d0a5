"""The only caller of DVC's command line (pinned in requirements.in: two of its sentences are read here)."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
import zc.lockfile

from touchstone.errors import PipelineError, StageError
from touchstone.runtime import processes
from touchstone.runtime.files import write_atomic

CHATTER = frozenset(
    {
        b"Generating lock file 'dvc.lock'",
        b"Updating lock file 'dvc.lock'",
        b"Use `dvc push` to send your updates to remote storage.",
    }
)
"""What DVC says after every stage, and nobody needs to know of a private worktree."""


_REPRO = ("--wait-for-lock", "repro", "--single-item")


class How(StrEnum):
    """How a stage came to its outputs."""

    RAN = "ran"
    RESTORED = "restored"
    """Its outputs came from the run-cache: the same command, dependencies and parameters ran before."""
    UNCHANGED = "unchanged"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, for DVC and its stages: no analytics, and the commands of this Python's environment found first."""
    binaries = str(Path(sys.executable).parent)
    # git sets these inside hooks and for aliases; they would lead DVC to another repository or index.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    path = os.pathsep.join([binaries, inherited.get("PATH", os.defpath)])
    return {**inherited, "PATH": path, "DVC_NO_ANALYTICS": "1", **(extra or {})}


def repro(folder: Path, stage: str, *, log: Path, env: Mapping[str, str] | None = None, anew: bool = False) -> How:
    """Reproduce one stage, its output passed on to stderr and written to `log`.

    Upstream stages and `*.dvc` pointers are not run or brought: the caller goes through the graph in order.

    Args:
        anew: run its command, whatever was run or is recorded.

    Raises:
        StageError: the command failed (the message ends with the command's own sentence), or the stage read other
            bytes than an earlier stage or a pointer has on record.
    """
    words = [*_REPRO, *(("--force", "--no-run-cache") if anew else ()), stage]
    return _how(folder, stage, _run(folder, words, log=log, echo=True, env=env), log)


@contextlib.contextmanager
def repro_beside(
    folder: Path, stage: str, *, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[Callable[[], How | None]]:
    """Within, reproduce one stage beside whatever runs in the same folder; its output goes to `log` alone.

    DVC holds its lock while it looks at files and writes dvc.lock, not while a stage's command runs. What the block
    has not waited for is killed at its end.

    Gives a function that says how the stage came to its outputs, None while it is at it; it raises as `repro` does.
    """
    with processes.background(_command([*_REPRO, stage]), cwd=folder, env=_environment(folder, env), log=log) as code:

        def outcome() -> How | None:
            ended_with = code()
            if ended_with is None:
                return None
            return _how(folder, stage, processes.Finished(ended_with, processes.plain_text(log.read_bytes())), log)

        yield outcome


def _how(folder: Path, stage: str, finished: processes.Finished, log: Path) -> How:
    if finished.code:
        raise StageError(f"stage {stage} failed: {_complaint(finished)} (its output: {log})")
    _check_read(folder, stage)
    if "Running stage" in finished.output:
        return How.RAN
    return How.RESTORED if "is cached - skipping run" in finished.output else How.UNCHANGED


def without_chatter(output: bytes) -> str:
    """What a stage that ran beside has printed, as `repro` would have passed it on."""
    lines = processes.plain_text(output).splitlines(keepends=True)
    return "".join(line for line in lines if line.rstrip().encode() not in CHATTER)


def _check_read(folder: Path, stage: str) -> None:
    """Refuse a stage that read what changed after it was made: DVC, asked for one stage, takes files as they stand."""
    with _at_rest(folder):
        stages = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    outputs = [output for entry in stages.values() for output in entry.get("outs", ())]
    made = {(output["path"], output["md5"]) for output in outputs}
    made |= {(pointer.stem, pointer_hash(pointer)) for pointer in folder.glob("[!.]*.dvc")}
    paths = {path for path, _ in made}
    for read in stages[stage].get("deps", ()):
        if read["path"] in paths and (read["path"], read["md5"]) not in made:
            raise StageError(
                f"{read['path']} changed after it was made and before stage {stage} read it; what it made of that "
                f"is not used; run the same command again"
            )


@contextlib.contextmanager
def _at_rest(folder: Path) -> Iterator[None]:
    """Hold DVC's own lock: a DVC command beside us may be in the middle of rewriting dvc.lock, which isn't atomic."""
    while True:
        try:
            lock = zc.lockfile.LockFile(str(folder / ".dvc" / "tmp" / "lock"))
            break
        except zc.lockfile.LockError:
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.close()


def sort_lock(folder: Path, stages: Sequence[str]) -> None:
    """Bring the stages of dvc.lock into this order: DVC appends each as it ends, and equal runs leave equal bytes."""
    path = folder / "dvc.lock"
    with _at_rest(folder):
        head, *entries = re.split(r"^(?=  [^ ][^:]*:$)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        entries.sort(key=lambda entry: stages.index(entry.partition(":")[0].strip()))
        write_atomic(path, head + "".join(entries))


def add(folder: Path, path: str) -> None:
    """Put a file or folder into the cache and write its pointer `path`.dvc.

    Raises:
        PipelineError: DVC refused.
    """
    _checked(folder, ["add", "--quiet", path])


def checkout(folder: Path, *targets: str) -> bool:
    """Bring outputs from the cache into the workspace; False if the cache doesn't hold all of them."""
    return _run(folder, ["checkout", "--quiet", "--force", *targets]).code == 0


def fetch(folder: Path, *targets: str) -> bool:
    """Bring objects from the default remote into the cache; False if there is no remote, or it lacks some."""
    if not _checked(folder, ["remote", "list"]).strip():
        return False
    return _run(folder, ["fetch", "--quiet", *targets]).code == 0


def status(folder: Path, *targets: str) -> dict[str, list[Any]]:
    """DVC's own answer to what has changed, by stage or pointer; empty if nothing has.

    Raises:
        PipelineError: DVC can't say, for one because another DVC command runs in the folder.
    """
    output = _checked(folder, ["status", "--json", *targets])
    answer: dict[str, list[Any]] = json.loads(output.strip().splitlines()[-1])
    return answer


def share_cache(root: Path, worktree: Path) -> None:
    """Let a worktree use the project's cache, and what the project keeps in .dvc/config.local (remotes, their keys).

    Written here and not by `dvc config`: three commands of half a second, before every run and plan.
    """
    local = configparser.RawConfigParser()
    local.optionxform = str  # type: ignore[assignment,method-assign]
    local.read(root / ".dvc" / "config.local", encoding="utf-8")
    # Staged into the worktree's own index; otherwise DVC ends every command with advice on what to add.
    for section, key, value in (("cache", "dir", str(cache_folder(root))), ("core", "autostage", "true")):
        if not local.has_section(section):
            local.add_section(section)
        local.set(section, key, value)
    with (worktree / ".dvc" / "config.local").open("w", encoding="utf-8") as file:
        local.write(file)


def cached(root: Path, lock: Path, output: str) -> Path | None:
    """Where the project's cache holds a file that a dvc.lock names as an output; None if it doesn't.

    Raises:
        PipelineError: the lock can't be read.
    """
    try:
        stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
        hashes = [out["md5"] for stage in stages.values() for out in stage["outs"] if out["path"] == output]
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise PipelineError(f"{lock} is no dvc.lock ({type(error).__name__}); restore it from a copy") from None
    paths = [cache_folder(root) / "files" / "md5" / name[:2] / name[2:] for name in hashes]
    return next((path for path in paths if path.is_file()), None)


def cache_folder(root: Path) -> Path:
    """The project's cache, as .dvc/config and .dvc/config.local have it."""
    ours = configparser.RawConfigParser()
    ours.optionxform = str  # type: ignore[assignment,method-assign]
    ours.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    return root / ".dvc" / ours.get("cache", "dir", fallback="cache")  # a relative one counts from .dvc/


def pointer_hash(pointer: Path) -> str | None:
    """The hash that a `.dvc` file gives its output; None if there is no such file.

    Raises:
        PipelineError: the file is not a pointer.
    """
    try:
        document = yaml.safe_load(pointer.read_text(encoding="utf-8"))
        return str(document["outs"][0]["md5"])
    except FileNotFoundError:
        return None
    except (OSError, KeyError, IndexError, TypeError, ValueError, yaml.YAMLError):
        raise PipelineError(f"{pointer} is no DVC pointer; restore it from git, or import the data again") from None


def _checked(folder: Path, arguments: list[str]) -> str:
    finished = _run(folder, arguments)
    if finished.code:
        raise PipelineError(f"dvc {arguments[0]} failed: {_complaint(finished)}")
    return finished.output


def _run(
    folder: Path,
    arguments: list[str],
    *,
    log: Path | None = None,
    echo: bool = False,
    env: Mapping[str, str] | None = None,
) -> processes.Finished:
    environment = _environment(folder, env)
    return processes.run(_command(arguments), cwd=folder, env=environment, log=log, echo=echo, unechoed=CHATTER)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def _environment(folder: Path, extra: Mapping[str, str] | None) -> dict[str, str]:
    more = dict(extra or {})
    if (folder / ".git").is_file():
        # DVC keeps a database per workspace in /var/tmp for ever; inside a worktree it goes when that goes.
        more["DVC_SITE_CACHE_DIR"] = str(folder / ".dvc" / "tmp" / "site")
    return environment(more)


def _complaint(finished: processes.Finished) -> str:
    """The stage's own sentence where it has one: DVC's, which follows, only says that the command failed."""
    return finished.complaint.removesuffix(".")
