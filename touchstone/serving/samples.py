"""A store of what was scored, by explicit opt-in: the raw material of labelling what a policy writes now.

    samples = Samples.open(root, settings.serve.samples)    # None without a folder
    samples.offer(exchange)                                 # never waits
    samples.close()                                         # writes what was offered
    write_pool(folder, Path("pool.jsonl"))                  # for `touchstone labels ask --pool`

Prompts are drawn by their hash: all completions of a prompt are kept, or none, so that what an RL trainer sends one by
one can be compared. Lines have the shape that `touchstone.data.pool` reads. Parts are closed after an hour and
deleted by age and size.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from touchstone.errors import ServingError
from touchstone.groups import prompt_digest
from touchstone.runtime.files import write_atomic
from touchstone.serving.exchange import Exchange

if TYPE_CHECKING:
    from touchstone.model.scores import Item
    from touchstone.settings.serve import Samples as Choice

log = logging.getLogger(__name__)

SOURCE = "endpoint"
"""The source of the pool's groups."""
PARTS = 8
"""A part holds at most this fraction of all, in bytes and in days, and an hour at most."""
MOST_WAITING = 8 * 2**20
"""Characters that wait to be written; what comes beyond is given up."""
SWEEP_SECONDS = 60.0

_SURROGATE = re.compile("[\ud800-\udfff]")
_PART = re.compile(r"samples-\d+-\d+-\d+\.jsonl")


@dataclass(frozen=True, slots=True)
class _Sample:
    item: Item
    about: dict[str, Any]
    scores: list[tuple[float, bool]]
    characters: int


class Samples:
    """A folder of parts and the thread that writes them.

    Attributes:
        written: items written so far.
        dropped: items given up because writing was behind.
    """

    def __init__(self, folder: Path, *, share: float, days: float, most_bytes: int, redact: bool) -> None:
        """
        Args:
            share: of the prompts.
            days: after so many a part that was begun then is deleted.
            most_bytes: of all parts.
            redact: replace personal data and keys.

        Raises:
            ServingError: the folder can't be made.
        """
        self.folder = folder
        self.written = 0
        self.dropped = 0
        self._threshold = int(share * 2**64)
        self._most_seconds = 86_400 * days
        self._most_bytes = most_bytes
        self._redact = redact
        self._waiting: queue.SimpleQueue[_Sample | None] = queue.SimpleQueue()
        self._characters = 0
        self._counting = threading.Lock()
        self._part: TextIO | None = None
        self._begun = 0.0
        self._parts = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ServingError(f"serve.samples.folder: {folder} can't be made ({type(error).__name__})") from None
        self._thread = threading.Thread(target=self._write_all, name="samples", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, root: Path, choice: Choice) -> Samples | None:
        """The store that the settings ask for; None if they don't.

        Args:
            root: what a relative folder counts from.
        """
        folder = folder_of(root, choice)
        if folder is None:
            return None
        return cls(
            folder, share=choice.share, days=choice.days, most_bytes=choice.most_mib * 2**20, redact=choice.redact
        )

    def offer(self, exchange: Exchange) -> None:
        """Take the items of an exchange whose prompts are drawn; what can't be written soon is given up."""
        scored = exchange.scored
        if scored is None or not scored.items:
            return
        about = {"model": scored.model, "version": scored.version.version, "digest": scored.version.digest}
        for (prompt, completions), row in zip(scored.items, scored.scores, strict=True):
            if int(prompt_digest(prompt), 16) >= self._threshold:
                continue
            scores = [(round(score.centered, 4), score.truncated) for score in row]
            size = sum(len(message.content) for message in prompt) + sum(map(len, completions))
            with self._counting:
                room = self._characters + size <= MOST_WAITING
                if room:
                    self._characters += size
                else:
                    self.dropped += 1
            if room:
                self._waiting.put(_Sample((prompt, completions), about, scores, size))

    def close(self) -> None:
        """Write what was taken and end the thread; nothing happens where it has ended."""
        self._waiting.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        swept = -math.inf
        while True:
            # Old parts go while nothing comes, too.
            if time.monotonic() - swept > SWEEP_SECONDS:
                swept = time.monotonic()
                with contextlib.suppress(OSError):  # a folder that can't be read now may be at the next sweep
                    self._sweep()
            try:
                sample = self._waiting.get(timeout=SWEEP_SECONDS)
            except queue.Empty:
                continue
            if sample is None:
                self._end_part()
                return
            with self._counting:
                self._characters -= sample.characters
            try:
                self._write(sample)
            except OSError as error:  # a full disk is not the clients' trouble
                self.dropped += 1
                log.error("a sample can't be written: %s", os.strerror(error.errno or 0).lower())
                with contextlib.suppress(OSError):  # the next one shall not follow on half a line
                    self._end_part()

    def _write(self, sample: _Sample) -> None:
        # A new part, if the present one is full or old.
        if self._part is not None and self._is_over(self._part):
            self._end_part()
            self._sweep()
        if self._part is None:
            self._part = self._new_part()

        # One line, all of it or nothing.
        self._part.write(json.dumps(self._line(sample), ensure_ascii=False) + "\n")
        self._part.flush()
        self.written += 1

    def _end_part(self) -> None:
        if self._part is not None:
            part, self._part = self._part, None
            part.close()

    def _line(self, sample: _Sample) -> dict[str, Any]:
        prompt, completions = sample.item
        return {
            "prompt": [{"role": message.role, "content": self._clean(message.content)} for message in prompt],
            "completions": [
                {"text": self._clean(text), "centered": centered, "truncated": truncated}
                for text, (centered, truncated) in zip(completions, sample.scores, strict=True)
            ],
            "source": SOURCE,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            **sample.about,
        }

    def _clean(self, text: str) -> str:
        """The text as it may be stored. UTF-8 has no lone surrogates; they are scored as what stands for them here."""
        from touchstone.data.personal import redacted

        text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
        return redacted(text)[0] if self._redact else text

    def _is_over(self, part: TextIO) -> bool:
        seconds = min(3_600.0, self._most_seconds / PARTS)
        return time.time() - self._begun > seconds or part.tell() > self._most_bytes / PARTS

    def _new_part(self) -> TextIO:
        self._begun = time.time()
        self._parts += 1
        path = self.folder / f"samples-{int(self._begun)}-{os.getpid()}-{self._parts}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return open(descriptor, "w", encoding="utf-8")

    def _sweep(self) -> None:
        """Delete parts that were begun too long ago, and the oldest beyond the size."""
        parts = part_files(self.folder)
        sizes = [_size(path) for path in parts]
        oldest = time.time() - self._most_seconds
        excess = sum(sizes) - self._most_bytes
        for path, size in zip(parts, sizes, strict=True):
            if _order(path)[0] < oldest or excess > 0:
                excess -= size
                with contextlib.suppress(OSError):  # another endpoint's sweep took it
                    path.unlink()


