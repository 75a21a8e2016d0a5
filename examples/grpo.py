"""GRPO against Touchstone's rewards: TRL trains a small policy on a CPU in about a minute.

    make retrain                                          # once: a champion in the registry
    make serve                                            # in a second terminal: the champion on port 8100
    make data && source .venv/bin/activate
    dvc repro base                                        # the policy and its prompts, from the run's cache
    python examples/grpo.py                               # rewards over HTTP
    dvc repro seal
    python examples/grpo.py --artifact build/artifact     # the same rewards in this process, without an endpoint

The policy is the sandbox's own small language model before any reward training. What it learns is of no use to
anybody: the example shows the wiring, and that the mean reward rises. Your own policy: --policy FOLDER.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"DISABLE_MLFLOW_INTEGRATION": "TRUE", "HF_HUB_DISABLE_TELEMETRY": "1"}

import touchstone  # noqa: F401 - before torch: how its threads wait is read when it is loaded

import torch  # isort: skip
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from touchstone.client import reward_function
from touchstone.groups import read_parquet


class Steps(TrainerCallback):
    """Prints each step as it ends."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any) -> None:
        """One line a step; TRL's log has what the reward function told it."""
        if logs is not None and "touchstone/mean" in logs:
            version = f", version {logs['touchstone/version']:.0f}" if "touchstone/version" in logs else ""
            print(f"step {state.global_step:3}: mean reward {logs['touchstone/mean']:+.3f} sd{version}", flush=True)


def prompts(path: Path, count: int) -> Dataset:
    """The first prompts of some length as TRL's conversational form."""
    turns = [[{"role": turn.role, "content": turn.content} for turn in group.prompt] for group in read_parquet(path)]
    short = [prompt for prompt in turns if sum(len(turn["content"]) for turn in prompt) < 400]
    return Dataset.from_list([{"prompt": prompt} for prompt in short[:count]])


def reward_of(url: str, artifact: Path | None) -> Any:
    """Over HTTP, or in this process."""
    if artifact is None:
        return reward_function(url)
    from touchstone.model.scoring import Scorer

    return reward_function(Scorer.load(artifact))


def main() -> None:
    """Train, and print the mean reward of every step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8100", help="the endpoint")
    parser.add_argument("--artifact", type=Path, help="a sealed artifact, instead of an endpoint")
    parser.add_argument("--policy", type=Path, default=Path("build/base"), help="the model that is trained")
    parser.add_argument("--prompts", type=Path, default=Path("build/splits/train.parquet"))
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    for path in (given.policy, given.prompts):
        if not path.exists():
            parser.error(f"{path} isn't there; `make data && dvc repro base` makes it")

    # The policy: a base from scratch lies on disk with a head for rewards, and its output embedding is its input's.
    torch.manual_seed(17)
    torch.set_num_threads(1)
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(given.policy, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(given.policy, dtype=torch.float32, tie_word_embeddings=True)

    with tempfile.TemporaryDirectory(prefix="touchstone-grpo-") as folder:
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=32,
            num_generations=8,
            max_completion_length=48,
            learning_rate=3e-4,
            max_steps=given.steps,
            logging_steps=1,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=17,
        )
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=reward_of(given.url, given.artifact),
            args=settings,
            train_dataset=prompts(given.prompts, 400),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Steps())
        trainer.train()

    logs = [entry for entry in trainer.state.log_history if "touchstone/mean" in entry]
    first, last = (sum(entry["touchstone/mean"] for entry in part) / len(part) for part in (logs[:5], logs[-5:]))
    print(f"mean reward of the first steps {first:+.3f}, of the last {last:+.3f} standard deviations")


if __name__ == "__main__":
    main()
