"""On what something was measured: every result says it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def hardware() -> dict[str, Any]:
    """Processor, cores that may be used, and Python."""
    return {
        "processor": processor(),
        "cpu_count": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
