"""Checkpoints: damaged ones are passed over, no crash loses the newest, resumed training ends bit by bit the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.places import ROOT
from tests.worlds.outcomes import make_outcome_groups, outcome_settings
from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, make_build, make_groups, make_workspace
from touchstone.errors import ModelError, TrainingError
from touchstone.groups import write_parquet
from touchstone.runtime.files import digest_file, digest_folder, digest_value
from touchstone.settings import Settings
from touchstone.training import checkpoints
from touchstone.training.run import train
from touchstone.training.state import Progress, State, inputs_of, put_weights, restore, trained_weights

INPUTS = {"data": "d1", "processes": 1, "train.seed": 17}


def write(folder: Path, step: int, *, keep: int = 2, **inputs: object) -> Path:
    def fill(aside: Path) -> None:
        (aside / "a.bin").write_bytes(bytes(range(256)) * step)
        (aside / "b.json").write_text(json.dumps({"step": step}))

    return checkpoints.write(folder, step, {**INPUTS, **inputs}, fill, keep=keep)


def steps(folder: Path) -> list[int]:
    """Steps of every checkpoint that is there, in order."""
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("step-*"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize("name", ["a.bin", "b.json", checkpoints.MANIFEST])
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "byte flipped", "longer"])
def test_damaged_checkpoints_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    write(tmp_path, 10)
    newest = write(tmp_path, 20)
    file = newest / name
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "byte flipped":
        for position in (0, len(data) // 3, len(data) - 1):
            flipped = data[:]
            flipped[position] ^= 1
            file.write_bytes(flipped)
            with pytest.raises(TrainingError, match="step-00000020"):
                checkpoints.read(newest)
    else:
        file.write_bytes({"empty": b"", "truncated": data[:-1], "longer": data + b"\n"}[how])
    found = checkpoints.newest(tmp_path, INPUTS)
    assert found is not None
    assert found.step == 10
    assert "step-00000020" in caplog.text
    assert name in caplog.text
    # It is in nobody's way: the same step is written again, and doesn't count as one to keep.
    write(tmp_path, 20)
    found = checkpoints.newest(tmp_path, INPUTS)
    assert found is not None
    assert found.step == 20


def test_a_checkpoint_of_other_inputs_is_named_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write(tmp_path, 30, **{"train.seed": 18, "processes": 2})
    assert checkpoints.newest(tmp_path, INPUTS) is None
    assert "processes was 2 and is 1; train.seed was 18 and is 17" in caplog.text
    assert "starts over" in caplog.text
    for step in (10, 20, 40):
        write(tmp_path, step, keep=1)
    assert steps(tmp_path) == [30, 40]
    assert checkpoints.read(other).inputs["processes"] == 2


def test_the_newest_goes_by_step_and_the_older_go_last(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path, INPUTS) is None
    paths = {step: write(tmp_path, step) for step in (9, 10, 100)}
    assert steps(tmp_path) == [10, 100]
    os.utime(paths[100], (0, 0))  # a clock that jumped
    found = checkpoints.newest(tmp_path, INPUTS)
    assert found is not None
    assert (found.path, found.step, found.inputs) == (paths[100], 100, INPUTS)
    # Damaged, so training went on from 10: what is ahead of it is no one to keep.
    (paths[100] / "a.bin").unlink()
    write(tmp_path, 15, keep=1)
    assert steps(tmp_path) == [15]
    checkpoints.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, 10, keep=1)

    def fill(aside: Path) -> None:
        (aside / "a.bin").write_bytes(b"a")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(tmp_path, 20, INPUTS, fill, keep=1)
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["step-00000010"]


def test_a_folder_serves_one_training_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with checkpoints.held(folder), pytest.raises(TrainingError, match="another training"), checkpoints.held(folder):
        pass
    assert not folder.exists()
    with checkpoints.held(folder):
        write(folder, 10)
    assert steps(folder) == [10]


CRASHES = """
import os, signal, sys
from pathlib import Path
from touchstone.training import checkpoints

folder, left = Path(sys.argv[1]), 0
INPUTS = {"data": 1}

def fill(aside):
    for name in ("a.bin", "b.bin"):
        (aside / name).write_bytes(name.encode() * 1000)

