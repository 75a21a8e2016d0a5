"""The registry: runs, versions and aliases in MLflow. No other package knows MLflow but the loader in pyfunc.py.

    registry = Registry.open(root)
    run_id = registry.start_run("reward-sandbox", fingerprint, params)
    registry.log_curve(run_id, rows)                                        # while training runs
    version = registry.publish("reward-sandbox", fingerprint, artifact, evidence, tags)
    registry.set_alias("reward-sandbox", "champion", version.version, expected=3)

MLflow has no transaction over upload and registration and no compare-and-set on aliases (both read in its source), so
every write here happens under one file lock: a version is created last, with all its tags, once its files are in
place; an alias moves only from where the caller believes it to be, and the move is written to the release ledger
before it is made.
"""

import os

# Before mlflow is imported: it reads some of these at import. `true` is the only spelling that it understands, and the
# last two are one switch under its names before and after 3.18: no pickle, no code from an artifact. Addresses on
# stdout, which it writes where the registry is a server, would stand in the middle of what a program reads.
os.environ.update(
    DO_NOT_TRACK="true",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    MLFLOW_ALLOW_MODEL_CODE_EXECUTION="false",
)

from touchstone.registry.entries import all_moves, decided_moves, stamp
from touchstone.registry.existing import exists, registered, require
from touchstone.registry.store import Registry
from touchstone.registry.versions import Version, check_name

__all__ = [
    "Registry",
    "Version",
    "all_moves",
    "check_name",
    "decided_moves",
    "exists",
    "registered",
    "require",
    "stamp",
]
