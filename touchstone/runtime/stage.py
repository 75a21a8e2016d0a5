"""What every stage's command shares: an expected error becomes one sentence and exit code 1."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from touchstone.errors import SettingsError, TouchstoneError
from touchstone.runtime import installed
from touchstone.runtime.parallel import one_algebra_thread


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; an expected error becomes one sentence on stderr and exit code 1.

    A full disk is an expected error too: it can strike at any write, so it is worded here. Under DVC, which names the
    stage in DVC_STAGE, the code must be what the stage depends on: what it made would be kept under the wrong digest.
    """
    try:
        if stage := os.environ.get("DVC_STAGE"):
            installed.check(Path.cwd(), stage)
        with one_algebra_thread():
            main()
    except SettingsError as error:
        fail(f"{error}{_undone()}")
    except TouchstoneError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(f"no space left on the disk while writing {error.filename or 'a file'}; free some and run again")


def _undone() -> str:
    """Take back what `dvc exp run -S` has set, if this is an experiment, and say so."""
    if not os.environ.get("DVC_EXP_BASELINE_REV"):
        return ""
    # That is the pipeline's affair, which stands above this package: it is started, not imported.
    command = [sys.executable, "-m", "touchstone.pipeline.experiment"]
    words = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    return f"; {words}" if words else ""


def fail(message: str) -> None:
    """Print one sentence on stderr and exit with 1."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(1)
