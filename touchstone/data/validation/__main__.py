"""The stage: data/ in, build/groups.parquet and the reports out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from touchstone import settings as settings_module
from touchstone.data.quarantine import write_quarantine
from touchstone.errors import DataError
from touchstone.runtime.files import write_json
from touchstone.runtime.stage import run_stage

if TYPE_CHECKING:
    from touchstone.data.validation.run import SetAside

DATA = Path("data")
BUILD = Path("build")


def main() -> None:
    """Run the stage in the current folder."""
    # Great Expectations takes seconds and memory to import, and helper processes import this module too.
    from touchstone.data.validation.run import validate

    settings = settings_module.load()
    if not (DATA / "groups.jsonl").is_file():
        raise DataError(f"{DATA}/groups.jsonl does not exist; import the data first (`make data`)")
    outcome = validate(
        DATA / "groups.jsonl",
        BUILD / "groups.parquet",
        settings.validation,
        list(_imported()),
        BUILD / "data_docs",
        settings.objective.learns,
    )
    write_quarantine(BUILD / "quarantine.parquet", [asdict(row) for row in outcome.set_aside])
    write_json(BUILD / "validation.json", outcome.report)
    _print(outcome.report)


def _imported() -> Iterator[SetAside]:
    """What the import set aside."""
    from touchstone.data.validation.run import SetAside

    path = DATA / "quarantine.jsonl"
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield SetAside(row["file"], row["line"], None, None, "import", row["reason"])


def _print(report: dict[str, Any]) -> None:
    """Print what was kept and every check as a table on stderr."""
    from rich.console import Console
    from rich.table import Table

    totals = report["totals"]
    table = Table(title="Validation", caption=f"{BUILD}/data_docs/index.html", caption_justify="left")
    for column in ("check", "severity", "result"):
        table.add_column(column)
    for check in report["checks"]:
        word = "noticed in" if check["severity"] == "info" else "sets aside or cuts"
        result = "ok" if check["success"] else f"{word} {check['failed_rows']:,} groups"
        if check["value"] is not None:
            result = f"{'ok' if check['success'] else 'noticed'}: {check['column']} = {check['value']:,}"
        table.add_row(check["check"], check["severity"], result)
    console = Console(file=sys.stderr)
    console.print(table)
    together = f", {totals['groups_merged']:,} are votes on an earlier one" if totals["groups_merged"] else ""
    console.print(
        f"{totals['groups']:,} groups in, {totals['groups_kept']:,} kept{together}; "
        f"{totals['comparisons']:,} comparisons in, {totals['comparisons_kept']:,} kept"
    )
    if findings := report["personal_data"]["found"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in findings.items())
        console.print(f"personal data and keys ({report['personal_data']['policy']}): {kinds}")


if __name__ == "__main__":
    run_stage(main)
