"""What every stage's command shares: one sentence for an expected error, one kind of progress bar."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from touchstone.errors import TouchstoneError

Item = TypeVar("Item")


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; an expected error becomes one sentence on stderr and exit code 1.

    A full disk is an expected error too: it can strike at any write, so it is worded here.
    """
    try:
        main()
    except TouchstoneError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(f"no space left on the disk while writing {error.filename or 'a file'}; free some and run again")


def fail(message: str) -> None:
    """Print one sentence on stderr and exit with 1."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)


def progress(items: Iterable[Item], description: str, total: int | None = None, *, done: int = 0) -> Iterator[Item]:
    """Iterate with a progress bar on stderr (time left included); one line per bar where there is no terminal.

    Args:
        done: how many of `total` were done before the first of `items`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, completed=done, description=description)
