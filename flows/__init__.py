"""Prefect flows: order, retries, schedules. No logic of their own.

Where nobody has named a Prefect server, a flow runs on one of its own, which starts and ends with it and keeps its
records in the project's .prefect/ (see `flows/server.py`).
"""

import os
from pathlib import Path

if not os.environ.get("PREFECT_API_URL"):
    # Prefect reads its settings when it is imported.
    os.environ.setdefault("PREFECT_HOME", str(Path.cwd() / ".prefect"))
    # Errors come out as one sentence of ours; Prefect would add its traceback above it.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
