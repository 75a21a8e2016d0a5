"""The stage: build/groups.parquet in, build/audit.json out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from touchstone import settings as settings_module
from touchstone.data.audit import audit
from touchstone.data.audit.agreement import ASSUMPTION
from touchstone.runtime.files import write_json
from touchstone.runtime.stage import run_stage

BUILD = Path("build")


def main() -> None:
    """Run the stage in the current folder."""
    report = audit(BUILD / "groups.parquet", settings_module.load().audit)
    write_json(BUILD / "audit.json", report)
    _print(report)


def _print(report: dict[str, Any]) -> None:
    """Print the alarms as a table on stderr, and a few numbers below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Audit", caption=f"{BUILD}/audit.json", caption_justify="left")
    for column in ("alarm", "what stands out", "p-value"):
        table.add_column(column)
    for alarm in report["alarms"]:
        p_value = "" if alarm["p_value"] is None else f"{alarm['p_value']:.2g}"
        table.add_row(alarm["kind"], escape(alarm["sentence"]), p_value)
    if not report["alarms"]:
        table.add_row("none", "nothing stands out", "")
    console = Console(file=sys.stderr)
    console.print(table)
    agreement, length = report["agreement"], report["length"]
    sentence = f"can't be had: {agreement['reason']}"
    if agreement["noise_ceiling"] is not None:
        sentence = (
            f"{agreement['agreement']:.1%} of judgements of one pair agree, so a model can reach "
            f"{agreement['noise_ceiling']:.1%} at most (if {ASSUMPTION})"
        )
    console.print(f"Agreement: {sentence}")
    if length["longer_wins"] is not None:
        console.print(f"The longer completion wins {length['longer_wins']:.1%} of {length['pairs']:,} decided pairs")


if __name__ == "__main__":
    run_stage(main)
