"""Train the reward model: build/base and the training set in, build/model and build/curve.jsonl out.

    accelerate launch --config_file configs/accelerate/cpu.yaml -m touchstone.training

Where TOUCHSTONE_EVENTS names a file, every step's row is appended to it while training runs, with speed and memory.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

# Before the libraries below are imported: they decide on import whether to report home or to look for MLflow.
os.environ.update(
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="true",
    DISABLE_MLFLOW_INTEGRATION="TRUE",
    TOKENIZERS_PARALLELISM="false",
)

import torch

from touchstone.errors import TrainingError
from touchstone.files import canonical_json, write_atomic, write_folder
from touchstone.groups import read_parquet
from touchstone.model import load_base_folder, save
from touchstone.settings import Settings, load
from touchstone.stage import run_stage
from touchstone.templating import encode_many
from touchstone.training.trainer import PreferenceTrainer


def train(settings: Settings, build: Path, events: Path | None = None) -> list[dict[str, float | int]]:
    """Train on build/splits/train.parquet from build/base; writes build/model, build/curve.jsonl; returns the curve.

    Every rank calls it and the first one writes. The same inputs give the same bytes on one machine.

    Raises:
        TrainingError: a loss or gradient that is not finite, nothing to learn from, or a disk that is full.
        ModelError: the base can't be used.
        DataError: the training set can't be read.
    """
    torch.set_num_threads(settings.train.threads)
    torch.use_deterministic_algorithms(True)
    groups = read_parquet(build / "splits" / "train.parquet")
    model = load_base_folder(build / "base", settings.model, seed=settings.train.seed)
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    encoded = encode_many(model.tokenizer, model.rule, items)
    try:
        with tempfile.TemporaryDirectory(prefix="touchstone-") as scratch:
            trainer = PreferenceTrainer(
                model, groups, encoded, settings.objective, settings.train, scratch=Path(scratch), events=events
            )
            trainer.train()
        if trainer.is_world_process_zero():
            write_folder(build / "model", lambda folder: save(model, folder))
            write_atomic(build / "curve.jsonl", "".join(canonical_json(row) + "\n" for row in trainer.rows))
    except OSError as error:
        raise TrainingError(f"training can't write {error.filename or 'a file'}: {error.strerror or error}") from error
    return trainer.rows


def main() -> None:
    """The stage `train`."""
    signal.signal(signal.SIGTERM, _stop)
    # Deterministic matrix products on CUDA need it set before the first one.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    events = os.environ.get("TOUCHSTONE_EVENTS")
    train(load(), Path("build"), Path(events) if events else None)


def _stop(signum: int, frame: FrameType | None) -> None:
    """Leave through the usual way out, so that folders written aside are removed."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    run_stage(main)
