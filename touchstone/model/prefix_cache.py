"""Prompts that come back: their keys and values, so that only the completions need be computed.

RL rollouts of one prompt arrive as many requests, and not all of them meet in one batch.

    cache = open_cache(model, 256 * 2**20)          # None where the model can't use one
    prefixes = cache.look_up(groups)                # by group what is known of its prompt, or what is to be written
    for rows in plan_batches(groups, token_budget, prefixes=prefixes):
        rewards(model, lay_out(groups, rows, prefixes=prefixes))
    cache.keep(groups, prefixes)

What a decoder's layers make of a prompt doesn't depend on what follows it, so scores are the same up to the order of
a product's sums. A cache belongs to one model: another version's keys never meet.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch

from touchstone.model.attention import Prefix
from touchstone.model.layout import PROBE_TOLERANCE, lay_out, plan_batches, rewards, shares_prompt
from touchstone.model.network import RewardModel
from touchstone.model.templating import EncodedGroup

log = logging.getLogger(__name__)

LEAST_TOKENS = 64
"""Tokens of the shortest prompt that is remembered (docs/decisions/0022-prefix-cache.md)."""

SEEN = 2**14
"""Prompts of which it is known that they came before: the second time one is remembered. Most of a bulk request's
prompts never come back; writing them down would cost memory, and several percent of the time."""


class PrefixCache:
    """What one model makes of prompts that came more than once. Safe to use from several threads.

    Attributes:
        limit: most bytes that are held between calls. Each call may write as many beside them.
        bytes: that are held now.
        hits, misses: how often a prompt of at least LEAST_TOKENS tokens was known, and how often not.
    """

    def __init__(self, limit: int, bytes_per_token: int) -> None:
        """Empty; `open_cache` is the way in, which finds out whether a model can use one.

        Args:
            bytes_per_token: of a prompt, over all layers.
        """
        self.limit = limit
        self.bytes = self.hits = self.misses = 0
        self._bytes_per_token = bytes_per_token
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._prefixes)

    def look_up(self, groups: Sequence[EncodedGroup]) -> list[Prefix | None]:
        """By group what is known of its prompt, or an empty prefix for the layers to write down.

        None where the prompt is too short or comes for the first time, and where so much is new that it would not be
        held anyway.

        Args:
            groups: each with a prompt of its own, which all its completions see whole.
        """
        prefixes: list[Prefix | None] = []
        room = self.limit
        with self._lock:
            for group in groups:
                tokens = len(group.anchor) + len(group.prompt_ids)
                if tokens < LEAST_TOKENS:
                    prefixes.append(None)
                    continue
                key = _key(group)
                prefix = self._prefixes.get(key)
                if prefix is not None:
                    self.hits += 1
                    self._prefixes.move_to_end(key)
                else:
                    self.misses += 1
                    size = tokens * self._bytes_per_token
                    if key in self._seen and size <= room:
                        prefix = Prefix()
                        room -= size
                    self._seen[key] = None
                    self._seen.move_to_end(key)
                prefixes.append(prefix)
            while len(self._seen) > SEEN:
                self._seen.popitem(last=False)
        return prefixes

    def keep(self, groups: Sequence[EncodedGroup], prefixes: Sequence[Prefix | None]) -> None:
        """Hold what was written down; what wasn't used for longest makes room."""
        with self._lock:
            for group, prefix in zip(groups, prefixes, strict=True):
                if prefix is None or not prefix.layers:
                    continue
                key = _key(group)
                if key not in self._prefixes:
                    self._prefixes[key] = prefix
                    self.bytes += prefix.bytes
            while self.bytes > self.limit:
                _, oldest = self._prefixes.popitem(last=False)
                self.bytes -= oldest.bytes


def open_cache(model: RewardModel, limit: int) -> PrefixCache | None:
    """An empty cache of at most `limit` bytes for a model; None for one that can't use it, and the log says so.

    Found out by its configuration and a probe: shared prompts, and the rewards of two small groups with and without
    what was remembered of their prompts.
    """
    several = model.ensemble is not None and model.ensemble.passes > 1  # each member makes something else of a prompt
    size = _bytes_per_token(model) if shares_prompt(model) and not several else 0
    if not size:
        log.warning("%s can't reuse a prompt's keys: the prefix cache is off", type(model.network).__name__)
        return None
    return PrefixCache(limit, size)


def digest_ids(ids: Sequence[int]) -> bytes:
    """What stands for token ids where equal ones are looked for: 16 bytes."""
    return hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()


def _key(group: EncodedGroup) -> bytes:
    return digest_ids(group.anchor + group.prompt_ids)


def _bytes_per_token(model: RewardModel) -> int:
    """Bytes that the layers' keys and values of one token take in fp32; 0 for a model that can't reuse them."""
    config = model.network.config.get_text_config()
    size = min(50, config.vocab_size - 1)
    ids = [1 + (7 * number) % size for number in range(24)]
    groups = [EncodedGroup(ids[start : start + 9], [ids[9:14], ids[14:15]], [0, 0], [False] * 2) for start in (0, 5)]
    training = model.network.training
    model.network.train(False)
    try:
        with torch.inference_mode():
            (rows,) = plan_batches(groups, 1024)
            prefixes = [Prefix(), Prefix()]
            # Without prefixes; written down; read.
            plain = rewards(model, lay_out(groups, rows))
            written = rewards(model, lay_out(groups, rows, prefixes=prefixes))
            read = rewards(model, lay_out(groups, rows, prefixes=prefixes))
    finally:
        model.network.train(training)
    tolerance = PROBE_TOLERANCE * float(plain.max() - plain.min())
    same = all(torch.allclose(values, plain, rtol=0.0, atol=tolerance) for values in (written, read))
    return prefixes[0].bytes // len(groups[0].prompt_ids) if same else 0
