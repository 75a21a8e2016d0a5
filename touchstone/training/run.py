"""Training as one function: base and sets in, weights and curve out."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from touchstone.errors import TrainingError
from touchstone.groups import Group, read_parquet, without_look_alikes
from touchstone.model.network import RewardModel
from touchstone.model.processor import has_bf16, prepare
from touchstone.model.templating import encode_many
from touchstone.runtime.files import canonical_json, digest_value, write_atomic, write_folder, write_json
from touchstone.settings import Settings, project_root
from touchstone.training import checkpoints, head_only, methods
from touchstone.training.curve import Row
from touchstone.training.decoys import count_decoys, with_decoys
from touchstone.training.ensemble import (
    APART,
    finished,
    labelled,
    put_together,
    trainings,
    widen_head,
    write_down,
    write_model,
)
from touchstone.training.linear import put_linear_beside
from touchstone.training.state import inputs_of
from touchstone.training.trainer import Examples, Places, PreferenceTrainer

log = logging.getLogger(__name__)

NAMED_GROUPS = 5
"""So many groups of comparisons that were left out are named in the log; build/training.json names all."""


def train(settings: Settings, build: Path, events: Path | None = None, keep: Path | None = None) -> list[Row]:
    """Train on build/splits/train.parquet from build/base; returns the curve.

    Writes build/model, build/curve.jsonl, and build/training.json: how many decoys there were, by axis and kind, and
    how many comparisons of which group were left out because their completions are equal once cut.

    Every rank calls it and the first one writes. The same inputs give the same bytes on one machine, however often
    training was killed and called again.

    Args:
        keep: a folder for checkpoints; default: build/checkpoints. What it holds is resumed if all that counts is the
            same. Empty once build/model is written.

    Raises:
        TrainingError: a loss, gradient or weight that is not finite, nothing to learn from, a disk that is full, or
            another training with the same folder for checkpoints.
        ModelError: the base can't be used.
        DataError: a set can't be read.
    """
    prepare(settings.training_threads)
    # accelerate counts one process on a CPU unless it is told that it is one.
    cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or not torch.cuda.is_available()
    world = PartialState(cpu=cpu, timeout=timedelta(seconds=settings.train.timeout_seconds))
    settings = _computable(settings, world.device)
    model = _load(build, settings)
    groups = with_decoys(
        _groups(build, "train"), settings.objective.decoys, settings.train.seed, settings.gates.safety_axes
    )
    apart, first = settings.ensemble.kind in APART, world.is_main_process
    if first:
        _report_decoys(groups)
    if settings.train.method == "head_only" and not apart:
        return _train_head(model, groups, settings, build) if first else []
    folder = (keep or build / "checkpoints") if settings.train.checkpoint_steps else None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="touchstone-") as scratch,
            checkpoints.held(folder) if folder and first and not apart else nullcontext(),
        ):
            examples = _examples(groups, model, "training")
            if settings.train.head_first:
                model.network.to(world.device)
                head_only.train_head(model, examples.groups, examples.encoded, _for_one_head(settings))
            stops_early = settings.train.early_stopping_steps
            validation = _examples(_groups(build, "validation"), model, "validation") if stops_early else None
            run = _Run(build, examples, validation, events, folder, Path(scratch), world)
            if apart:
                del model  # each member loads its own
                return _train_apart(settings, run, groups)
            rows = _train_steps(settings, run, model, run.inputs(settings), folder)
            if first:
                _write(_finished(model, examples, settings), rows, groups, examples, settings, build)
                if folder:
                    checkpoints.clear(folder)
    except OSError as error:
        raise TrainingError(f"training can't write {error.filename or 'a file'}: {error.strerror or error}") from error
    return rows


@dataclass(frozen=True)
class _Run:
    """What the trainings of one ensemble share.

    Attributes:
        folder: for checkpoints; None where none are written.
        scratch: a temporary one.
    """

    build: Path
    examples: Examples
    validation: Examples | None
    events: Path | None
    folder: Path | None
    scratch: Path
    world: PartialState

    def inputs(self, settings: Settings) -> dict[str, Any]:
        """What must match on resume."""
        return inputs_of(settings, self.build, self.world.num_processes)


def _load(build: Path, settings: Settings) -> RewardModel:
    """The base, ready to be trained."""
    model = methods.load(build / "base", settings)
    widen_head(model, settings)
    return model


def _train_steps(
    settings: Settings,
    run: _Run,
    model: RewardModel,
    inputs: dict[str, Any],
    folder: Path | None,
    before: int = 0,
    left: int = 1,
) -> list[Row]:
    """Train a loaded model to its end, in place; returns the curve.

    Args:
        folder: for its checkpoints.
        before, left: as in `Places`.
    """
    tensorboard = settings.train.tensorboard
    board = project_root() / tensorboard / digest_value(inputs)[:8] if tensorboard else None
    places = Places(run.scratch, folder, inputs, run.events, board, before, left)
    trainer = PreferenceTrainer(model, run.examples, run.validation, settings, places)
    trainer.train()
    return trainer.progress.rows


def _train_apart(settings: Settings, run: _Run, groups: Sequence[Group]) -> list[Row]:
    """Train the members of an ensemble one after the other, and put them together; returns their curves as one."""
    kind, members = settings.ensemble.kind, trainings(settings)
    rows: list[Row] = []
    places: list[Path] = []
    for number, member in enumerate(members):
        inputs = run.inputs(member)
        places.append((run.folder or run.scratch) / f"finished-{number}")
        curve = finished(places[-1], inputs)
        if curve is None:
            folder = None if run.folder is None else run.folder / f"member-{number}"
            model = _load(run.build, member)
            with checkpoints.held(folder) if folder and run.world.is_main_process else nullcontext():
                if member.train.method == "head_only":
                    model.network.to(run.world.device)
                    curve = head_only.train_head(model, run.examples.groups, run.examples.encoded, member)
                else:
                    curve = _train_steps(member, run, model, inputs, folder, len(rows), len(members) - number)
                if run.world.is_main_process:
                    trained = methods.finish(model, member) if kind == "seeds" else model
                    write_down(trained, curve, kind, places[-1], inputs)
                    if folder:
                        checkpoints.clear(folder)
        rows += labelled(curve, number, len(rows))
    if run.world.is_main_process:
        write_folder(run.build / "model", lambda aside: put_together(places, kind, aside))
        _report(rows, groups, run.examples, run.build)
        for place in places:
            shutil.rmtree(place)
        if run.folder is not None and not any(run.folder.iterdir()):
            run.folder.rmdir()
    return rows


def _computable(settings: Settings, device: torch.device) -> Settings:
    """The settings, with fp32 for bf16 where the device would emulate it."""
    if settings.train.precision == "fp32" or has_bf16(device):
        return settings
    log.warning("train.precision=bf16: this %s has no instructions for it; training in fp32", device.type)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"precision": "fp32"})})


def _for_one_head(settings: Settings) -> Settings:
    """The settings under which a head is fitted by itself, whatever is trained beside it afterwards."""
    return settings.model_copy(update={"objective": settings.objective.model_copy(update={"length": "keep"})})


def _train_head(model: RewardModel, groups: list[Group], settings: Settings, build: Path) -> list[Row]:
    """As `train`, by one process and without steps, so without checkpoints and events."""
    model.network.to(PartialState().device)
    examples = _examples(groups, model, "training")
    try:
        rows = head_only.train_head(model, examples.groups, examples.encoded, settings)
        _write(_finished(model, examples, settings), rows, groups, examples, settings, build)
    except OSError as error:
        raise TrainingError(f"training can't write {error.filename or 'a file'}: {error.strerror or error}") from error
    return rows


def _finished(model: RewardModel, examples: Examples, settings: Settings) -> RewardModel:
    """The trained model as it is saved: plain layers, and the linear part beside them where one is wanted."""
    model = methods.finish(model, settings)
    if settings.train.linear_share:
        put_linear_beside(model, examples.groups, examples.encoded, settings)
    return model


def _write(
    model: RewardModel,
    rows: Sequence[Row],
    groups: Sequence[Group],
    examples: Examples,
    settings: Settings,
    build: Path,
) -> None:
    """The stage's outputs."""
    write_folder(build / "model", lambda aside: write_model(model, settings, aside))
    _report(rows, groups, examples, build)


