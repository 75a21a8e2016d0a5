"""What a process gets of its machine: threads that sleep while they wait, its own cores, bf16 where there is any."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.places import ROOT
from tests.worlds.sealed import make_tiny_artifact
from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, make_build, make_groups
from touchstone.model.processor import batches_at_once, threads_for
from touchstone.runtime import parallel
from touchstone.runtime.parallel import cores, threads_of
from touchstone.settings import compose
from touchstone.training.state import inputs_of

OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Makes the libraries take a processor with AVX-512 and AMX for one without."""


def environment(**more: str) -> dict[str, str]:
    """As of a plain shell: nobody has said how threads wait."""
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    binaries = os.pathsep.join([str(Path(sys.executable).parent), plain["PATH"]])
    return {**plain, "PATH": binaries, "PYTHONPATH": str(ROOT), **more}


def run(code: str, folder: Path, **more: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, check=True
    ).stdout


def stage(name: str) -> str:
    """A stage's command as DVC runs it, from any folder."""
    command = str(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]["cmd"])
    return command.replace("${train.accelerate}", "cpu").replace("configs/", f"{ROOT}/configs/")


COMPUTE = [
    *map(stage, ("base", "train", "seal", "audit")),
    *("python -m touchstone.model.scoring a b c", "python -m benchmarks.training.worker --help"),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPUTE, ids=lambda command: command.split(" -m ")[1])
def test_threads_sleep_while_they_wait(command: str, tmp_path: Path) -> None:
    """Under plain `dvc repro`, and asked of OpenMP; that the command then finds nothing to work on doesn't matter."""
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"stage": {"cmd": command}}}))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    told = environment(OMP_DISPLAY_ENV="VERBOSE", DVC_NO_ANALYTICS="1")
    done = subprocess.run(["dvc", "repro"], cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
    spins = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stdout + done.stderr)
    # The launcher of `train` loads torch for itself; the stage comes last.
    assert spins, done.stderr
    assert spins[-1] == "0"


def test_who_says_how_threads_wait_is_heeded(tmp_path: Path) -> None:
    code = "import os, touchstone; print(os.environ['OMP_WAIT_POLICY'])"
    assert run(code, tmp_path) == "PASSIVE\n"
    assert run(code, tmp_path, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE\n"


def test_auto_is_the_cores_that_a_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(parallel, "QUOTA", quota)
    assert (cores(), threads_of("auto"), threads_of(3)) == (6, 6, 3)
    for text, number in (("max 100000\n", 6), ("250000 100000\n", 2), ("50000 100000\n", 1), ("900000 100000\n", 6)):
        quota.write_text(text)
        assert cores() == number, text
    quota.write_text("max 100000\n")
    for ranks, number in ((2, 3), (4, 1), (8, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert threads_of("auto") == number


def test_auto_is_one_thread_for_a_narrow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(parallel, "QUOTA", Path("/nonexistent"))
    narrow, wide = compose([], ROOT / "configs"), compose(["model.hidden=512"], ROOT / "configs")
    read = compose(["model=pretrained", "model.base=../base", "train.tokens_per_microbatch=4096"], ROOT / "configs")
    asked = compose(["train.threads=3", "serve.threads=2"], ROOT / "configs")
    assert (narrow.training_threads, narrow.serving_threads) == (1, 1)
    assert (wide.training_threads, wide.serving_threads) == (6, 6)
    assert (read.training_threads, read.serving_threads) == (6, 6)
    assert (asked.training_threads, asked.serving_threads) == (3, 2)


def test_batches_at_once_leave_each_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(parallel, "QUOTA", Path("/nonexistent"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [batches_at_once("auto", threads) for threads in (1, 2, 4, 6, 8)] == [4, 3, 1, 1, 1]
    assert batches_at_once(7, 2) == 7
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (batches_at_once("auto", 1), batches_at_once(2, 1)) == (1, 2)


def test_auto_goes_by_the_width_of_a_sealed_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(parallel, "QUOTA", Path("/nonexistent"))
    assert [threads_for(hidden, "auto") for hidden in (128, 511, 512, 4096)] == [1, 1, 6, 6]
    assert threads_for(128, 3) == 3


def test_a_checkpoint_counts_the_threads_that_auto_came_to(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build", make_tiny_base(tmp_path / "base"), make_groups(2))
    before = torch.get_num_threads()
    counted = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        counted.append(inputs_of(configure(threads="auto"), build, 1)["threads"])
    torch.set_num_threads(before)
    assert counted == [1, 2]


@pytest.mark.slow
def test_where_bf16_is_emulated_training_is_in_fp32_and_says_so(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from tests.worlds.trained import configure, make_build, make_groups\n"
        "from tests.worlds.tiny import make_tiny_base\n"
        "from touchstone.runtime.files import digest_folder\n"
        "from touchstone.training.run import train\n"
        "base = make_tiny_base(Path('base').resolve())\n"
        "builds = [make_build(Path(p), base, make_groups(6)) for p in ('fp32', 'bf16')]\n"
        "for build in builds: train(configure(precision=build.name), build)\n"
        "print(digest_folder(builds[0] / 'model') == digest_folder(builds[1] / 'model'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(**OLDER),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "True"
    assert "training in fp32" in done.stderr


@pytest.mark.slow
def test_an_artifact_sealed_in_bf16_is_scored_as_sealed_where_it_is_emulated(tmp_path: Path) -> None:
    """Its self-test passes, and the log says why it is slow."""
    make_tiny_artifact(tmp_path / "artifact", precision="bf16")
    code = "from pathlib import Path; from touchstone.model.scoring import Scorer; Scorer.load(Path('artifact'))"
    command, told = [sys.executable, "-c", code], environment(**OLDER)
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=True)
    assert "sealed in bf16" in done.stderr


@pytest.mark.slow
def test_the_benchmark_of_training_leaves_emulated_bf16_alone(tmp_path: Path) -> None:
    code = "from benchmarks.training.__main__ import usable_precision; print(*usable_precision())"
    assert run(code, tmp_path, **OLDER) == "fp32 fp32, because this processor has no bf16\n"
