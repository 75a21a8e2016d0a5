"""The endpoint several times over, as replicas of Ray Serve on this machine: the same application, the same queue.

    serve(root, settings, name=None, model=None, host="127.0.0.1", port=8100, replicas=4)     # until SIGTERM or Ctrl-C

Ray's proxy takes the port and gives each request to the replica that has fewest; each replica loads the versions,
follows the aliases and merges the requests that it gets. What an endpoint counts or remembers is a replica's own:
`/metrics` answers for one of them, the cache of prompts knows what its replica has seen.

Ray is told to stay on loopback. By itself it takes the machine's own address, and a replica of Serve listens on every
one of them for calls that are unpickled, whoever sends them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from touchstone.errors import ServingError
from touchstone.serving.operating import Operation
from touchstone.serving.server import listen
from touchstone.settings import Settings, dump, parse_text

if TYPE_CHECKING:
    from fastapi import FastAPI

APPLICATION = "touchstone"
LOOPBACK = "127.0.0.1"
READY_SECONDS = "120"
"""For Ray's proxy; its own 5 are too few for a busy machine."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # takes loopback for the machine's address, as on Windows and macOS
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": READY_SECONDS,
}
"""Read when ray is imported."""


def serve(
    root: Path, settings: Settings, *, name: str | None, model: str | None, host: str, port: int, replicas: int
) -> None:
    """Serve by replicas until SIGTERM or Ctrl-C; prints where it listens.

    Args:
        root, name, model, host: as `server.serve` takes them.
        port: not 0.
        replicas: processes, each with the model in memory.

    Raises:
        ServingError: ray isn't installed, the port is taken, there are no API keys although others can reach the
            endpoint, or a replica didn't start.
    """
    # What can be refused is refused before anything starts.
    Operation.open(root, settings.serve, host).close()
    listen(host, port).close()
    os.environ |= ENVIRONMENT
    try:
        import ray
        from ray import serve as replicated
    except ImportError:
        raise ServingError("--engine ray needs Ray Serve: pip install 'touchstone-rm[ray]'") from None

    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    # Ray's processes, this machine's alone.
    ray.init(address="local", include_dashboard=False, num_cpus=replicas, log_to_driver=True)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        replicated.start(http_options={"host": host, "port": port})
        deployment = replicated.deployment(
            replicated.ingress(builder(root, settings, name=name, model=model, host=host))(),
            name=APPLICATION,
            num_replicas=replicas,
            max_ongoing_requests=settings.serve.max_connections,  # the queue merges and refuses, not Ray
            graceful_shutdown_timeout_s=settings.serve.grace_seconds,
            ray_actor_options={"num_cpus": 1},
        )
        try:
            replicated.run(deployment.bind(), name=APPLICATION, blocking=False)
        except RuntimeError as error:
            raise ServingError(f"the replicas did not start: {str(error).splitlines()[0]}") from None
        address = f"[{host}]" if ":" in host else host
        print(f"Serving {replicas} replicas on http://{address}:{port} (Ctrl-C stops)", flush=True)  # noqa: T201
        ended.wait()
        replicated.shutdown()
    finally:
        ray.shutdown()


def builder(
    root: Path, settings: Settings, *, name: str | None, model: str | None, host: str
) -> Callable[[], FastAPI]:
    """What makes the application in each replica: a plain function, which Ray takes there."""
    params = dump(settings)

    def build() -> FastAPI:
        from touchstone.serving.engines import ray as engine

        return engine.replica(root, parse_text(params, "the replica's settings"), name=name, model=model, host=host)

    return build


def replica(root: Path, settings: Settings, *, name: str | None, model: str | None, host: str) -> FastAPI:
    """The application of one replica, its versions loaded and followed."""
    from touchstone.model.processor import prepare
    from touchstone.serving import logs
    from touchstone.serving.app import make_app
    from touchstone.serving.batching import Batcher
    from touchstone.serving.models import open_models

    _stay_on_loopback()
    chosen = settings.serve.model_copy(update={"host": host})
    logs.set_up(chosen.log_format)
    operation = Operation.open(root, chosen, host)
    prepare(settings.serving_threads)
    batcher = Batcher(chosen)
    live, combination = open_models(root, settings, batcher, name=name, model=model)
    app = make_app(live, batcher, chosen, operation, combination=combination)
    stop = threading.Event()
    for each in app.state.service.lives.values():
        threading.Thread(target=each.follow, args=(stop, chosen.poll_seconds), daemon=True).start()
    return app


def _stay_on_loopback() -> None:
    """Let this replica's own listener, which takes pickles, be reached from this machine alone."""
    from ray.serve._private import replica as module

    add: Callable[[Any, str], int] = module.add_port_to_grpc_server

    def add_on_loopback(server: Any, address: str) -> int:
        return add(server, f"{LOOPBACK}:{address.rpartition(':')[2]}")

    module.add_port_to_grpc_server = add_on_loopback
