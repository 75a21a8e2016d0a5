"""The example of a guided search: wrong steps are pruned where they are, and the command works as it says."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from examples.guided_search import Depth, search
from tests.places import ROOT
from tests.worlds.served import Running, Slowed, one_version, running, serve_settings
from tests.worlds.steps import process_artifact
from touchstone.client import ChainReply, Client
from touchstone.model.scoring import Scorer

PROMPT = "0 how do I boil an egg"
GOOD = ["1 water good", "1 boil an egg good", "1 soft yolk good"]
BAD = ["1 water bad", "1 kings France bad", "1 soft bad"]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    scorer = Slowed(Scorer.load(process_artifact()), 0.0)
    with running(one_version(tmp_path_factory.mktemp("registry")), serve_settings(), scorer) as served:
        yield served


def depths(endpoint: Running, candidates: Sequence[str], width: int) -> list[Depth]:
    with Client(endpoint.url) as client:

        def score(chains: Sequence[Sequence[str]]) -> list[ChainReply]:
            return client.steps([(PROMPT, chains)]).chains[0]

        def propose(chain: Sequence[str]) -> list[str]:
            return [step for step in candidates if step not in chain]

        return list(search(propose, score, width=width, depth=3))


def test_no_wrong_step_survives_and_the_search_pays_for_less(endpoint: Running) -> None:
    found = depths(endpoint, [*GOOD, *BAD], width=2)
    assert len(found) == 3
    assert not any(step in BAD for depth in found for chain, _ in depth.beams for step in chain)
    assert sorted(found[-1].beams[0][0]) == sorted(GOOD)
    # All orders of three steps, each step of them scored once.
    exhaustive = sum(len(list(itertools.permutations([*GOOD, *BAD], size))) for size in (1, 2, 3))
    assert sum(depth.scored for depth in found) < exhaustive / 4


def test_where_every_step_is_wrong_it_ends(endpoint: Running) -> None:
    (only,) = depths(endpoint, BAD, width=2)
    assert only.beams == []
    assert len(only.pruned) == 3


def test_the_command_prints_the_best_chain(endpoint: Running) -> None:
    command = [sys.executable, str(Path("examples") / "guided_search.py"), PROMPT, *GOOD[:1], *BAD[:2]]
    answer = subprocess.run(
        [*command, "--steps", "2", "--url", endpoint.url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2 pruned" in answer.stdout
    assert answer.stdout.splitlines()[-1] == GOOD[0]
