"""Look at the kept comparisons as an auditor would: who judged, how far judges agree, and what nobody meant to teach.

    python -m touchstone.data.audit    # build/groups.parquet -> build/audit.json

Sets nothing aside. Everything is counted over all groups but the search for poisoned names and phrases, and the model
beside the annotators: they read at most `audit.max_pairs` decided pairs, chosen by the hash of their groups' ids.

| alarm | raised when |
|---|---|
| annotator | judges unlike the others: `annotators.contaminated` |
| entity, phrase | decides who wins beyond what is natural: `poisoning` |
| annotator_concentration, source_concentration, length, prompt_cluster | a share is beyond its setting |

The first three share `audit.false_alarm_rate` in equal parts, each corrected by Bonferroni for all its tests.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from touchstone.data.audit.agreement import agreement_report, count_votes, judgements
from touchstone.data.audit.annotators import annotator_rows, concentration, contaminated
from touchstone.data.audit.columns import read_columns
from touchstone.data.audit.composition import composition, length_report, policy_rows, prompt_report, threshold_alarms
from touchstone.data.audit.poisoning import suspicious_words
from touchstone.data.audit.sample import draw_sample
from touchstone.settings.checks import Audit

__all__ = ["audit"]

DECIMALS = 6


def audit(path: Path, settings: Audit) -> dict[str, Any]:
    """The report on a Parquet file of groups: alarms, agreement, annotators, policies, length, composition, prompts.

    Floats are rounded to 6 decimals; the order of groups in the file doesn't matter.

    Raises:
        DataError: the file is missing, of another schema version, or holds no group.
    """
    columns = read_columns(path)
    named = judgements(columns)
    votes = count_votes(columns, named)
    # Texts are read for a sample only: the model of them takes memory in proportion.
    sample = draw_sample(path, columns, settings.max_pairs)
    words, logits = suspicious_words(sample, settings.false_alarm_rate)
    expected = np.full(len(columns.pairs), np.nan)
    expected[sample.pair] = logits

    # The report's parts first, since some alarms read them.
    annotators = annotator_rows(columns, named, votes)
    policies, length, prompts = policy_rows(columns), length_report(columns), prompt_report(columns)
    alarms = [
        *contaminated(columns, named, votes, expected, settings.false_alarm_rate),
        *words,
        *concentration(annotators, settings.max_annotator_share),
        *threshold_alarms(length, policies, prompts, len(columns.keys), settings),
    ]
    report = {
        "alarms": sorted((asdict(alarm) for alarm in alarms), key=lambda alarm: (alarm["kind"], alarm["name"])),
        "agreement": agreement_report(columns, votes),
        "annotators": annotators,
        "policies": policies,
        "length": length,
        "composition": composition(columns, votes),
        "prompts": prompts,
    }
    return dict(_rounded(report))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, DECIMALS) if isinstance(value, float) else value