def folder_of(root: Path, choice: Choice) -> Path | None:
    """Where the samples lie."""
    return None if choice.folder is None else root / Path(choice.folder).expanduser()


def part_files(folder: Path) -> list[Path]:
    """The store's parts, oldest first."""
    return sorted((path for path in folder.glob("samples-*.jsonl") if _PART.fullmatch(path.name)), key=_order)


def write_pool(folder: Path, pool: Path) -> tuple[int, int]:
    """Write what a store holds as a pool: a group a prompt, with every different completion that was seen.

    Returns:
        How many groups were written, and how many prompts were left out because they have one completion only.

    Raises:
        ServingError: the folder holds no prompt with two completions.
    """
    from touchstone.data.prompts import words_of

    prompts: dict[str, list[dict[str, str]]] = {}
    texts: dict[str, dict[str, str]] = {}
    for line in _lines(folder):
        key = json.dumps(line["prompt"])
        prompts[key] = line["prompt"]
        for completion in line["completions"]:
            # As the pool tells them apart; it takes no empty ones.
            words = " ".join(words_of(completion["text"]))
            if words:
                texts.setdefault(key, {}).setdefault(words, completion["text"])
    groups = [
        {"prompt": prompts[key], "completions": list(different.values()), "source": SOURCE}
        for key, different in texts.items()
        if len(different) > 1
    ]
    if not groups:
        raise ServingError(
            f"{folder} holds no prompt with two completions that differ; an endpoint with serve.samples.folder set "
            "collects them"
        )
    write_atomic(pool, "".join(json.dumps(group, ensure_ascii=False) + "\n" for group in groups))
    return len(groups), len(prompts) - len(groups)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in part_files(folder):
        with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):  # otherwise the endpoint is at it, or was killed there
                    yield json.loads(line)


def _order(path: Path) -> tuple[int, ...]:
    """When a part was begun, in seconds since 1970, by which process, and its number there."""
    return tuple(map(int, path.stem.split("-")[1:]))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another endpoint's sweep took it, or the folder is somewhere that doesn't answer
        return 0
