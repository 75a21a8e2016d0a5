"""The live view of training: events, TensorBoard and a progress bar. No output of a stage depends on this file."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Generator
from pathlib import Path

import torch

from touchstone.errors import TrainingError
from touchstone.runtime.progress import progress
from touchstone.training.curve import Row


class LiveView:
    """Shows each step; one process of a training has it.

    Args:
        steps: how many the plan has.
        events: a file that gets a JSON line per step; None for none.
        board: a folder for TensorBoard; None for none.
        before, total: steps of the trainings before this one, and of all, where several make one model.

    Raises:
        TrainingError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, steps: int, processes: int, events: Path | None, board: Path | None, *, before: int = 0, total: int = 0
    ) -> None:
        self.steps, self.processes, self.events = steps, processes, events
        self.before, self.total = before, total or steps
        self._board = None if board is None else _open_board(board)
        self._token_budget = 0
        self._bar = _bar(0, 0)

    def begin(self, step: int, token_budget: int) -> None:
        """Training starts after `step` steps, of an earlier process if it is not 0, with so many tokens per batch."""
        self._token_budget = token_budget
        self._bar = _bar(step, self.steps)
        next(self._bar, None)

    def show(self, row: Row, sums: dict[str, float], seconds: float) -> None:
        """A step that took so many seconds is done."""
        next(self._bar, None)
        live = {
            "comparisons_per_second": sums["comparisons"] / seconds,
            "tokens_per_second": sums["tokens"] / seconds,
            "padding_share": 1 - sums["tokens"] / sums["padded"],
            "shared_share": 1 - sums["tokens"] / sums["separate"],
            "peak_memory_bytes": _peak_memory(),
        }
        if self.events is not None:
            run = {"steps": self.total, "processes": self.processes, "tokens_per_microbatch": self._token_budget}
            event = {**row, "step": int(row["step"]) + self.before, **live, "time": time.time(), **run}
            with self.events.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        if self._board is not None:
            for name, value in {**row, **live}.items():
                if name != "step":
                    self._board.add_scalar(f"train/{name}", value, int(row["step"]) + self.before)

    def end(self) -> None:
        """No step follows, whether the plan is done or training stopped early."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _bar(start: int, steps: int) -> Generator[int]:
    yield from progress(range(start, steps), "training", steps, done=start)


def _open_board(folder: Path):  # type: ignore[no-untyped-def]  # a type that may not be there
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError(
            "train.tensorboard needs TensorBoard: pip install 'touchstone-rm[tensorboard]', or set it to false"
        ) from None
    return SummaryWriter(str(folder))


def _peak_memory() -> int:
    """Bytes: the accelerator's peak where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
