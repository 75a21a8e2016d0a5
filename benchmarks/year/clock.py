"""A command of the project by the year's clock: what monitoring calls now is what it is told.

    python -m benchmarks.year.clock 2026-01-12T03:00:00+00:00 monitor
    python -m benchmarks.year.clock 2026-01-12T03:00:00+00:00 retrain

`monitor` is `touchstone monitor`; `retrain` carries out the retrain that the last look asked for, as
`touchstone monitor --retrain` does, by the plain steps. Only cool-down and weekly budget read that clock.
"""

from __future__ import annotations

import sys

from touchstone.cli.main import main as command
from touchstone.operations.monitoring import history
from touchstone.operations.monitoring.retraining import asked
from touchstone.pipeline.retrain import retrain_plain
from touchstone.settings import load_project


def main() -> int:
    """Run one of the two; returns the exit code."""
    now, what = sys.argv[1:]
    history.now = lambda: now
    if what == "monitor":
        sys.argv = ["touchstone", "monitor"]
        command()
        return 0
    root, settings = load_project()
    with asked(root, settings.name) as note:
        if note is None:
            return 0
        outcome = retrain_plain(root, [])
        note(outcome.verdict)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
