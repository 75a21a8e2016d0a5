"""Several processes: the same numbers as one, whatever the shares, the budget and where the weights lie.

All of it on a CPU with gloo. Each run proves how many processes it had, because a launcher that is asked for two may
start one without a word.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from tests.places import ROOT
from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, environment, make_build, make_groups
from touchstone.groups import read_parquet
from touchstone.model.layout import make_batches, rewards
from touchstone.model.network import load_reward_model
from touchstone.model.templating import encode_many
from touchstone.training.run import train

LAUNCH = sorted((ROOT / "configs/accelerate").glob("*.yaml"))
Curve = list[dict[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


def make_workspace(folder: Path, base: Path, **train_values: object) -> Path:
    """Ragged on purpose: the last steps hold fewer groups than there are processes."""
    make_build(folder / "build", base, make_groups(12, seed=3))
    values = {"comparisons_per_step": 6, "learning_rate": 1e-4, "accelerate": "ddp", **train_values}
    (folder / "params.yaml").write_text(yaml.safe_dump(configure(**values).model_dump(mode="json")))
    return folder


def launch(workspace: Path, name: str, processes: int, module: str = "touchstone.training", *more: str) -> None:
    """The stage's command under a file of configs/accelerate, on a CPU."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1",
               "--config_file", str(ROOT / f"configs/accelerate/{name}.yaml"), "--num_processes", str(processes),
               "-m", module, *more]  # fmt: skip
    subprocess.run(command, cwd=workspace, env=environment(ACCELERATE_USE_CPU="true"), check=True)


def curve_of(workspace: Path) -> Curve:
    return [json.loads(line) for line in (workspace / "build/curve.jsonl").read_text().splitlines()]


def processes_of(workspace: Path) -> set[int]:
    return {json.loads(line)["processes"] for line in (workspace / "events.jsonl").read_text().splitlines()}


def largest_difference(one: Curve, other: Curve) -> float:
    """Over every number of every row; the learning rate and the counts must be equal."""
    assert [row["comparisons"] for row in one] == [row["comparisons"] for row in other]
    assert [row["learning_rate"] for row in one] == [row["learning_rate"] for row in other]
    names = {"loss", "accuracy", "margin", "reward_mean", "reward_spread"}
    return max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True) for name in names if name in a)


def scores_of(workspace: Path) -> torch.Tensor:
    """What the trained model gives the completions of the training set, one by one."""
    model = load_reward_model(workspace / "build/model")
    groups = read_parquet(workspace / "build/splits/train.parquet")
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    encoded = encode_many(model.tokenizer, model.rule, items)
    with torch.inference_mode():
        return torch.cat([rewards(model, batch) for batch in make_batches(encoded, 1, shared=False)])


def alone(folder: Path, base: Path, **train_values: object) -> Path:
    workspace = make_workspace(folder, base, **train_values)
    train(configure(**yaml.safe_load((workspace / "params.yaml").read_text())["train"]), workspace / "build")
    return workspace


@pytest.mark.slow
def test_two_processes_and_any_budget_give_the_numbers_of_one(tmp_path: Path, base: Path) -> None:
    one = alone(tmp_path / "one", base)
    small = alone(tmp_path / "small", base, tokens_per_microbatch=128)
    two = make_workspace(tmp_path / "two", base, tokens_per_microbatch=200)
    launch(two, "ddp", 2)
    assert processes_of(two) == {2}
    assert json.loads((two / "events.jsonl").read_text().splitlines()[0])["tokens_per_microbatch"] == 200
    curve = curve_of(one)
    assert min(row["comparisons"] for row in curve) == 1, "some steps are too small for two processes"
    for other in (small, two):
        assert largest_difference(curve, curve_of(other)) < 1e-6
        assert float((scores_of(one) - scores_of(other)).abs().max()) < 1e-6


