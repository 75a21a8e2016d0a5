"""outcomes.parquet: one row per labelled completion, where the model learnt from outcome labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from touchstone.evaluation.baselines import BEST_POSSIBLE, MAJORITY
from touchstone.evaluation.outcomes import Labelled
from touchstone.gate.checks import Outcomes
from touchstone.gate.facts import Facts
from touchstone.statistics import Floats, outcome_log_odds

BASELINES = (MAJORITY, "longer_wins", "linear", BEST_POSSIBLE)
"""Columns with a baseline's log odds."""

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("set", "group_id", "cluster_id")),
        ("completion", pa.int32()),
        *((name, pa.float64()) for name in ("label", "reward", "champion", *BASELINES)),
    ]
)


def to_table(name: str, rows: Labelled, columns: Mapping[str, Floats]) -> pa.Table:
    """The rows of one set.

    Args:
        columns: reward, champion (absent where there is none) and the baselines, one number per row.
    """
    plain = {
        "set": [name] * len(rows.groups),
        "group_id": rows.groups,
        "cluster_id": rows.clusters,
        "completion": rows.completions,
        "label": rows.labels.tolist(),
    }
    numbers = {column: values.tolist() for column, values in columns.items()}
    nothing: list[None] = [None] * len(rows.groups)
    return pa.table({field.name: pa.array((plain | numbers).get(field.name, nothing), field.type) for field in SCHEMA})


def read(path: Path, name: str, facts: Facts) -> Outcomes:
    """What the checks ask about, of one set ("holdout" or "confirm").

    Raises:
        ValueError: the facts hold no map from rewards to probabilities.
    """
    if facts.outcome is None:
        raise ValueError("the candidate gives no probability of being correct")
    table = pq.read_table(path, schema=SCHEMA)
    table = table.filter(pc.equal(table["set"], name))

    def column(of: str) -> Floats:
        return np.asarray(table[of].to_numpy(), dtype=np.float64)

    champion = None
    if facts.champion_outcome is not None:
        champion = outcome_log_odds(column("champion"), facts.champion_outcome.map)
    rows = Labelled(
        table["group_id"].to_pylist(),
        table["cluster_id"].to_pylist(),
        table["completion"].to_pylist(),
        column("label"),
    )
    return Outcomes(
        rows=rows,
        rewards=column("reward"),
        outcome_map=facts.outcome.map,
        covariance=facts.outcome.covariance,
        champion=champion,
        baselines={baseline: column(baseline) for baseline in BASELINES if table[baseline].null_count == 0},
    )
