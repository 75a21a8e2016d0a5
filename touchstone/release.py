"""From a registered version with a PROMOTE to the served champion.

    released = release(root, settings, version, decision, reference=Path("build/splits/reference.parquet"))

In this order, so that whatever is interrupted leaves a champion that was judged and compared, and the same call
finishes the work:

1. the alias `challenger` points at the version, and a temporary endpoint loads it aside the champion;
2. golden texts and the whole reference set go through that endpoint and are compared with offline scores;
3. `champion` moves by compare-and-set from the version that the decision was taken against, `previous` to that one:
   one entry of the release ledger decides both;
4. the endpoint swaps, and a score is read back with version and digest;
5. the ledger says that it is released.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from touchstone import gates, judging, ledger, stage
from touchstone.errors import GateError, RegistryError, ServingError
from touchstone.gates import Check, Verdict
from touchstone.groups import Message, read_parquet, set_digest
from touchstone.judging import Decision
from touchstone.registry import Registry, Version
from touchstone.registry.aliases import stamp
from touchstone.scoring import Item, Score, Scorer, as_item, padded_scores
from touchstone.sealing import FIXED_TEXTS
from touchstone.serving import Client, temporary_endpoint
from touchstone.serving.wire import ScoreReply
from touchstone.settings import Gates, Settings
from touchstone.templating import encode

SWAP_SECONDS = 60.0
POLL_SECONDS = 0.2
"""The temporary endpoint looks at the aliases more often than one that serves people."""

ITEMS_PER_REQUEST = 32


@dataclass(frozen=True)
class Release:
    """What became of a version.

    Attributes:
        promoted: it is the champion; False where a check of the served scores did not pass.
        checks: `serving_parity` and `reference_mean`.
        previous: the version that was champion before; None for the first.
        scores: rewards that the endpoint gave as champion for the artifact's self-test texts.
        summary: one sentence.
    """

    name: str
    version: int
    digest: str
    promoted: bool
    checks: tuple[Check, ...]
    previous: int | None
    scores: tuple[float, ...]
    summary: str


def release(root: Path, settings: Settings, version: Version, decision: Decision, reference: Path) -> Release:
    """Compare the served version with its offline scores, make it the champion, and read a score back.

    Args:
        reference: the reference set that the artifact was centred on (build/splits/reference.parquet).

    Raises:
        GateError: the decision doesn't allow it, or the reference set is another one.
        RegistryError: the champion isn't the one that the decision compared with.
        ServingError: the endpoint didn't start, swap, or answer.
    """
    registry = Registry.open(root)
    registry.recover(version.name)
    done = _recorded(registry, version)
    if done is not None and registry.aliases(version.name).get("champion") == version.version:
        return done
    before = admit(registry, version, decision)
    aliases = registry.aliases(version.name)
    why = {"decision": decision.digest, "digest": version.digest}
    registry.set_alias(version.name, "challenger", version.version, aliases.get("challenger"), why)
    faster = settings.serve.model_copy(update={"poll_seconds": POLL_SECONDS})
    with temporary_endpoint(root, settings.model_copy(update={"serve": faster}), version.name) as client:
        client.wait_for("challenger", version.version, SWAP_SECONDS)
        checks = compare(client, registry, version, settings.gates, reference)
        if any(check.status != "pass" for check in checks):
            reasons = " ".join(check.reason for check in checks if check.status != "pass")
            summary = f"{version.name} version {version.version} is not promoted: {reasons}"
            return _record(registry, Release(**_facts(version), promoted=False, checks=checks, previous=before,
                                             scores=(), summary=summary), decision)  # fmt: skip
        promote(registry, version, decision)
        scores = _read_back(client, registry, version, settings.gates)
    previous = registry.aliases(version.name).get("previous")
    instead = f" instead of version {previous}" if previous else ""
    summary = f"{version.name} version {version.version} is the champion{instead} and is served with the judged scores."
    return _record(registry, Release(**_facts(version), promoted=True, checks=checks, previous=previous,
                                     scores=scores, summary=summary), decision)  # fmt: skip
