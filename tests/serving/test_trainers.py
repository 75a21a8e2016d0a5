"""TRL's own trainer with our rewards: a tiny policy really learns, in process and over HTTP; and the examples."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry, publish, reference, tiny_settings
from tests.worlds.tiny import make_tiny_base
from touchstone.client import Client, reward_function
from touchstone.groups import Message
from touchstone.model.scoring import Scorer
from touchstone.serving import temporary_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    registry = open_registry(tmp_path_factory.mktemp("trainers"))
    registry.set_alias(NAME, "champion", publish(registry, 0).version, expected=None)
    with temporary_endpoint(registry.root, tiny_settings(), NAME) as client:
        yield client.url


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("policy") / "base", seed=5)


def train(policy: Path, reward: Any, prompts: list[Any], folder: Path) -> tuple[list[dict[str, Any]], list[Any], bool]:
    """Three steps of GRPO: its logs, the batches that were rewarded, and whether every weight stayed finite and some
    moved."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    batches: list[Any] = []

    def witness(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        batches.append((prompts, completions))
        return [0.0] * len(prompts)

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        max_steps=3,
        learning_rate=1e-2,
        logging_steps=1,
        reward_weights=[1.0, 0.0],
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[reward, witness],
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=AutoTokenizer.from_pretrained(policy),
    )
    trainer.train()
    after = model.state_dict()
    moved = any(not torch.equal(value, after[name]) for name, value in before.items())
    finite = all(bool(torch.isfinite(value).all()) for value in after.values())
    return [entry for entry in trainer.state.log_history if "reward" in entry], batches, moved and finite


@pytest.mark.parametrize("where", ["process", "http"])
@pytest.mark.parametrize("form", ["plain", "conversational"])
def test_grpo_trains_on_our_rewards(policy: Path, url: str, tmp_path: Path, where: str, form: str) -> None:
    scorer = Scorer.load(artifact(0))
    questions = ["boil an egg", "capital of France", "why water", "soft yolk"]
    prompts: list[Any] = questions if form == "plain" else [[{"role": "user", "content": q}] for q in questions]
    reward = reward_function(url) if where == "http" else reward_function(scorer)
    logs, batches, learnt = train(policy, reward, prompts, tmp_path)
    assert learnt
    assert len(logs) == len(batches) == 3
    for entry, (asked, answered) in zip(logs, batches, strict=True):
        texts = [
            (p, c) if form == "plain" else (p[0]["content"], c[0]["content"])
            for p, c in zip(asked, answered, strict=True)
        ]
        expected = [scorer.score([((Message("user", p),), [c])])[0][0].centered for p, c in texts]
        mean = math.fsum(expected) / len(expected)
        assert entry["rewards/touchstone/mean"] == pytest.approx(mean, abs=1e-4)
        assert entry["touchstone/mean"] == pytest.approx(mean, abs=1e-4)
        assert entry.get("touchstone/version") == (1.0 if where == "http" else None)
    assert any(entry["reward_std"] > 0 for entry in logs)


def run_example(*command: str, words: str = "") -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, input=words, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("where", ["process", "http"])
def test_the_example_of_grpo_runs(policy: Path, url: str, where: str) -> None:
    source = ["--url", url] if where == "http" else ["--artifact", str(artifact(0))]
    printed = run_example(
        "examples/grpo.py", *source, "--policy", str(policy), "--prompts", str(reference()), "--steps", "2"
    )
    lines = printed.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["step   1", "step   2"]
    assert re.search(r"mean reward of the first steps [+-]\d", lines[-1])
    assert ("version 1" in printed) == (where == "http")


def test_the_example_of_best_of_n_prints_the_best(url: str) -> None:
    texts = ["egg water", "because the king lived there", "boil"]
    with Client(url) as client:
        best = texts[client.rank("why?", texts).ranking[0].index]
    assert run_example("examples/best_of_n.py", "why?", *texts, "--url", url).splitlines()[-1] == best
    piped = run_example("examples/best_of_n.py", "why?", "--url", url, words="\n".join(texts))
    assert piped.splitlines()[-1] == best
