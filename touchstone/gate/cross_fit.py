"""The check `cross_fit`: the floor over every cluster, out of fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from touchstone import statistics
from touchstone.evaluation.cross_fitting import BASELINES, SCHEMA, CrossFit, to_table
from touchstone.evaluation.rows import ROW_SCHEMA, Row
from touchstone.gate import checks
from touchstone.gate.checks import Check, Pairs
from touchstone.settings.gates import Gates
from touchstone.statistics import CalibrationMap, Floats


def pairs_of(fit: CrossFit) -> Pairs:
    """Every judged pair, D as log odds by the map of the model that scored it.

    Each model has a scale and a noise floor of its own: D of two models are in different units, log odds are not.
    """
    return _pairs(to_table(fit))


def read_pairs(path: Path) -> tuple[Pairs, dict[str, Floats]]:
    """`pairs_of` and the baselines' D again, from what `write` wrote."""
    table = pq.read_table(path, schema=SCHEMA)
    known = [name for name in BASELINES if table[name].null_count == 0]
    return _pairs(table), {name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in known}


def cross_fitted(pairs: Pairs, baselines: Mapping[str, Floats], limits: Gates) -> Check:
    """The check `floor` over every cluster out of fold.

    The bounds speak of other prompts and these K models: that another training set would have given other models is
    not in them, and no unbiased estimate of that exists (Bengio and Grandvalet 2004).

    Args:
        baselines: D of each pair of `longer_wins` and `linear`.
    """
    _, clusters = pairs.credits()
    credits = {name: statistics.credit(values[pairs.decided]) for name, values in baselines.items()}
    floor = checks.floor(pairs, {name: statistics.accuracy(row, clusters) for name, row in credits.items()}, limits)
    return replace(floor, name="cross_fit", reason=f"By models that had not seen the prompts: {floor.reason}")


def _pairs(table: pa.Table) -> Pairs:
    rows = [Row(**row) for row in table.select(ROW_SCHEMA.names).to_pylist()]
    differences = np.empty(len(rows))
    # One map for each fold.
    maps = list(zip(table["temperature"].to_pylist(), table["noise_floor"].to_pylist(), strict=True))
    for fitted in sorted(set(maps)):
        places = [place for place, calibration_map in enumerate(maps) if calibration_map == fitted]
        rewards = [rows[place].difference for place in places]
        differences[places] = statistics.log_odds(rewards, CalibrationMap(*fitted))
    strengths = np.array([row.strength for row in rows])
    return Pairs([row.cluster_id for row in rows], differences, strengths, CalibrationMap(1.0))
