"""Train the reward model: build/base and the training set in, build/model and build/curve.jsonl out.

    accelerate launch --config_file configs/accelerate/cpu.yaml -m touchstone.training

Where TOUCHSTONE_EVENTS names a file, every step's row is appended to it while training runs, with speed and memory.
TOUCHSTONE_CHECKPOINTS names the folder for checkpoints; default: build/checkpoints.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

# Before the libraries below are imported: they decide on import whether to report home or to look for MLflow.
os.environ.update(
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="true",
    DISABLE_MLFLOW_INTEGRATION="TRUE",
    TOKENIZERS_PARALLELISM="false",
)

from touchstone.runtime.stage import run_stage
from touchstone.settings import load
from touchstone.training.run import train


def main() -> None:
    """The stage `train`."""
    signal.signal(signal.SIGTERM, _stop)
    events = os.environ.get("TOUCHSTONE_EVENTS")
    keep = os.environ.get("TOUCHSTONE_CHECKPOINTS")
    train(load(), Path("build"), Path(events) if events else None, Path(keep) if keep else None)


def _stop(signum: int, frame: FrameType | None) -> None:
    """Leave through the usual way out, so that folders written aside are removed."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    run_stage(main)
