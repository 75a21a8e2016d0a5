"""What there is to see of training: a row per step for the curve, and the live view of it.

A row holds only what follows from the inputs, so that curves are equal byte for byte; times, speed and memory go to
the events, to TensorBoard and nowhere else.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from touchstone.errors import TrainingError
from touchstone.groups import Group
from touchstone.runtime.progress import progress
from touchstone.settings.objective import Objective
from touchstone.training.agreement import selects
from touchstone.training.plan import MicroBatch, left_out

log = logging.getLogger(__name__)

Row = dict[str, float | int]

SUMS = (
    "loss", "comparisons", "decided", "wins", "margin", "rewards", "squares", "tokens", "padded", "separate",
)  # fmt: skip
"""What each rank adds up over a step, in the order in which ranks exchange it."""


def sums_of(micro: MicroBatch, loss: Tensor, rewards: Tensor) -> Tensor:
    """One micro-batch's part of `SUMS`: float64 on the CPU; zeros where it doesn't count.

    A comparison is decided if one side has more judgements than the other. A reward that is not above the other one is
    no win. Mean and spread are over the two sides of every comparison, which no layout and no number of ranks changes.

    Args:
        loss: scalar, the micro-batch's weighted sum.
        rewards: [R], those of all its batches.
    """
    rewards = rewards.detach().double().cpu()
    chosen, rejected = rewards[micro.chosen], rewards[micro.rejected]
    sign = torch.sign(micro.wins.double() - micro.losses.double())
    difference = sign * (chosen - rejected)
    sums = [
        float(loss.detach()),
        len(sign),
        float(sign.abs().sum()),
        float((difference > 0).sum()),
        float(difference.sum()),
        float((chosen + rejected).sum()),
        float((chosen.square() + rejected.square()).sum()),
        sum(batch.tokens for batch in micro.batches),
        sum(batch.input_ids.numel() for batch in micro.batches),
        sum(batch.separate_tokens for batch in micro.batches),
    ]
    return torch.tensor(sums, dtype=torch.float64) * float(micro.counts)


def averages(sums: dict[str, float], weight: float) -> Row:
    """Loss, accuracy and margin of comparisons from summed `SUMS`; the last two are absent where none is decided.

    Args:
        weight: what the loss is divided by.
    """
    row: Row = {"loss": sums["loss"] / weight}
    if sums["decided"]:
        row |= {"accuracy": sums["wins"] / sums["decided"], "margin": sums["margin"] / sums["decided"]}
    return row


def row_of(step: int, sums: dict[str, float], weight: float, gradient_norm: float, learning_rate: float) -> Row:
    """A step's row of the curve from what all ranks added up."""
    sides = 2 * sums["comparisons"]
    mean = sums["rewards"] / sides
    return {
        "step": step,
        **averages(sums, weight),
        "reward_mean": mean,
        "reward_spread": math.sqrt(max(0.0, sums["squares"] / sides - mean * mean)),
        "gradient_norm": gradient_norm,
        "learning_rate": learning_rate,
        "comparisons": int(sums["comparisons"]),
    }


def omissions(groups: Sequence[Group], objective: Objective) -> Row:
    """What every row of the curve says of comparisons that the policy of `objective.agreement` leaves out of training.

    `left_out`, their number, which the log says as well; nothing for a policy that learns from all of them.
    """
    if not selects(objective):
        return {}
    count = left_out(groups, objective)
    # A warning, because nothing below one is shown where nobody has set logging up.
    log.warning("objective.agreement=%s leaves %d comparisons out of training", objective.agreement, count)
    return {"left_out": count}


class Watch:
    """The live view: events, TensorBoard and a progress bar; one process has it.

    Args:
        steps: how many the plan has.
        events: a file that gets a JSON line per step; None for none.
        board: a folder for TensorBoard; None for none.

    Raises:
        TrainingError: TensorBoard is asked for and not installed.
    """

    def __init__(self, steps: int, processes: int, events: Path | None, board: Path | None) -> None:
        self.steps, self.processes, self.events = steps, processes, events
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
            run = {"steps": self.steps, "processes": self.processes, "tokens_per_microbatch": self._token_budget}
            whole = {**row, **live, "time": time.time(), **run}
            with self.events.open("a", encoding="utf-8") as file:
                file.write(json.dumps(whole) + "\n")
        if self._board is not None:
            for name, value in {**row, **live}.items():
                if name != "step":
                    self._board.add_scalar(f"train/{name}", value, int(row["step"]))

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
