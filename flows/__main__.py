"""The command behind `touchstone retrain`: open a run, and start the flow `retrain` on it.

    python -m flows data.groups=1500 train.seed=18

Nothing to do is said before Prefect is imported, which takes longer than finding out.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from flows.entry import exit_code
from touchstone.errors import TouchstoneError
from touchstone.pipeline import incoming, notices
from touchstone.pipeline.opening import Outcome, opened
from touchstone.pipeline.runs import Run
from touchstone.settings import project_root


def main(overrides: list[str], as_of: str | None = None, *, json: bool = False) -> int:
    """Open a run, start the flow on it, and print how it ended; returns the exit code."""

    def work() -> tuple[str, int]:
        root = project_root()
        try:
            if as_of is None:
                incoming.take(root, overrides)
            with opened(root, overrides, as_of=as_of) as opening:
                outcome = opening if isinstance(opening, Outcome) else _start(opening, overrides)
        except TouchstoneError:
            _notify(root)
            raise
        _notify(root)
        return outcome.render(json=json), outcome.code

    return exit_code(work)


def _start(run: Run, overrides: list[str]) -> Outcome:
    from flows.retrain import start

    return start(run, overrides)


def _notify(root: Path) -> None:
    """Hand over what is still owed: of a failed run, whose end comes after its flow's, or of one that was killed."""
    with contextlib.suppress(TouchstoneError):  # it stays owed, and how the run ended is what counts
        if notices.owed(root):
            from flows.notify import start

            start(root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as-of", help="a git revision or a run's id whose data is taken")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    sys.exit(main(arguments.overrides, arguments.as_of, json=arguments.json))
