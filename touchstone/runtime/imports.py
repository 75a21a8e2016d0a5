"""Imports of large libraries."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def large_imports() -> Iterator[None]:
    """Within, no garbage is collected.

    What an import makes lives as long as the process, and every full collection walks all of it again: a fifth of the
    time that importing MLflow takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
