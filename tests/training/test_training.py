"""Whole small training runs."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.places import ROOT
from tests.worlds.tiny import make_tiny_base
from tests.worlds.trained import configure, environment, make_build, make_groups, make_workspace
from touchstone.errors import TrainingError
from touchstone.groups import Comparison, Completion, Message, best_completion, make_group, read_parquet
from touchstone.model.layout import make_batches, rewards
from touchstone.model.network import load_base_folder, load_reward_model
from touchstone.model.processor import has_bf16
from touchstone.model.templating import encode
from touchstone.runtime.files import digest_folder
from touchstone.settings import parse
from touchstone.training.plan import used_pairs
from touchstone.training.run import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.slow
def test_a_step_is_the_loss_over_all_its_comparisons(tmp_path: Path, base: Path) -> None:
    groups = make_groups(12)
    settings = configure(comparisons_per_step=1000)
    build = make_build(tmp_path / "build", base, groups)
    model = load_base_folder(build / "base", settings.model, seed=settings.train.seed)
    losses, wins = [], []
    with torch.inference_mode():
        for group in groups:
            encoded = encode(model.tokenizer, model.rule, group.prompt, [c.text for c in group.completions])
            value = {
                completion: reward.item()
                for batch in make_batches([encoded], 1, shared=False)
                for (_, completion), reward in zip(batch.owners, rewards(model, batch), strict=True)
            }
            for pair in used_pairs(group, settings.objective):
                chosen, rejected = value[pair.chosen], value[pair.rejected]
                losses.append(math.log1p(math.exp(rejected - chosen)) + 0.01 * (chosen + rejected) ** 2)
                wins.append(chosen > rejected)
    (row,) = train(settings, build)
    assert row["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert row["accuracy"] == sum(wins) / len(wins)
    assert row["comparisons"] == len(losses)


@pytest.mark.slow
def test_training_learns_and_is_the_same_twice_and_for_any_budget(tmp_path: Path, base: Path) -> None:
    groups = make_groups(80)
    builds = [make_build(tmp_path / name, base, groups) for name in ("first", "second", "small")]
    events = tmp_path / "events.jsonl"
    curve = train(configure(), builds[0], events)
    train(configure(), builds[1])
    assert digest_folder(builds[0] / "model") == digest_folder(builds[1] / "model")
    assert (builds[0] / "curve.jsonl").read_bytes() == (builds[1] / "curve.jsonl").read_bytes()

    small = train(configure(tokens_per_microbatch=140), builds[2])
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(curve, small, strict=True)) < 1e-4

    assert sum(row["accuracy"] for row in curve[-5:]) / 5 > 0.9
    live = [json.loads(line) for line in events.read_text().splitlines()]
    assert [row["step"] for row in live] == list(range(1, len(curve) + 1))
    assert {"time", "comparisons_per_second", "tokens_per_second", "padding_share", "shared_share"} <= live[0].keys()
    assert 0 < live[0]["shared_share"] < 1
    stored = [json.loads(line) for line in (builds[0] / "curve.jsonl").read_text().splitlines()]
    assert stored == curve
    assert set(stored[0]) == {
        "step", "loss", "accuracy", "margin", "reward_mean", "reward_spread", "gradient_norm", "learning_rate",
        "comparisons",
    }  # fmt: skip
    assert sorted(digest_folder(builds[0] / "model")) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    load_reward_model(builds[0] / "model")


@pytest.mark.slow
def test_gradient_caching_is_exact_where_a_loss_ties_a_whole_group_together(tmp_path: Path, base: Path) -> None:
    """No budget of 130 tokens holds nine completions, and a ranking can't be cut."""
    groups = make_groups(15)
    curves = []
    for budget in (4096, 130):
        values = configure(tokens_per_microbatch=budget).model_dump(mode="json")
        values["objective"] |= {"name": "plackett_luce", "weighting": "group"}
        curves.append(train(parse(values), make_build(tmp_path / str(budget), base, groups)))
    for large, small in zip(*curves, strict=True):
        assert small["loss"] == pytest.approx(large["loss"], abs=2e-5)
        assert small["gradient_norm"] == pytest.approx(large["gradient_norm"], rel=1e-3)


@pytest.mark.slow
def test_bf16_trains_close_to_fp32(tmp_path: Path, base: Path) -> None:
    groups = make_groups(20)
    full = train(configure(), make_build(tmp_path / "full", base, groups))
    half = train(configure(precision="bf16"), make_build(tmp_path / "half", base, groups))
    # Where the processor would emulate bf16 it is fp32, and the log says so.
    assert (full[0]["loss"] != half[0]["loss"]) == has_bf16(torch.device("cpu"))
    assert full[0]["loss"] == pytest.approx(half[0]["loss"], abs=0.02)
    assert load_reward_model(tmp_path / "half" / "model").network.dtype == torch.float32


def test_a_diverging_run_names_its_groups_and_leaves_nothing(tmp_path: Path, base: Path) -> None:
    groups = make_groups(30)
    build = make_build(tmp_path / "build", base, groups)
    with pytest.raises(TrainingError, match="not finite") as caught:
        train(configure(learning_rate=1e30, max_gradient_norm=1e30), build)
    assert any(group.id in str(caught.value) for group in groups)
    assert sorted(path.name for path in build.iterdir()) == ["base", "splits"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, base: Path) -> None:
    build = make_build(tmp_path / "build", base, make_groups(5))
    with pytest.raises(TrainingError, match="No space left"):
        train(configure(), build, Path("/dev/full"))
    assert not (build / "model").exists()


