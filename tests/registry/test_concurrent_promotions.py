"""Twenty processes that promote at once: one history, in which no move is lost."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.worlds.registered import NAME, artifact, open_registry
from touchstone.registry.entries import AliasesApplied, AliasesDecided

COUNT = 20
PROMOTE = """
import os, sys
from pathlib import Path
from touchstone.errors import RegistryError
from touchstone.registry import Registry
from touchstone.registry.entries import Why
from touchstone.registry.tracking import MlflowClient
root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def promote(version):
    registry = Registry.open(root)
    while True:
        champion = registry.aliases(name).get("champion")
        try:
            registry.make_champion(name, version, champion, Why(decision=f"decision-{version}"))
            return
        except RegistryError as error:
            if "somebody else moved it" not in str(error):
                raise


# Forked before anything is opened: each has a registry, a connection and a lock of its own.
children = []
for version in range(1, count + 1):
    child = os.fork()
    if not child:
        try:
            promote(version)
            os._exit(0)
        finally:
            os._exit(1)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.slow
def test_promotions_at_once_make_one_history(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    for number in range(COUNT):
        registry.publish(NAME, f"fingerprint-{number}", artifact(0))
    words = [sys.executable, "-c", PROMOTE, str(tmp_path), NAME, str(COUNT)]
    subprocess.run(words, cwd=ROOT, check=True, timeout=600)

    # Each promotion is one entry, and begins where the one before ended: the history is linear.
    history = registry.history(NAME)
    decided = [entry for entry in history if isinstance(entry, AliasesDecided)]
    assert sorted(entry.moves["champion"].to or 0 for entry in decided) == list(range(1, COUNT + 1))
    assert decided[0].moves["champion"].from_ is None
    for earlier, later in pairwise(decided):
        assert later.moves["champion"].from_ == earlier.moves["champion"].to
        assert later.moves["previous"].to == earlier.moves["champion"].to
        assert later.why.decision == f"decision-{later.moves['champion'].to}"

    # Each was made once, before the next was decided, and MLflow stands where the last one ended.
    applied = [entry.entry for entry in history if isinstance(entry, AliasesApplied)]
    assert applied == [entry.sequence for entry in decided]
    assert [entry.sequence for entry in history] == list(range(2 * COUNT))
    last = decided[-1].moves
    assert registry.aliases(NAME) == {"champion": last["champion"].to, "previous": last["previous"].to}
    assert registry.recorded(NAME) == registry.aliases(NAME)
