"""What is in a file of comparisons, and what would come of the settings that fit it; nothing is written.

    best = look("../mine/pairs.csv", root).best[0]
    best.proposal.command(), best.reading.render(), best.alarms, best.comparisons

Proposals are tried on the file's first rows and ordered by how well they read them: with the fewest rows set aside,
without an alarm, with the most columns used. Where the rows don't say what a label means, the readings stand beside
one another, and the setting that decides is named: who looks at the comparisons sees which one is right.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from touchstone.data.look.candidates import proposals
from touchstone.data.look.profile import Profile, profile
from touchstone.data.look.proposals import Proposal, choices_in
from touchstone.data.reading import Reading
from touchstone.data.sources import read_source
from touchstone.data.sources.columns import tally
from touchstone.data.sources.files import local_path, raw_rows
from touchstone.data.sources.rows import Quarantined
from touchstone.data.suspicion import Alarm, alarms
from touchstone.errors import SourceError
from touchstone.groups import Group, judged_pairs
from touchstone.runtime.files import canonical_json
from touchstone.settings.data import Data

MAX_ROWS = 2000
"""Rows that are read at most."""
SHOWN = 5
"""Comparisons that are shown of a proposal."""
PLACES = frozenset({"split", "subset", "folder", "revision"})
"""Settings that say what of a folder or of a hub data set is read."""
MAX_SHARE = 0.005
"""Rows set aside that an import takes (configs/config.yaml), where a choice doesn't say otherwise."""
_OPEN = ("labels", "first_is")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A judged pair as it would be imported; `tied` where neither is the better one."""

    prompt: str
    better: str
    worse: str
    tied: bool
    axis: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What comes of a proposal on the rows that were looked at.

    Attributes:
        alarms: those that the choice doesn't expect.
        max_share: of rows set aside, that an import takes.
    """

    proposal: Proposal
    data: Data
    reading: Reading
    alarms: list[Alarm]
    max_share: float
    comparisons: list[Comparison]

    @property
    def set_aside(self) -> int:
        """Rows that can't be used."""
        return self.reading.quarantined.total()

    @property
    def share(self) -> float:
        """Rows set aside over all, as an import counts them."""
        return self.set_aside / (self.set_aside + max(self.reading.groups, self.reading.comparisons, 1))

    @property
    def is_importable(self) -> bool:
        """Whether no more is set aside than an import takes."""
        return self.share <= self.max_share

    @property
    def columns_read(self) -> int:
        """Columns of the file that the settings use."""
        return len(self.reading.columns.columns) - len(self.reading.columns.unread())

    @property
    def rank(self) -> tuple[Any, ...]:
        """The better it reads, the smaller."""
        rows = max(self.reading.columns.rows, 1)
        share = 0.0 if self.is_importable else self.share
        undecided = 1 - self.reading.decided / max(self.reading.comparisons, 1)
        return (
            round(share, 1),
            bool(self.alarms),
            bool(self.proposal.question),
            not self.proposal.is_preset,
            round(share, 3),
            -self.columns_read,
            len(self.alarms),
            round(undecided * (self.reading.groups >= rows), 1),
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What is in a file, and what can be made of it.

    Attributes:
        rows: those that were looked at.
        quarantined: rows that no settings can read, by reason.
        trials: the proposals that lead to comparisons, the best first.
    """

    path: str
    rows: int
    is_all: bool
    quarantined: Mapping[str, int]
    profiles: Mapping[str, Profile]
    trials: Sequence[Trial] = field(default_factory=list)

    @property
    def best(self) -> list[Trial]:
        """The first proposal; with it, where the rows leave a question open, the other readings."""
        if not self.trials:
            return []
        first = self.trials[0]
        question = first.proposal.question
        return [first, *(each for each in self.trials[1:] if question and _is_reading_of(each, first))]


def look(path: str, root: Path, places: Mapping[str, str] | None = None, *, rows: int = MAX_ROWS) -> Look:
    """Look into a file, a folder or a data set on the hub.

    Args:
        root: the project's; relative paths count from it, and configs/ is in it.
        places: split, subset, folder and revision, as the settings below `data` have them.
        rows: those that are read at most.

    Raises:
        SourceError: nothing lies there, it is damaged, or can't be reached.
    """
    choices = choices_in(root / "configs")
    home: Mapping[str, Any] = next((each["data"] for each in choices.values() if each["data"].get("path") == path), {})
    named = dict(places or {})
    usual = {"split": "train"} | {key: home[key] for key in sorted(PLACES) if home.get(key)} | named
    listed = list(islice(raw_rows(path, root, **usual), rows + 1))
    is_all = len(listed) <= rows
    listed = listed[:rows]
    values = [row.values for row in listed if not isinstance(row, Quarantined)]
    quarantined: dict[str, int] = {}
    for row in listed:
        if isinstance(row, Quarantined):
            quarantined[row.reason] = quarantined.get(row.reason, 0) + 1
    profiles = profile(values)
    with tempfile.TemporaryDirectory() as folder:
        more: dict[str, Any] = {}
        if local_path(path, root) is None:  # the hub is asked once
            sample = Path(folder) / "rows.jsonl"
            sample.write_text("".join(map(_line, values)), encoding="utf-8")
            more = {"path": str(sample), "revision": None}
        trials = [
            trial
            for proposal in proposals(profiles, choices, path, named)
            if (trial := try_out(proposal, choices, root, rows, **more)) and trial.reading.decided
        ]
    return Look(path, len(listed), is_all, quarantined, profiles, _ordered(trials))


def try_out(
    proposal: Proposal, choices: Mapping[str, Mapping[str, Any]], root: Path, rows: int = MAX_ROWS, **more: Any
) -> Trial | None:
    """Read the first rows by a proposal; None where its settings can't read them at all."""
    reading = Reading()
    groups: list[Group] = []
    limited = "limit" in choices[proposal.choice]["data"] or choices[proposal.choice]["data"]["source"] == "preference"
    try:
        data = proposal.data(choices, **more, **({"limit": rows} if limited else {}))
        with tally() as reading.columns:
            for item in islice(read_source(data, root), rows):
                if isinstance(item, Quarantined):
                    reading.set_aside(item)
                else:
                    reading.add(item)
                    groups.append(item)
    except (SourceError, ValidationError):
        return None
    importing = choices[proposal.choice].get("importing", {})
    raised = alarms(reading, data, importing.get("allow", []))
    max_share = importing.get("max_quarantine_share", MAX_SHARE)
    return Trial(proposal, data, reading, raised, max_share, _examples(groups))


def _examples(groups: Sequence[Group]) -> list[Comparison]:
    """A few comparisons: those that the first completion wins and those that the second does by turns, then ties."""
    sides: dict[str, list[Comparison]] = {"first": [], "second": [], "tie": []}
    for group in groups:
        for pair in islice(judged_pairs(group), 1):
            texts = [group.completions[place].text for place in (pair.first, pair.second)]
            side = "tie" if pair.chosen is None else "first" if pair.chosen == pair.first else "second"
            if side == "second":
                texts.reverse()
            prompt = group.prompt[-1].content
            if len(sides[side]) < SHOWN:
                sides[side].append(Comparison(prompt, texts[0], texts[1], side == "tie", group.axis))
    half = min(len(sides["second"]), SHOWN // 2)
    first = sides["first"][: SHOWN - half]
    decided = [*first, *sides["second"][: SHOWN - len(first)]]
    if len(decided) == SHOWN and sides["tie"]:
        decided = decided[:-1]
    return [*decided, *sides["tie"][: SHOWN - len(decided)]]


def _ordered(trials: Sequence[Trial]) -> list[Trial]:
    """The best first; a question is answered where the rows contradict all readings of it but one."""
    settled = []
    for trial in trials:
        readings = [each for each in trials if each is not trial and _is_reading_of(each, trial)]
        refuted = all(each.set_aside > each.reading.groups for each in readings)
        if trial.proposal.question and not trial.set_aside and refuted:
            remark = f"{trial.proposal.remark}: the other reading contradicts the scores"
            trial = replace(trial, proposal=replace(trial.proposal, question="", remark=remark))
        settled.append(trial)
    return sorted(settled, key=lambda trial: trial.rank)


def _is_reading_of(trial: Trial, first: Trial) -> bool:
    """Whether two proposals differ in nothing but what a label means."""

    def rest(changes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: rest(value) if isinstance(value, dict) else value
            for name, value in changes.items()
            if name.rpartition(".")[2] not in _OPEN
        }

    both = (trial.proposal, first.proposal)
    return both[0].choice == both[1].choice and both[0] != both[1] and rest(both[0].changes) == rest(both[1].changes)


def _line(values: Mapping[str, Any]) -> str:
    try:
        return canonical_json(dict(values)) + "\n"
    except TypeError:  # times and bytes, which a hub data set may have
        return canonical_json({name: _plain(value) for name, value in values.items()}) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