def hook(event, arguments):
    global left
    if event in EVENTS and any(str(folder) in str(a) for a in arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.listdir", "os.scandir"}
checkpoints.write(folder, 10, INPUTS, fill, keep=1)
before = checkpoints.newest(folder, INPUTS).step
for crash in range(1000):
    child = os.fork()
    if not child:
        left = crash
        sys.addaudithook(hook)
        checkpoints.write(folder, before + 10, INPUTS, fill, keep=1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    names = [path for path in folder.glob("step-*")]
    whole = [checkpoints.read(path) for path in names]  # none looks whole and isn't
    found = checkpoints.newest(folder, INPUTS)
    assert found is not None and found.step in (before, before + 10), (crash, found)
    before = found.step
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0 and found.step == before
        break
assert [path.name for path in folder.iterdir()] == [found.path.name]
print("crashes", crash)
"""


def test_a_crash_between_any_two_file_operations_loses_nothing(tmp_path: Path) -> None:
    """With one checkpoint kept: each child is killed one operation later than the one before."""
    command = [sys.executable, "-c", CRASHES, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 20


def test_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any]:
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        model[1].bias.requires_grad_(False).zero_()  # not trained: the base's, so no state of training
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [{"params": trained[:1], "weight_decay": 0.1}, {"params": trained[1:]}]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def go(model: torch.nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> list[float]:
        for _ in range(3):
            numbers = torch.tensor([[random.random(), float(np.random.rand()), float(torch.rand(()))]])
            optimizer.zero_grad()
            model(numbers).square().sum().backward()
            optimizer.step()
            scheduler.step()
        return [value for parameter in model.parameters() for value in parameter.flatten().tolist()]

    first = make()
    go(*first)
    rows: list[dict[str, float | int]] = [{"step": 1, "loss": 0.1 + 0.2}]
    progress = Progress(rows, {"0.weight": torch.rand(4, 3)}, 1 / 3, 2, 4096)
    State(*first, progress).write(tmp_path)
    expected = go(*first)
    second = make()
    back = restore(tmp_path, *second, rank=0)
    assert go(*second) == expected
    assert (back.rows, back.best_loss, back.waited, back.token_budget) == (rows, 1 / 3, 2, 4096)
    assert torch.equal(back.best["0.weight"], progress.best["0.weight"])
    assert sorted(load_file(tmp_path / "model.safetensors")) == ["0.bias", "0.weight", "1.weight"]
    with pytest.raises(ModelError, match=r"1\.bias"):
        put_weights(first[0], {**trained_weights(first[0]), "1.bias": torch.zeros(1)})


class Interrupted(Exception):
    """What ends training in the middle."""


class Until(type(Path())):  # type: ignore[misc]  # Path chooses its class by the system
    """A place for events that gives out after `rows` rows."""

    rows: int

    def open(self, *arguments: Any, **named: Any) -> IO[Any]:
        self.rows -= 1
        if self.rows < 0:
            raise Interrupted
        return super().open(*arguments, **named)


def interrupted(settings: Settings, build: Path, rows: int) -> None:
    """Train until that many rows are written, and not further."""
    events = Until(build / "interrupted.jsonl")
    events.rows = rows
    with pytest.raises(Interrupted):
        train(settings, build, events)


def outputs(build: Path) -> tuple[dict[str, str], bytes]:
    return digest_folder(build / "model"), (build / "curve.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping_steps", [0, 4])
def test_interrupted_training_ends_as_if_it_had_not_been(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture, early_stopping_steps: int
) -> None:
    settings = configure(
        epochs=2, checkpoint_steps=3, checkpoints_kept=1, early_stopping_steps=early_stopping_steps,
        early_stopping_patience=2,
    )  # fmt: skip
    groups = make_groups(40)
    whole, build = (make_build(tmp_path / name, base, groups) for name in ("whole", "interrupted"))
    for folder in (whole, build):
        write_parquet(folder / "splits" / "validation.parquet", make_groups(20, seed=1))
    train(settings, whole)
    assert not (whole / "checkpoints").exists()

    for rows in (2, 7, 2, 4):  # before the first checkpoint, then twice further, at last right after one
        interrupted(settings, build, rows)
    assert steps(build / "checkpoints") == [9]
    events = build / "events.jsonl"
    curve = train(settings, build, events)
    assert outputs(build) == outputs(whole)
    live = [json.loads(line)["step"] for line in events.read_text().splitlines()]
    assert live == list(range(10, len(curve) + 1))
    assert not (build / "checkpoints").exists()
    assert caplog.text == ""


@pytest.mark.slow
def test_interrupted_training_on_outcome_labels_ends_as_if_it_had_not_been(tmp_path: Path, base: Path) -> None:
    settings = outcome_settings(
        epochs=2, checkpoint_steps=3, checkpoints_kept=1, early_stopping_steps=4, early_stopping_patience=2
    )
    whole, build = (make_build(tmp_path / name, base, make_outcome_groups(40)) for name in ("whole", "interrupted"))
    for folder in (whole, build):
        write_parquet(folder / "splits" / "validation.parquet", make_outcome_groups(20, seed=1))
    train(settings, whole)
    interrupted(settings, build, 4)
    train(settings, build)
    assert outputs(build) == outputs(whole)


@pytest.mark.slow
def test_training_starts_over_when_an_input_has_changed(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = configure(checkpoint_steps=2)
    build, fresh = (make_build(tmp_path / name, base, make_groups(20)) for name in ("build", "fresh"))
    interrupted(settings, build, 3)
    changed = configure(checkpoint_steps=2, learning_rate=2e-3)
    train(changed, build)
    assert "train.learning_rate was 0.001 and is 0.002" in caplog.text
    train(changed, fresh)
    assert outputs(build) == outputs(fresh)


def test_inputs_are_all_that_numbers_come_from(tmp_path: Path, base: Path) -> None:
    build = make_build(tmp_path / "build", base, make_groups(3))
    start = inputs_of(configure(), build, 1)
    harmless = configure(checkpoint_steps=7, checkpoints_kept=9, timeout_seconds=5, tensorboard="board")
    assert inputs_of(harmless, build, 1) == start
    assert inputs_of(configure(seed=1), build, 1) != start
    assert inputs_of(configure(), build, 2) != start
    write_parquet(build / "splits" / "train.parquet", make_groups(4))
    assert inputs_of(configure(), build, 1)["data"] != start["data"]
    product = ROOT / "touchstone"
    assert start["code"] == digest_value(
        {path.relative_to(product).as_posix(): digest_file(path) for path in product.rglob("*.py")}
    )


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path: Path, base: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    with torch.no_grad():
        model.weight[0, 1] = torch.inf
    with pytest.raises(TrainingError, match="weight is not finite"):
        State(model, optimizer, scheduler, Progress())

    groups = make_groups(30)
    build = make_build(tmp_path / "build", base, groups)
    with pytest.raises(TrainingError, match="not finite") as caught:
        train(configure(learning_rate=1e30, max_gradient_norm=1e30, checkpoint_steps=1), build)
    assert any(group.id in str(caught.value) for group in groups)
    for path in (build / "checkpoints").glob("step-*"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path / "model.safetensors").values())


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights(tmp_path: Path, base: Path) -> None:
    groups = make_groups(60)
    build, best = (make_build(tmp_path / name, base, groups) for name in ("build", "best"))
    for folder in (build, best):  # labels turned round: what is learnt makes them worse
        turned = [_turned(group) for group in make_groups(20, seed=1)]
        write_parquet(folder / "splits" / "validation.parquet", turned)
    settings = configure(warmup_share=0.0, early_stopping_steps=2, early_stopping_patience=3)
    curve = train(settings, build)
    measured = {int(row["step"]): row["validation_loss"] for row in curve if "validation_loss" in row}
    lowest = min(measured, key=lambda step: measured[step])
    assert list(measured) == list(range(2, lowest + 7, 2)), "three evaluations without a lower loss, then no step"
    assert len(curve) == lowest + 6
    assert all(0 <= row["validation_accuracy"] <= 1 for row in curve if "validation_accuracy" in row)
    # Stopped by hand at the best step, training leaves the same weights.
    settings = configure(warmup_share=0.0, early_stopping_steps=lowest, early_stopping_patience=1)
    train(settings, best)
    assert digest_folder(best / "model") == digest_folder(build / "model")


def _turned(group: Any) -> Any:
    from dataclasses import replace

    from touchstone.groups import make_group

    edges = [replace(edge, wins_i=edge.wins_j, wins_j=edge.wins_i) for edge in group.comparisons]
    return make_group(prompt=group.prompt, completions=group.completions, comparisons=edges, source="test")


def test_tensorboard_is_a_folder_or_one_sentence(tmp_path: Path, base: Path) -> None:
    build = make_build(tmp_path / "build", base, make_groups(5))
    settings = configure(tensorboard=str(tmp_path / "board"))
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(TrainingError, match="pip install"):
            train(settings, build)
    else:
        train(settings, build)
        assert list((tmp_path / "board").glob("*/events.out.tfevents.*"))


@pytest.mark.slow
def test_killed_training_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """A small kill matrix: `python -m benchmarks.kill_matrix` is the whole one."""
    arguments = ["--kills", "4", "--groups", "300", "--result", str(tmp_path / "result.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "benchmarks.kill_matrix", *arguments], env=environment, check=True)
    result = json.loads((tmp_path / "result.json").read_text())
    assert all(trial["equal"] and trial["ended_well"] for trial in result["trials"])
    assert result["summary"]["inside_save"] >= 2
    assert result["summary"]["most_steps_repeated"] <= result["summary"]["checkpoint_steps"]


RANKS = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "touchstone.training",
]  # fmt: skip


def launch(workspace: Path) -> subprocess.Popen[str]:
    """Training by two processes; everything that they say goes to a file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOUCHSTONE_EVENTS": "events.jsonl", "OMP_NUM_THREADS": "1"}
    with (workspace / "log").open("w") as log:
        return subprocess.Popen(
            RANKS, cwd=workspace, env={**environment, "ACCELERATE_USE_CPU": "true"}, stdout=log, stderr=log, text=True
        )


def ranks_of(launcher: subprocess.Popen[str], workspace: Path, rows: int) -> list[psutil.Process]:
    """The two ranks' processes, once so many rows are written."""
    deadline = time.monotonic() + 120
    events = workspace / "events.jsonl"
    while not events.exists() or len(events.read_text().splitlines()) < rows:
        assert launcher.poll() is None, (workspace / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = [child for child in psutil.Process(launcher.pid).children(recursive=True) if "RANK" in child.environ()]
    assert sorted(child.environ()["RANK"] for child in found) == ["0", "1"]
    return sorted(found, key=lambda child: child.environ()["RANK"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "rank"), [pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.long), (signal.SIGKILL, 1)]
)
def test_a_lost_rank_ends_in_an_error_in_time(tmp_path: Path, base: Path, how: signal.Signals, rank: int) -> None:
    workspace = make_workspace(tmp_path / "workspace", base, epochs=1000, checkpoint_steps=5, timeout_seconds=5)
    launcher = launch(workspace)
    ranks = ranks_of(launcher, workspace, 12)
    ranks[rank].send_signal(how)
    # The timeout, and the half minute that torch's launcher gives what doesn't react to SIGTERM.
    assert launcher.wait(timeout=60) != 0
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in ranks)
    assert not (workspace / "build" / "model").exists()
    left = checkpoints.newest(workspace / "build" / "checkpoints", read_inputs(workspace))
    assert left is not None
    assert left.step >= 5


def read_inputs(workspace: Path) -> dict[str, Any]:
    (path, *_) = sorted((workspace / "build" / "checkpoints").glob("step-*"), reverse=True)
    return checkpoints.read(path).inputs


@pytest.mark.slow
def test_two_ranks_go_on_bit_by_bit_and_one_rank_starts_over(tmp_path: Path, base: Path) -> None:
    names = ("whole", "killed", "alone")
    whole, killed, alone = (make_workspace(tmp_path / name, base, checkpoint_steps=3) for name in names)
    for workspace in (killed, alone):
        launcher = launch(workspace)
        for process in [*ranks_of(launcher, workspace, 7), psutil.Process(launcher.pid)]:
            process.kill()
        launcher.wait()
        assert set(steps(workspace / "build" / "checkpoints")) & {3, 6, 9}
        (workspace / "events.jsonl").unlink()
    for workspace in (whole, killed):
        assert launch(workspace).wait(timeout=200) == 0, (workspace / "log").read_text()
    assert outputs(killed / "build") == outputs(whole / "build")
    assert json.loads((killed / "events.jsonl").read_text().splitlines()[0])["step"] > 3
    done = subprocess.run(
        [sys.executable, "-m", "touchstone.training"], cwd=alone, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "processes was 2 and is 1" in done.stderr
    assert "starts over" in done.stderr


SHARDED = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from touchstone.training.state import Progress, State, restore, trained_weights

folder = Path(sys.argv[1])
rank = PartialState(cpu=True).process_index
mesh = init_device_mesh("cpu", (2,))

def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

def go(model, optimizer, scheduler):
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return trained_weights(model)

first = make()
torch.manual_seed(rank)
go(*first)
state = State(*first, Progress())
if rank == 0:
    state.write(folder)
dist.barrier()
expected = go(*first)
second = make()
restore(folder, *second, rank=rank)
found = go(*second)
assert all(isinstance(parameter, DTensor) for parameter in second[0].parameters())
assert all(torch.equal(found[name], expected[name]) for name in expected)
assert found["0.weight"].shape == (5, 3)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_model_spread_over_ranks_comes_back_bit_by_bit(tmp_path: Path) -> None:
    (tmp_path / "sharded.py").write_text(SHARDED)
    (tmp_path / "state").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(tmp_path / "sharded.py"), str(tmp_path / "state")]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
