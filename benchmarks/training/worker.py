"""A process that trains an epoch whenever it is told to, and says how long it took.

    echo touchstone | python -m benchmarks.training.worker hh --data ../shared/data

Each line on stdin names a contestant, `touchstone`, `trl-B` (random batches of B pairs) or `trl-B-grouped` (grouped by
length), and makes it train one epoch; each line on stdout is the result in JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"DISABLE_MLFLOW_INTEGRATION": "TRUE", "HF_HUB_DISABLE_TELEMETRY": "1"}

import torch
from datasets import Dataset, disable_progress_bars
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import RewardConfig, RewardTrainer

from benchmarks.training.workloads import Workload, load
from touchstone.settings import load as load_settings
from touchstone.settings import parse, project_root
from touchstone.training.trainer import Examples, Places, PreferenceTrainer

LEARNING_RATE = 1e-4


class Clock(TrainerCallback):
    """When training began and ended, without the making of trainers."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds = time.perf_counter() - self.began


def ours(workload: Workload, step: int, precision: str, budget: int, scratch: Path) -> PreferenceTrainer:
    """Our trainer for one epoch; `step` comparisons per optimizer step."""
    values = load_settings(project_root() / "params.yaml").model_dump(mode="json")
    values["model"]["max_tokens"] = budget
    values["objective"] |= {"centering": 0.0}
    values["train"] |= {
        "comparisons_per_step": step,
        "tokens_per_microbatch": budget,
        "precision": precision,
        "learning_rate": LEARNING_RATE,
        "warmup_share": 0.0,
        "checkpoint_steps": 0,
    }
    examples = Examples(workload.groups, workload.encoded)
    return PreferenceTrainer(workload.model(), examples, None, parse(values), Places(scratch))


def run_touchstone(trainer: PreferenceTrainer) -> dict[str, Any]:
    """One epoch of ours."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    steps = (trainer._share(step, trainer.examples) for step in trainer.steps)
    batches = [batch for step in steps for micro in step for batch in micro.batches]
    return {
        "seconds": clock.seconds,
        "pairs": sum(step.comparisons for step in trainer.steps),
        "computed": sum(batch.input_ids.numel() for batch in batches),
        "tokens": sum(batch.tokens for batch in batches),
    }


def trl(
    workload: Workload, dataset: Dataset, batch: int, accumulate: int, precision: str, strategy: str, scratch: Path
) -> RewardTrainer:
    """TRL's trainer for one epoch over token ids; nothing is filtered."""
    arguments = RewardConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        train_sampling_strategy=strategy,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        max_length=None,
        bf16=precision == "bf16",
        activation_checkpointing=False,
        center_rewards_coefficient=None,
        logging_steps=1,
        seed=17,
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,  # the column of lengths would go before the sampler sees it
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = RewardTrainer(
        model=workload.model().network, args=arguments, processing_class=workload.tokenizer, train_dataset=dataset
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def run_trl(trainer: RewardTrainer) -> dict[str, Any]:
    """One epoch of TRL's."""
    counts = {"computed": 0, "tokens": 0}
    stock = trainer.data_collator

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = stock(examples)
        counts["computed"] += made["input_ids"].numel()
        counts["tokens"] += int(made["attention_mask"].sum())
        return made

    trainer.data_collator = collate
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return {"seconds": clock.seconds, "pairs": len(trainer.train_dataset), **counts}


def run(workload: Workload, contestant: str, step: int, precision: str, budget: int, scratch: Path) -> dict[str, Any]:
    """One epoch of a contestant by its name."""
    if contestant == "touchstone":
        return run_touchstone(ours(workload, step, precision, budget, scratch))
    _, batch, *how = contestant.split("-")
    rows = workload.pairs()
    lengths = [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    dataset = Dataset.from_list([{**row, "length": n} for row, n in zip(rows, lengths, strict=True)])
    strategy = "group_by_length" if how else "random"
    return run_trl(trl(workload, dataset, int(batch), max(1, step // int(batch)), precision, strategy, scratch))


def memory(field: str) -> int:
    """Bytes of this process: VmRSS is what it holds, VmHWM the most that it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024


def main() -> None:
    """Answer lines on stdin until it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    disable_progress_bars()
    torch.set_num_threads(given.threads)
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # the libraries' own words
    with tempfile.TemporaryDirectory(prefix="touchstone-bench-") as folder:
        workload = load(given.workload, given.data, given.pairs)
        warm_up = load(given.workload, given.data, given.step)
        run(warm_up, "touchstone", given.step, given.precision, given.budget, Path(folder))
        run(warm_up, "trl-4", given.step, given.precision, given.budget, Path(folder))
        before = memory("VmRSS")
        answers.write("ready\n")
        answers.flush()
        for line in sys.stdin:
            gc.collect()
            result = run(workload, line.strip(), given.step, given.precision, given.budget, Path(folder))
            extra = {"peak": memory("VmHWM"), "before": before, "bound": workload.bound}
            answers.write(json.dumps({**result, **extra}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
