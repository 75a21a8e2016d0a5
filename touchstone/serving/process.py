"""An endpoint in a process of its own, for as long as a block runs."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from touchstone.client import Client
from touchstone.errors import ServingError
from touchstone.runtime import processes
from touchstone.runtime.files import write_atomic
from touchstone.settings import Settings, dump

START_SECONDS = 180.0
"""How long loading may take."""


@contextlib.contextmanager
def temporary_endpoint(root: Path, settings: Settings, name: str) -> Iterator[Client]:
    """Start an endpoint on a free loopback port, give a client of it, and end it whatever happens.

    Raises:
        ServingError: it did not start; the message is its own last line.
    """
    # On loopback, for this process: nobody is asked for a key, and nothing is kept.
    chosen = settings.serve
    quiet = {
        "ask_for_keys": "never",
        "opentelemetry": False,
        "samples": chosen.samples.model_copy(update={"folder": None}),
    }
    private = settings.model_copy(update={"serve": chosen.model_copy(update=quiet)})
    with tempfile.TemporaryDirectory(prefix="touchstone-serve-") as folder:
        params = Path(folder) / "params.yaml"
        write_atomic(params, dump(private))
        command = [
            *(sys.executable, "-m", "touchstone.serving", "--name", name, "--root", str(root)),
            *("--params", str(params), "--host", "127.0.0.1", "--port", "0"),
        ]
        with processes.dialogue(command) as endpoint:
            announced = re.search(r"http://\S+", endpoint.receive(START_SECONDS) or "")
            if announced is None:
                reason = endpoint.finish(processes.GRACE_SECONDS).complaint
                raise ServingError(f"the endpoint did not start: {reason}")
            with Client(announced[0]) as client:
                yield client