@pytest.mark.slow
def test_a_step_with_weights_spread_over_processes_is_the_same_step(tmp_path: Path, base: Path) -> None:
    out = tmp_path / "facts.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "-m", "tests.worlds.ranks", "one_step", str(base), str(out)]  # fmt: skip
    subprocess.run(command, cwd=ROOT, env=environment(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1"), check=True)
    facts = json.loads(out.read_text())
    assert (facts["processes"], facts["backend"]) == (2, "gloo")
    assert facts["distributed_type"] == "DistributedType.MULTI_CPU"
    assert facts["sharded"] == ["FSDPRewards", "FSDPQwen3DecoderLayer", "FSDPQwen3DecoderLayer"]
    assert facts["gradient"] < 1e-6
    assert facts["weights"] < 1e-6
    assert facts["moved"] > 1e-3
    # Ranks have unequal shares, so a mean of their means is another number than the mean over all comparisons.
    assert facts["shares"][0] != facts["shares"][1]
    assert abs(facts["loss_of_shares"] - facts["loss"]) < 1e-6
    assert abs(facts["mean_of_means"] - facts["loss"]) > 1e-3
    assert facts["budgets"][0] == facts["budgets"][1]


@pytest.mark.slow
def test_four_processes_give_the_numbers_of_one(tmp_path: Path, base: Path) -> None:
    one, four = alone(tmp_path / "one", base), make_workspace(tmp_path / "four", base, tokens_per_microbatch=150)
    launch(four, "ddp", 4)
    assert processes_of(four) == {4}
    assert largest_difference(curve_of(one), curve_of(four)) < 1e-6
    assert float((scores_of(one) - scores_of(four)).abs().max()) < 1e-6


@pytest.mark.slow
def test_training_spread_over_processes_gives_the_numbers_of_one(tmp_path: Path, base: Path) -> None:
    processes = 2
    # So small a budget that processes differ in the number of their passes, and that groups exceed it.
    one = alone(tmp_path / "one", base, comparisons_per_step=20)
    values = {"comparisons_per_step": 20, "tokens_per_microbatch": 128, "accelerate": "fsdp2"}
    spread = make_workspace(tmp_path / "spread", base, **values)
    launch(spread, "fsdp2", processes, "tests.worlds.ranks", "train")
    facts = json.loads((spread / "spread.json").read_text())
    assert (facts["processes"], facts["fsdp_version"]) == (processes, 2)
    assert facts["sharded"] == ["FSDPRewards", "FSDPQwen3DecoderLayer", "FSDPQwen3DecoderLayer"]
    assert largest_difference(curve_of(one), curve_of(spread)) < 1e-6
    assert float((scores_of(one) - scores_of(spread)).abs().max()) < 1e-6


@pytest.mark.slow
def test_two_machines_give_the_numbers_of_one(tmp_path: Path, base: Path) -> None:
    """Two launchers on one host, each with its own checkout."""
    one = alone(tmp_path / "one", base)
    machines = [make_workspace(tmp_path / name, base) for name in ("first", "second")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank, workspace in enumerate(machines):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "1",
                   "--config_file", str(ROOT / "configs/accelerate/multi_node.yaml"), "--num_processes", "2",
                   "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", str(port),
                   "-m", "touchstone.training"]  # fmt: skip
        started.append(subprocess.Popen(command, cwd=workspace, env=environment(ACCELERATE_USE_CPU="true")))
    assert [process.wait(timeout=200) for process in started] == [0, 0]
    assert processes_of(machines[0]) == {2}
    assert not (machines[1] / "build/model").exists()
    assert largest_difference(curve_of(one), curve_of(machines[0])) < 1e-6


@pytest.mark.parametrize("path", LAUNCH, ids=lambda path: path.stem)
def test_the_launcher_reads_every_file_and_knows_every_key(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no", "precision is train.precision's"
    known = vars(launch_command_parser().parse_args(["-m", "touchstone.training"]))
    for key in {**config.fsdp_config, **config.deepspeed_config}:
        assert key in known, f"{path.name}: {key} is no setting of the launcher"
    words = ["--config_file", str(path), "-m", "touchstone.training"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    kinds = {"ddp": "multi_gpu", "multi_node": "multi_gpu", "fsdp2": "use_fsdp", "zero3": "use_deepspeed"}
    for kind in ("multi_gpu", "use_fsdp", "use_deepspeed"):
        assert getattr(args, kind) == (kinds.get(path.stem) == kind)
    assert (args.num_processes > 1) == (path.stem in kinds)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_way_to_train_names_a_launch_file(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert "defaults" in values or "accelerate" in values["train"]
    if name := values["train"].get("accelerate"):
        assert ROOT / f"configs/accelerate/{name}.yaml" in LAUNCH