def test_nothing_to_learn_from_is_an_error(tmp_path: Path, base: Path) -> None:
    tie = make_group(
        prompt=[Message("user", "hi")],
        completions=[Completion("a"), Completion("b")],
        comparisons=[Comparison(0, 1, 0.0, 0.0, 1.0)],
        source="test",
    )
    with pytest.raises(TrainingError, match="no comparison with a winner"):
        train(configure(), make_build(tmp_path / "build", base, [tie]))
    values = configure().model_dump(mode="json")
    values["objective"]["use_margin"] = True
    win = make_group(
        prompt=tie.prompt, completions=tie.completions, comparisons=[Comparison(0, 1, 1.0, 0.0)], source="test"
    )
    with pytest.raises(TrainingError, match=f"group {win.id} has no margin"):
        train(parse(values), make_build(tmp_path / "margin", base, [win]))


@pytest.mark.slow
def test_processes_agree_bit_for_bit(tmp_path: Path, base: Path) -> None:
    first, second = (make_workspace(tmp_path / name, base) for name in ("first", "second"))
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    for workspace in (first, second):
        command = [*launch, "--config_file", str(ROOT / "configs/accelerate/cpu.yaml"), "-m", "touchstone.training"]
        subprocess.run(command, cwd=workspace, env=environment(), check=True)
    assert digest_folder(first / "build/model") == digest_folder(second / "build/model")
    assert (first / "build/curve.jsonl").read_bytes() == (second / "build/curve.jsonl").read_bytes()


@pytest.mark.slow
def test_sigterm_leaves_nothing_half_written(tmp_path: Path, base: Path) -> None:
    workspace = make_workspace(tmp_path / "workspace", base, epochs=500)
    process = subprocess.Popen(
        [sys.executable, "-m", "touchstone.training"], cwd=workspace, env=environment(TMPDIR=str(tmp_path))
    )
    deadline = time.monotonic() + 120
    while not (workspace / "events.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert {path.name for path in (workspace / "build").iterdir()} <= {"base", "splits", "checkpoints"}
    assert not list((workspace / "build").glob("checkpoints/.step-*"))
    assert not list(tmp_path.glob("touchstone-*"))


def test_training_adds_decoys_to_its_groups_and_counts_them_in_nothing_else(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = make_groups(12)
    decided = sum(best_completion(group) is not None for group in groups)
    rows = []
    for rate in (0.0, 1.0):
        values = configure(comparisons_per_step=1000).model_dump(mode="json")
        values["objective"]["decoys"] = rate
        build = make_build(tmp_path / str(rate), base, groups)
        (row,) = train(parse(values), build)
        rows.append(row)
        assert read_parquet(build / "splits" / "train.parquet") == groups
        decoys = json.loads((build / "training.json").read_text())["decoys"]
        assert sum(count for kinds in decoys.values() for count in kinds.values()) == rate * decided
    assert rows[1]["comparisons"] == rows[0]["comparisons"] + decided
    assert set(decoys) == {"helpfulness"}
    assert f"decoys on the axis helpfulness: {', '.join(f'{k} {n}' for k, n in decoys['helpfulness'].items())}" in (
        caplog.text
    )
    # What the first step sees is the same network: how it orders people's comparisons, and nothing of the decoys.
    assert rows[1]["accuracy"] == rows[0]["accuracy"]
    assert rows[1]["margin"] == pytest.approx(rows[0]["margin"], abs=1e-6)
    assert rows[1]["loss"] != rows[0]["loss"]


@pytest.mark.slow
def test_comparisons_that_are_equal_once_cut_are_named_and_left_out(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = make_groups(12)
    long = "egg " * 600
    equal = make_group(
        prompt=[Message("user", "Tell me about eggs.")],
        completions=[Completion(long + "in water"), Completion(long + "in the sun"), Completion("Boil one.")],
        comparisons=[Comparison(0, 1, 1.0, 0.0), Comparison(2, 1, 1.0, 0.0)],
        source="test",
    )
    settings = configure(comparisons_per_step=1000)
    (without,) = train(settings, make_build(tmp_path / "without", base, groups))
    (row,) = train(settings, make_build(tmp_path / "with", base, [*groups, equal]))
    assert row["comparisons"] == without["comparisons"] + 1
    report = json.loads((tmp_path / "with" / "training.json").read_text())
    assert report["equal_once_cut"] == {equal.id: 1}
    assert json.loads((tmp_path / "without" / "training.json").read_text())["equal_once_cut"] == {}
    assert "1 comparisons of the training set are left out, their completions being equal once cut" in caplog.text
    assert equal.id in caplog.text
    assert "egg" not in caplog.text

    only = replace(equal, comparisons=equal.comparisons[:1])
    with pytest.raises(TrainingError, match=r"every comparison of the training set .* equal once cut to model"):
        train(settings, make_build(tmp_path / "only", base, [only]))
