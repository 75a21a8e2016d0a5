"""How a command that runs a flow ends: its words on stdout, an expected error as one sentence on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable

from touchstone.errors import TouchstoneError, os_words
from touchstone.pipeline.retrain import stopped_words


def exit_code(work: Callable[[], tuple[str, int]]) -> int:
    """Do the work, print its words, and return its exit code; 1 after an error, a signal's own after a signal."""
    try:
        words, code = work()
    except TouchstoneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: {os_words(error)}\n")
        return 1
    except KeyboardInterrupt as error:
        words, code = stopped_words(error)
        sys.stderr.write(f"\n{words}\n")
        return code
    sys.stdout.write(words + "\n")
    return code
