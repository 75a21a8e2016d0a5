"""What an import understood of the rows that it read, counted as they come and said in one screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from touchstone.data.sources.columns import Columns
from touchstone.data.sources.rows import Quarantined
from touchstone.groups import Group
from touchstone.pages.terminal import WIDTH, wrapped
from touchstone.pages.text import cell, percent

INDENT = 18
MAX_NAMES = 10_000
"""Annotators, and axes, that are told apart at most."""
LISTED = 12
"""Axes and reasons that are listed at most."""


class Frequent:
    """Which of many things come often, in the memory of `SLOTS` of them (Misra and Gries 1982).

    A count is at most 1 / (`SLOTS` + 1) of all things too low, and never too high.
    """

    SLOTS = 64

    def __init__(self) -> None:
        self.total = 0
        self._counts: dict[Hashable, int] = {}

    def add(self, thing: Hashable) -> None:
        """Count it."""
        self.total += 1
        if thing in self._counts:
            self._counts[thing] += 1
        elif len(self._counts) < self.SLOTS:
            self._counts[thing] = 1
        else:
            self._counts = {thing: count - 1 for thing, count in self._counts.items() if count > 1}

    @property
    def most(self) -> int:
        """At least how often the most frequent one came."""
        return max(self._counts.values(), default=0)


@dataclass(slots=True)
class Reading:
    """What was read in one import, new or not.

    Attributes:
        groups, completions, comparisons: see `touchstone.groups`; with votes, one comparison per vote.
        ties: comparisons that hold a tie.
        decided: comparisons with a preferred side.
        first_wins: those of them whose preferred side is the first in the group's order.
        unnamed: comparisons whose annotator is unknown.
        outcomes: completions with an outcome label.
        correct: those of them that are more likely correct than not.
        annotators: hashed names of the others, at most `MAX_NAMES`.
        steps: labels of steps.
        axes: groups by axis, at most `MAX_NAMES` of them.
        prompts: how often prompts come.
        quarantined: rows set aside, by reason.
        examples: the first of them for each reason.
        columns: what the file's rows hold; empty where the source has no columns.
    """

    columns: Columns = field(default_factory=Columns)
    groups: int = 0
    completions: int = 0
    comparisons: int = 0
    ties: int = 0
    decided: int = 0
    first_wins: int = 0
    unnamed: int = 0
    outcomes: int = 0
    correct: int = 0
    annotators: set[str] = field(default_factory=set)
    steps: int = 0
    axes: Counter[str] = field(default_factory=Counter)
    prompts: Frequent = field(default_factory=Frequent)
    quarantined: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Quarantined] = field(default_factory=dict)

    def set_aside(self, row: Quarantined) -> None:
        """Count a row that can't be used."""
        self.quarantined[row.reason] += 1
        self.examples.setdefault(row.reason, row)

    def add(self, group: Group) -> None:
        """Count a group."""
        self.groups += 1
        self.completions += len(group.completions)
        self.comparisons += len(group.comparisons)
        labels = [completion.outcome for completion in group.completions if completion.outcome is not None]
        self.outcomes += len(labels)
        self.correct += sum(label > 0.5 for label in labels)
        self.steps += sum(label is not None for completion in group.completions for label in completion.steps or ())
        self.prompts.add(hash(group.prompt))
        if group.axis in self.axes or len(self.axes) < MAX_NAMES:
            self.axes[group.axis] += 1
        for edge in group.comparisons:
            self.ties += edge.ties > 0
            if edge.wins_i != edge.wins_j:
                self.decided += 1
                self.first_wins += (edge.wins_i > edge.wins_j) == (edge.i < edge.j)
            if edge.annotator is None:
                self.unnamed += 1
            elif len(self.annotators) < MAX_NAMES:
                self.annotators.add(edge.annotator)

    def render(self) -> str:
        """One screen of 80 columns, for people."""
        lines = [
            ("groups read", f"{self.groups:,}, {self.completions:,} completions"),
            ("comparisons", f"{self.comparisons:,}, {self.ties:,} with a tie"),
            ("the first wins", f"{self.first_wins:,} of {self.decided:,} that prefer a side{self._first_share()}"),
            ("annotators", self._annotators()),
            ("axes", _listed(self.axes)),
        ]
        if self.outcomes:
            share = percent(self.correct / self.outcomes)
            lines.append(("outcome labels", f"{self.outcomes:,} completions, {self.correct:,} correct ({share})"))
        if self.steps:
            lines.append(("step labels", f"{self.steps:,}"))
        if self.columns.columns:
            unread = self.columns.unread()
            names = [name for name in self.columns.columns if name not in unread]
            lines += [("columns read", _names(names)), ("not read", _names(list(unread)))]
        lines += [("set aside", _listed(self.quarantined))] if self.quarantined else []
        return "\n".join(row(name, text) for name, text in lines)

    def _first_share(self) -> str:
        return f" ({percent(self.first_wins / self.decided)})" if self.decided else ""

    def _annotators(self) -> str:
        names = f"{len(self.annotators):,}{' or more' if len(self.annotators) == MAX_NAMES else ''}"
        if not self.unnamed:
            return names if self.comparisons else "none"
        return f"{names}, and {self.unnamed:,} comparisons without a name" if self.annotators else "unnamed"


def row(name: str, text: str) -> str:
    """A line of the screen, broken within its second column."""
    lines = wrapped(text, WIDTH, first=f"  {name:<{INDENT - 2}}", later=" " * INDENT)
    return "\n".join(lines) or f"  {name}"


def _listed(counts: Counter[str]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = [f"{len(most) - LISTED} more"] if len(most) > LISTED else []
    return ", ".join([f"{cell(name, 60)} {count:,}" for name, count in most[:LISTED]] + more)


def _names(names: list[str]) -> str:
    more = [f"{len(names) - 3 * LISTED} more"] if len(names) > 3 * LISTED else []
    return ", ".join([cell(name, 40) for name in names[: 3 * LISTED]] + more) or "none"
