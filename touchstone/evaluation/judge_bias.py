"""What sways a judge besides what is said: the order of the answers, their length, and who wrote them.

Every pair is asked about in both orders, so what the first place gains has nothing to do with the texts. Length and
own writing are laid against what people preferred in the same pairs, where people judged them: longer answers may be
better ones. Intervals resample clusters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from touchstone import statistics as st
from touchstone.groups import Group, judged_pairs
from touchstone.model.llm_judge.verdicts import PairVerdict

LEVEL, DRAWS, SEED = 0.95, 2_000, 0

SCHEMA = pa.schema(
    [
        ("role", pa.string()),
        ("set", pa.string()),
        ("group_id", pa.string()),
        ("cluster_id", pa.string()),
        ("i", pa.int32()),
        ("j", pa.int32()),
        ("forward", pa.string()),
        ("backward", pa.string()),
        ("reason", pa.string()),
        ("share_i", pa.float64()),
        ("people_i", pa.float64()),
        ("longer", pa.int32()),
        ("written", pa.int32()),
    ]
)
"""One row per pair that a judge was asked about.

role, set: whose verdict it is, and on what. forward, backward: what it said with i first and with j first; null
without a verdict, and then `reason` says why. share_i, people_i: which share of the judgements i won, ties half, by
the judge and by people; null where nobody judged. longer: 1 where i is the longer text, -1 where j is. written: the
same for who wrote it: 1 where the judge's own model wrote i and another j."""


@dataclass(frozen=True, slots=True)
class Bias:
    """One measured bias.

    Attributes:
        name: order_disagreement, first_place, longer_answer or own_answer.
        what: what the number is, for people.
        value: None where it can't be measured, which `what` says.
        low, high: its 95% interval; None below two clusters.
        n: pairs that it rests on.
    """

    name: str
    what: str
    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, str | float | int | None]:
        """Plain JSON values."""
        return asdict(self)


def records(
    role: str,
    set_name: str,
    groups: Sequence[Group],
    verdicts: Sequence[Sequence[PairVerdict]],
    own_policies: Collection[str] = (),
) -> pa.Table:
    """Verdicts as rows with SCHEMA.

    Args:
        own_policies: policies whose texts the judge's model wrote.
    """
    rows = []
    for group, row in zip(groups, verdicts, strict=True):
        judged = {(pair.first, pair.second): pair for pair in judged_pairs(group)}
        for verdict in row:
            pair = judged.get((min(verdict.i, verdict.j), max(verdict.i, verdict.j)))
            people = None
            if pair is not None and (total := pair.wins_first + pair.wins_second + pair.ties) > 0:
                first = (pair.wins_first + pair.ties / 2) / total
                people = first if verdict.i < verdict.j else 1 - first
            i, j = group.completions[verdict.i], group.completions[verdict.j]
            wins = None if verdict.reason is not None else verdict.wins
            rows.append(
                {
                    "role": role,
                    "set": set_name,
                    "group_id": group.id,
                    "cluster_id": group.cluster_id,
                    "i": verdict.i,
                    "j": verdict.j,
                    "forward": verdict.forward.choice,
                    "backward": verdict.backward.choice,
                    "reason": verdict.reason,
                    "share_i": None if wins is None else wins[0] + wins[2] / 2,
                    "people_i": people,
                    "longer": (len(i.text) > len(j.text)) - (len(i.text) < len(j.text)),
                    "written": (i.policy in own_policies) - (j.policy in own_policies),
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


_FIRST = {"first": 1.0, "tie": 0.5, "second": 0.0}


def measure(table: pa.Table) -> list[Bias]:
    """The biases of one judge, from rows with SCHEMA."""
    rows = [row for row in table.to_pylist() if row["reason"] is None]
    return [
        _bias(
            "order_disagreement",
            "share of the pairs in which the two orders don't give one verdict (these count as ties)",
            [(row["cluster_id"], float(_swapped(row["backward"]) != row["forward"])) for row in rows],
        ),
        _bias(
            "first_place",
            "how much more than half of the verdicts the answer shown first wins, ties half",
            [(row["cluster_id"], (_FIRST[row["forward"]] + _FIRST[row["backward"]]) / 2 - 0.5) for row in rows],
        ),
        _leaning("longer_answer", "the longer answer", "longer", rows, "no two answers differ in length"),
        _leaning(
            "own_answer",
            "the answer of the judge's own model",
            "written",
            rows,
            "llm_judge.own_policies names nobody who wrote one of two answers here",
        ),
    ]


def _swapped(choice: str) -> str:
    return {"first": "second", "second": "first"}.get(choice, choice)


def _leaning(name: str, which: str, column: str, rows: Sequence[dict[str, object]], missing: str) -> Bias:
    """By how much more the judge prefers one kind of answer than people do in the same pairs, ties half."""
    differing = [row for row in rows if row[column]]
    judged = [row for row in differing if row["people_i"] is not None]
    if not differing:
        return Bias(name, f"not measured: {missing}", None, None, None, 0)
    if judged:
        what = f"how much more often than people it prefers {which}, ties half"
        return _bias(name, what, ((row["cluster_id"], _toward(row, column, "people_i")) for row in judged))
    what = f"how much more than half of the time it prefers {which}, ties half (nobody judged these pairs)"
    return _bias(name, what, ((row["cluster_id"], _toward(row, column, None)) for row in differing))


def _toward(row: dict[str, object], column: str, people: str | None) -> float:
    sign = float(row[column])  # type: ignore[arg-type]  # SCHEMA says that it is a number
    base = 0.5 if people is None else float(row[people])  # type: ignore[arg-type]
    return sign * (float(row["share_i"]) - base)  # type: ignore[arg-type]


def _bias(name: str, what: str, values: Iterable[tuple[object, float]]) -> Bias:
    listed = list(values)
    if not listed:
        return Bias(name, f"not measured: no pair has a verdict ({what})", None, None, None, 0)
    clusters, numbers = [str(cluster) for cluster, _ in listed], np.array([value for _, value in listed])
    means = st.cluster_means(numbers, clusters)
    interval = st.bootstrap_mean_interval(means, LEVEL, DRAWS, SEED)
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Bias(name, what, float(means.mean()), low, high, len(listed))


def table(biases: Sequence[Bias]) -> str:
    """Biases as aligned plain text."""
    lines = []
    for bias in biases:
        value = "-" if bias.value is None else f"{bias.value:+.3f}"
        between = "" if bias.low is None else f"({bias.low:+.3f} to {bias.high:+.3f})"
        lines.append(f"{bias.name:<20}{value:>8}  {between:<20} {bias.n:>6,} pairs  {bias.what}")
    return "\n".join(lines)
