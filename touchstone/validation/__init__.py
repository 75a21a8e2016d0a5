"""Check the imported comparisons; set aside what can't be used, with the reason.

    python -m touchstone.validation    # data/ -> build/groups.parquet, quarantine.parquet, validation.json, data_docs/

Great Expectations judges two small tables: one row of facts per group, then one row of totals for what is left. The
severity of a check decides what follows:

| severity | a failed check |
|---|---|
| warning | sets aside the groups, or the single comparisons, that it names |
| critical | stops the run with a `ValidationError` that names the check and its numbers |
| info | is reported |

A comparison that fails is set aside alone as long as its group has another good one, else with its group. Of groups
with the same id one is kept: the first by the digest of their content, so that the order of rows can't matter. Labels
that contradict one another in separate groups are kept and counted: they measure the noise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from touchstone.errors import ValidationError
from touchstone.groups import Group
from touchstone.settings.data import Validation
from touchstone.validation.expectations import Check, CheckResult, Suites
from touchstone.validation.tables import Faults, Row, comparison_fault, data_totals, group_facts

__all__ = ["Outcome", "SetAside", "total_checks", "validate"]


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row of `quarantine.parquet`.

    Attributes:
        source_file, line: where the row stands: in the source for rows that the import set aside, else in
            data/groups.jsonl.
        group_id: None for rows of the import.
        comparison: index among the group's comparisons; None when the whole group is set aside.
        check: the check's name, or "import".
    """

    source_file: str
    line: int
    group_id: str | None
    comparison: int | None
    check: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Groups that passed, sorted by id; what was set aside; the report of `validation.json`."""

    kept: list[Group]
    set_aside: list[SetAside]
    report: dict[str, Any]


GROUP_CHECKS = (
    Check("ids_present", "critical", "missing_ids", None, 0, "a group has no id or no cluster"),
    Check("prompt_has_content", "warning", "prompt_characters", 1, None, "the prompt has no content"),
    Check("completions_have_content", "warning", "shortest_completion", 1, None, "a completion has no content"),
    Check("known_roles", "warning", "wrong_roles", None, 0, "a role is unknown, or the prompt ends with an answer"),
    Check("no_duplicate", "warning", "earlier_copies", None, 0, "a group of the same prompt and completions is kept"),
    Check("has_good_comparison", "warning", "only_bad_comparisons", None, 0, "no comparison of the group can be used"),
)
COMPARISON_CHECKS = (
    Check("index_in_range", "warning", "index_out_of_range", None, 0, "a compared completion isn't there"),
    Check("not_with_itself", "warning", "with_itself", None, 0, "a completion is compared with itself"),
    Check("texts_differ", "warning", "equal_texts", None, 0, "the compared texts are equal"),
    Check("votes_are_counts", "warning", "bad_votes", None, 0, "votes are negative, not finite, or all zero"),
    Check("margin_is_finite", "warning", "bad_margin", None, 0, "the margin is negative or not finite"),
)


def total_checks(settings: Validation) -> tuple[Check, ...]:
    """Checks of the totals; the reason of a critical one names the setting that holds its threshold."""
    aside, aside_setting = settings.max_quarantine_share, "validation.max_quarantine_share"
    both_ways, both_ways_setting = settings.max_contradiction_share, "validation.max_contradiction_share"
    return (
        Check("no_group_lost", "critical", "groups_lost", 0, 0, "in = kept + set aside"),
        Check("no_comparison_lost", "critical", "comparisons_lost", 0, 0, "in = kept + set aside"),
        Check("enough_groups", "critical", "groups_kept", settings.min_groups, None, "validation.min_groups"),
        Check(
            "enough_pairs", "critical", "decided_pairs", settings.min_comparisons, None, "validation.min_comparisons"
        ),
        Check("few_groups_set_aside", "critical", "groups_set_aside_share", None, aside, aside_setting),
        Check("few_comparisons_set_aside", "critical", "comparisons_set_aside_share", None, aside, aside_setting),
        Check("few_contradictions", "critical", "contradiction_share", None, both_ways, both_ways_setting),
        Check("length_does_not_decide", "info", "longer_wins_share", 0.05, 0.95, "length alone tells who wins"),
        Check("ties_are_few", "info", "tie_share", None, 0.5, "most pairs are ties"),
    )


def validate(
    groups: Iterable[Group], settings: Validation, imported: Sequence[SetAside] = (), docs: Path | None = None
) -> Outcome:
    """Run all checks.

    Args:
        groups: in the order of data/groups.jsonl.
        imported: what the import set aside; it is passed on and counted.
        docs: folder for a fresh Data Docs site; None makes none.

    Raises:
        ValidationError: no group at all, a critical check failed, or a check could not be run.
    """
    rows = list(enumerate(groups, start=1))
    if not rows:
        raise ValidationError("data/groups.jsonl is empty: it holds no groups; import the data again")
    faults = {line: [comparison_fault(group, edge) for edge in group.comparisons] for line, group in rows}
    suites = Suites()
    results = suites.run("groups", pl.DataFrame(group_facts(rows, faults)), (*GROUP_CHECKS, *COMPARISON_CHECKS))
    kept, set_aside = _separate(rows, faults, results)
    whole = {row.line for row in set_aside if row.comparison is None}
    totals = data_totals(
        rows,
        kept,
        faults,
        groups_aside=len(whole),
        comparisons_aside=sum(len(group.comparisons) for line, group in rows if line in whole)
        + sum(row.line not in whole for row in set_aside),
    )
    results += suites.run("totals", pl.DataFrame([totals]), total_checks(settings))
    if docs is not None:
        suites.write_docs(docs)
    _stop_if_critical(results, totals, docs)
    report = {
        "totals": totals,
        "set_aside": dict(sorted(Counter(row.check for row in set_aside).items())),
        "set_aside_by_import": dict(sorted(Counter(row.reason for row in imported).items())),
        "checks": [_describe(result, totals) for result in results],
    }
    return Outcome(kept, [*imported, *set_aside], report)


def _separate(rows: list[Row], faults: Faults, results: list[CheckResult]) -> tuple[list[Group], list[SetAside]]:
    """Kept groups, sorted by id, and what the failed warning checks set aside."""
    failed_groups: dict[int, Check] = {}
    failed_columns: dict[int, dict[str, Check]] = defaultdict(dict)
    for result in results:
        for row in result.failed:
            if result.check.severity == "warning" and result.check in GROUP_CHECKS:
                failed_groups.setdefault(row, result.check)
            elif result.check in COMPARISON_CHECKS:
                failed_columns[row][result.check.column] = result.check
    kept, set_aside = [], []
    for row, (line, group) in enumerate(rows):
        comparisons = []
        for number, (edge, fault) in enumerate(zip(group.comparisons, faults[line], strict=True)):
            if (check := failed_columns[row].get(fault or "")) is None:
                comparisons.append(edge)
            else:
                set_aside.append(SetAside("groups.jsonl", line, group.id, number, check.name, check.reason))
        if (check := failed_groups.get(row)) is None:
            kept.append(replace(group, comparisons=tuple(comparisons)))
        else:
            set_aside.append(SetAside("groups.jsonl", line, group.id, None, check.name, check.reason))
    return sorted(kept, key=lambda group: group.id), set_aside


def _stop_if_critical(results: list[CheckResult], totals: dict[str, int | float], docs: Path | None) -> None:
    failed = [result for result in results if result.check.severity == "critical" and not result.success]
    if failed:
        said = "; ".join(f"{result.check.name}: {_words(result, totals)}" for result in failed)
        raise ValidationError(
            f"{len(failed)} critical checks failed: {said}. Of {totals['groups']:,} groups {totals['groups_kept']:,} "
            f"could be kept" + (f"; {docs / 'index.html'} shows every check" if docs else "")
        )


def _words(result: CheckResult, totals: dict[str, int | float]) -> str:
    check = result.check
    if check.column not in totals:
        return f"{len(result.failed):,} groups fail"
    named = (("at least", check.minimum), ("at most", check.maximum))
    bounds = [f"{word} {bound:g}" for word, bound in named if bound is not None]
    return f"{check.column} is {totals[check.column]:g}, {' and '.join(bounds)} wanted ({check.reason})"


def _describe(result: CheckResult, totals: dict[str, int | float]) -> dict[str, Any]:
    check = result.check
    return {
        "check": check.name,
        "severity": check.severity,
        "success": result.success,
        "column": check.column,
        "minimum": check.minimum,
        "maximum": check.maximum,
        "failed_rows": len(result.failed),
        "value": totals.get(check.column),
    }
