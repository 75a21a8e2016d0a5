"""Twenty releases in one ledger: every verdict can be computed again, and no byte can be changed unseen."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gate.sandbox import Rewards, World, configure, decide, make_world, seal
from touchstone.errors import TouchstoneError
from touchstone.gate import case, judge, record
from touchstone.gate.checks import Verdict
from touchstone.gate.record import FILE, Decision

RELEASES = 20
NOISE = (6.0, 4.5, 4.4, 9.0, 3.0, 2.9, 3.1, 5.0, 1.8, 1.8, 1.7, 7.0, 1.0, 1.1, 0.9, 2.0, 0.5, 0.5, 4.0, 0.3)
"""Of each candidate: most promotions need a clear gain, so many of these end undecided."""


def world_of(folder: Path, holdout: int) -> World:
    """A small world; no slice of it is large enough to be critical."""
    settings = configure(
        holdout,
        train=300,
        confirm=holdout // 2,
        calibration=500,
        bootstrap_draws=1000,
        critical_slices=[],
        max_calibration_error=0.10,
        max_calibration_slope=2.0,
    )
    return make_world(folder, settings)


def release(world: World, folder: Path, number: int, champion: tuple[case.Champion, Rewards] | None) -> Decision:
    """The decision on candidate `number`."""
    build = folder / f"release-{number:02d}" / "build"
    rewards = world.noisy(NOISE[number], column=number % 4)
    seal(build / "artifact", world, rewards, seed=number)
    (build / "splits").symlink_to(world.build / "splits")
    return decide(world, build, rewards, champion)


def releases(world: World, folder: Path, count: int) -> list[Decision]:
    """So many decisions in order; whoever is promoted is the champion of the next."""
    champion: tuple[case.Champion, Rewards] | None = None
    found = []
    for number in range(count):
        decision = release(world, folder, number, champion)
        if decision.verdict is Verdict.PROMOTE:
            artifact = shutil.copytree(
                folder / f"release-{number:02d}" / "build" / "artifact", folder / f"champion-{number:02d}"
            )
            champion = (case.Champion(str(number), artifact, None), world.noisy(NOISE[number], column=number % 4))
        found.append(decision)
    return found


def changes(data: bytes, dice: random.Random, positions: int) -> Iterator[tuple[int, bytes]]:
    """Copies of a file with one byte changed: its first, its last and others; each also in ways that JSON forgives."""
    places = {0, len(data) - 1, *(dice.randrange(len(data)) for _ in range(positions))}
    blanks = [place for place in range(len(data)) if data[place] in b" \n"]
    powers = [
        place for place in range(1, len(data)) if data[place : place + 1] == b"e" and data[place - 1] in b"0123456789"
    ]
    flips = [(place, data[place] ^ 1) for place in sorted(places)]
    flips += [(place, ord("\t")) for place in dice.sample(blanks, min(3, len(blanks)))]
    flips += [(place, ord("E")) for place in dice.sample(powers, min(3, len(powers)))]
    for place, value in flips:
        yield place, data[:place] + bytes([value]) + data[place + 1 :]


def is_named(folder: Path, ledger: Path, name: str) -> bool:
    """Whether verifying the decision fails with the name of the file that was changed."""
    try:
        record.verify_record(folder, ledger)
    except TouchstoneError as error:
        return name in str(error)
    return False


def tamper(decisions: list[Decision], ledger: Path, positions: int, seed: int = 17) -> dict[str, Any]:
    """Change single bytes of all records, evidence and ledger lines; count what was found and named."""
    dice = random.Random(seed)
    tried, missed = 0, []
    for number, decision in enumerate(decisions):
        for name in (FILE, *sorted(decision.record.files)):
            path = decision.path / name
            whole = path.read_bytes()
            for place, data in changes(whole, dice, positions) if whole else ():
                path.write_bytes(data)
                tried += 1
                if not is_named(decision.path, ledger, name):
                    missed.append({"release": number, "file": name, "byte": place})
            path.write_bytes(whole)
    whole = ledger.read_bytes()
    start = 0
    for line, text in enumerate(whole.splitlines(keepends=True), start=1):
        for place, data in changes(text, dice, positions):
            ledger.write_bytes(whole[:start] + data + whole[start + len(text) :])
            tried += 1
            # The end of the last line is what makes it an entry: without it the last verdict has none.
            words = f"line {line}" if start + place < len(whole) - 1 else ledger.name
            if not is_named(decisions[-1].path, ledger, words):
                missed.append({"file": ledger.name, "line": line, "byte": place})
        start += len(text)
    ledger.write_bytes(whole)
    return {"changed": tried, "missed": missed}


def run(folder: Path, *, holdout: int = 700, count: int = RELEASES, positions: int = 8) -> dict[str, Any]:
    """Decide, compute every verdict again, and change bytes."""
    world = world_of(folder / "world", holdout)
    decisions = releases(world, folder, count)
    ledger = judge.ledger_file(folder / "world" / "state")
    again = [judge.recompute(decision.path) == (list(decision.checks), decision.verdict) for decision in decisions]
    verified = [record.verify_record(decision.path, ledger).digest == decision.digest for decision in decisions]
    return {
        "verdicts": [str(decision.verdict) for decision in decisions],
        "recomputed": sum(again),
        "verified": sum(verified),
        "tampering": tamper(decisions, ledger, positions),
    }