def _report(rows: Sequence[Row], groups: Sequence[Group], examples: Examples, build: Path) -> None:
    """The stage's outputs beside the model."""
    report = {"decoys": count_decoys(groups), "equal_once_cut": _left_out(groups, examples.groups)}
    write_json(build / "training.json", report)
    write_atomic(build / "curve.jsonl", "".join(canonical_json(row) + "\n" for row in rows))


def _groups(build: Path, name: str) -> list[Group]:
    return read_parquet(build / "splits" / f"{name}.parquet")


def _report_decoys(groups: Sequence[Group]) -> None:
    """Say in the log how many decoys there are of each kind."""
    for axis, kinds in count_decoys(groups).items():
        counts = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
        # A warning, because nothing below one is shown where nobody has set logging up.
        log.warning("decoys on the axis %s: %s", axis, counts)


def _examples(groups: list[Group], model: RewardModel, name: str) -> Examples:
    """Groups of a set and their token ids, without the comparisons of completions that are equal once cut.

    Nothing tells those apart, so nothing can be learnt from them. The log names their groups.

    Raises:
        TrainingError: there are no others.
    """
    items = [(group.prompt, [completion.text for completion in group.completions]) for group in groups]
    encoded = encode_many(model.tokenizer, model.rule, items)
    if model.rule.unit != "text":  # a label is the completion's own, whatever it is compared with
        return Examples(groups, encoded)
    telling = [without_look_alikes(group, tokens.look_alike) for group, tokens in zip(groups, encoded, strict=True)]
    limit = f"equal once cut to model.max_tokens={model.rule.max_tokens}"
    left_out = _left_out(groups, telling)
    if left_out and not any(group.comparisons for group in telling):
        raise TrainingError(f"every comparison of the {name} set is between completions that are {limit}; raise it")
    if left_out and PartialState().is_main_process:
        named = ", ".join(list(left_out)[:NAMED_GROUPS])
        more = f" and {len(left_out) - NAMED_GROUPS} more" if len(left_out) > NAMED_GROUPS else ""
        log.warning(
            "%s comparisons of the %s set are left out, their completions being %s: groups %s%s",
            f"{sum(left_out.values()):,}",
            name,
            limit,
            named,
            more,
        )
    return Examples(telling, encoded)


def _left_out(groups: Sequence[Group], telling: Sequence[Group]) -> dict[str, int]:
    """How many comparisons each group has lost, by its id; those that lost none are left out."""
    pairs = zip(groups, telling, strict=True)
    counts = {group.id: len(group.comparisons) - len(rest.comparisons) for group, rest in pairs}
    return {name: count for name, count in counts.items() if count}
