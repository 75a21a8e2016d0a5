"""Great Expectations, and nothing else: do the columns of a table lie within their bounds?

Its checks of values pass where there is nothing to check, and a suite that runs none of its checks reads as success
(great_expectations#2726, #3494, #8548). So every table is asked for its number of rows, every column for nulls, and
what ran is compared with what was asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import great_expectations as gx
import polars as pl
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.core.expect_column_values_to_not_be_null import ExpectColumnValuesToNotBeNull
from great_expectations.expectations.core.expect_table_row_count_to_equal import ExpectTableRowCountToEqual
from great_expectations.expectations.metadata_types import FailureSeverity

from touchstone.errors import ValidationError


@dataclass(frozen=True, slots=True)
class Check:
    """A column of a table must lie between bounds (both included, None is open), and must not be null."""

    name: str
    severity: Literal["critical", "warning", "info"]
    column: str
    minimum: float | None
    maximum: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What Great Expectations said of a check: the row numbers that fail it, or null rows."""

    check: Check
    failed: tuple[int, ...]

    @property
    def success(self) -> bool:
        """True when no row failed."""
        return not self.failed


class Suites:
    """An in-memory Great Expectations context in which suites run one after the other."""

    def __init__(self) -> None:
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self._source = self._context.data_sources.add_pandas("touchstone")

    def run(self, name: str, table: pl.DataFrame, checks: Sequence[Check]) -> list[CheckResult]:
        """Judge one table; results in the order of `checks`.

        Raises:
            ValidationError: the table has no rows, or a check did not run to its end.
        """
        if table.is_empty():
            raise ValidationError(f"the table {name} is empty: there is nothing to check")
        table = table.with_row_index("row")
        asked = _expectations(table.height, checks)
        suite = self._context.suites.add(gx.ExpectationSuite(name=name, expectations=list(asked.values())))
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        outcome = self._context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": table.to_pandas()},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        )
        ran = {_name(result): result for result in outcome.results}
        # A check that raised, or never ran, must not read as one that passed.
        broken = [
            key for key in asked if key not in ran or ran[key].exception_info.get("raised_exception") is not False
        ]
        if broken or len(outcome.results) != len(asked):
            raise ValidationError(
                f"{len(asked)} checks of the table {name} were asked for and {len(asked) - len(broken)} ran; "
                f"these did not: {', '.join(broken)}"
            )
        if not ran["row_count"].success:
            raise ValidationError(f"the checks of the table {name} saw another number of rows than its {table.height}")
        # Bounds don't look at missing values, so each check has a twin that does.
        return [
            CheckResult(check, tuple(sorted({*_failed(ran[check.name]), *_failed(ran[f"{check.name}_not_null"])})))
            for check in checks
        ]

    def write_docs(self, folder: Path) -> None:
        """Write a fresh Data Docs site: 4 MB, nearly all of it the pages' own machinery."""
        shutil.rmtree(folder, ignore_errors=True)
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        self._context.add_data_docs_site(
            "data_docs", {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
        )
        self._context.build_data_docs(site_names=["data_docs"])


def _expectations(rows: int, checks: Sequence[Check]) -> dict[str, Any]:
    """What is asked, by name: the number of rows, then bounds and nulls of each check's column."""
    asked: dict[str, Any] = {
        "row_count": ExpectTableRowCountToEqual(
            value=rows, severity=FailureSeverity.CRITICAL, meta={"name": "row_count"}
        )
    }
    for check in checks:
        asked[check.name] = ExpectColumnValuesToBeBetween(
            column=check.column,
            min_value=check.minimum,
            max_value=check.maximum,
            severity=FailureSeverity(check.severity),
            meta={"name": check.name},
            notes=check.reason,
        )
        name = f"{check.name}_not_null"
        asked[name] = ExpectColumnValuesToNotBeNull(
            column=check.column, severity=FailureSeverity(check.severity), meta={"name": name}
        )
    return asked


def _name(result: Any) -> str:
    return str(result.expectation_config.meta["name"])


def _failed(result: Any) -> list[int]:
    """Row numbers that a result names."""
    return [int(row["row"]) for row in result.result["unexpected_index_list"] or ()]
