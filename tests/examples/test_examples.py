"""Every example runs, as its head says, on a small world: real processes, real training, a real endpoint."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.registered import NAME
from tests.worlds.served import running, serve_settings
from touchstone.data.sources.sandbox import make
from touchstone.groups import Group, write_parquet
from touchstone.model.base import build_base
from touchstone.model.sealing import seal
from touchstone.registry import Registry
from touchstone.settings import compose
from touchstone.training.run import train

EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py"))
SMALL = ["data.groups=700", "model.layers=2", "model.hidden=64", "model.intermediate=128", "model.head_dim=16",
         "model.warmup_steps=60", "train.checkpoint_steps=0", "objective.decoys=0"]  # fmt: skip
PROMPT = "How do I make a soup?"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in small: build/base, build/splits, build/artifact and params.yaml, trained in half a minute."""
    root = tmp_path_factory.mktemp("examples")
    settings = compose(SMALL, ROOT / "configs")
    groups: list[Group] = [make(settings.data, number) for number in range(700)]  # type: ignore[arg-type]
    splits = root / "build" / "splits"
    splits.mkdir(parents=True)
    write_parquet(splits / "train.parquet", groups[:600])
    build_base(groups[:600], settings.model, seed=17, threads=1, folder=root / "build" / "base")  # type: ignore[arg-type]
    train(settings, root / "build")
    seal(
        root / "build" / "model",
        groups[600:640],
        groups[640:],
        precision="fp32",
        self_test_vectors=4,
        seeds={"train": 17},
        folder=root / "build" / "artifact",
    )
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    return root


@contextmanager
def endpoint(world: Path) -> Iterator[str]:
    """The world's artifact, served."""
    registry = Registry.open(world)
    version = registry.publish(NAME, "fingerprint", world / "build" / "artifact")
    registry.set_alias(NAME, "champion", version.version, expected=registry.aliases(NAME).get("champion"))
    with running(registry, serve_settings()) as served:
        yield served.url


def run(world: Path, name: str, *words: str) -> str:
    """What an example prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOUCHSTONE_ROOT": str(world)}
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    result = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_its_head_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = text.split('"""')[1]
    assert f"python examples/{path.name}" in head
    compile(text, str(path), "exec")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_policy_is_fine_tuned_and_sampled_and_asked_for_its_best_of_16(world: Path) -> None:
    words = run(world, "policy.py", "--steps", "20")
    assert re.search(r"gold reward of its samples: [+-]\d+\.\d\d before, [+-]\d+\.\d\d after", words)
    assert len(run(world, "policy.py", "--sample", PROMPT).splitlines()) == 8
    with endpoint(world) as url:
        words = run(world, "best_of_16.py", PROMPT, "--policy", "build/policy", "--url", url)
        assert f"sd by {NAME}@champion version" in words
        assert "beats the best with 50.0%" in run(world, "best_of_n.py", PROMPT, "One.", "Two.", "--url", url)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_grpo_in_process_and_over_http(world: Path) -> None:
    words = run(world, "grpo.py", "--artifact", "build/artifact", "--steps", "2")
    assert "mean reward of the first steps" in words
    with endpoint(world) as url:
        assert "version 1" in run(world, "grpo.py", "--url", url, "--steps", "1")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ppo_ends_where_its_budget_is_spent(world: Path) -> None:
    short = ("--artifact", "build/artifact", "--policy", "build/base", "--batch", "8")
    words = run(world, "ppo.py", *short, "--steps", "40", "--nats", "0.02", "--learning-rate", "1e-3")
    assert "is beyond the budget of 0.02" in words
    assert words.splitlines()[-1].startswith("after: gold")
    with endpoint(world) as url:
        words = run(world, "ppo.py", "--url", url, "--policy", "build/base", "--batch", "4", "--steps", "1")
        assert re.search(r"step   1: raw [+-]\d", words)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_curve_of_ones_own_model_and_many_scores(world: Path) -> None:
    words = run(world, "overoptimisation.py", "--prompts", "6", "--completions", "32")
    assert "6 prompts, 32 completions each" in words
    assert (world / "curve.png").read_bytes().startswith(b"\x89PNG")
    words = run(world, "score_a_million.py", "--count", "600")
    assert "completions a second" in words
    assert (world / "build" / "scored" / "scores.parquet").exists()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_head_that_reproduces_a_stage_brings_the_data_first(path: Path) -> None:
    """`make retrain` works on a copy: a fresh clone has no data/ afterwards, and `dvc repro` wants it."""
    head = path.read_text(encoding="utf-8").split('"""')[1]
    if "dvc repro" in head:
        before = head.partition("dvc repro")[0]
        assert "make data" in before
        assert "source .venv/bin/activate" in before


@pytest.mark.slow
def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (["best_of_16.py", PROMPT], ["grpo.py"]):
        command = [sys.executable, str(ROOT / "examples" / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode != 0
        assert "isn't there" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
