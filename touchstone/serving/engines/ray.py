"""The endpoint in Ray Serve replicas, on one machine or on a cluster: each is the whole service of `touchstone serve`.

    run(root, settings, name="reward-sandbox", host="127.0.0.1", port=8100, replicas=2)

A replica has a queue, versions and metrics of its own; Ray's proxy deals requests out. Needs `touchstone-rm[ray]`.
Every machine must see the project's root at the same place.
"""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from touchstone.errors import ServingError
from touchstone.serving import logs
from touchstone.serving.keys import Keys, is_loopback
from touchstone.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

AT_ONCE = 2_048
"""Requests that a replica may hold. Ray's own limit, 5, would leave the queue nothing to batch."""
START_SECONDS = 300.0


def run(root: Path, settings: Settings, *, name: str, host: str, port: int, replicas: int) -> None:
    """Serve a registered model by so many replicas until SIGTERM or Ctrl-C; prints where it listens.

    Joins the cluster of RAY_ADDRESS where that is set, otherwise starts one on this machine.

    Raises:
        ServingError: Ray isn't installed, there are no keys and `host` can be reached from elsewhere, or no replica
            comes up.
    """
    Keys.open(root, settings.serve, host)
    ray, serve = _ray()
    address = os.environ.get("RAY_ADDRESS")
    alone: dict[str, Any] = {} if address else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray.init(address=address, log_to_driver=True, **alone)
    try:
        # One proxy, where this process is; a service in front of a cluster's proxies is the cluster's business.
        where = "HeadOnly" if is_loopback(host) or not address else "EveryNode"
        serve.start(proxy_location=where, http_options={"host": host, "port": port})
        endpoint = serve.deployment(
            serve.ingress(partial(build_app, root, settings, name, host))(),
            name="endpoint",
            num_replicas=replicas,
            max_ongoing_requests=AT_ONCE,
            ray_actor_options={"num_cpus": settings.serving_threads},
            graceful_shutdown_timeout_s=30.0,
        )
        serve.run(endpoint.bind(), name=name, route_prefix="/", _local_testing_mode=False)
        print(f"Serving {name} by {replicas} replicas on http://{host}:{port} (Ctrl-C stops)", flush=True)  # noqa: T201 - the command's output
        _wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def build_app(root: Path, settings: Settings, name: str, host: str) -> FastAPI:
    """A replica's application, with its versions loaded and followed; runs in the replica."""
    from touchstone.model.processor import prepare
    from touchstone.registry import Registry
    from touchstone.serving.app import make_app
    from touchstone.serving.batching import Batcher
    from touchstone.serving.live import Live
    from touchstone.serving.operating import Operation

    chosen = settings.serve
    logs.set_up(chosen.log_format)
    prepare(settings.serving_threads)
    live = Live(Registry.open(root), name, tokens_per_batch=chosen.tokens_per_batch)
    live.open()
    threading.Thread(target=live.follow, args=(threading.Event(), chosen.poll_seconds), daemon=True).start()
    batcher = Batcher(chosen.tokens_per_batch, chosen.max_queued_tokens)
    return make_app(live, batcher, chosen, Operation.open(root, chosen, host))


def _ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ServingError("--engine ray needs Ray Serve: pip install 'touchstone-rm[ray]'") from None
    return ray, serve


def _wait() -> None:
    """Until SIGTERM or Ctrl-C."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.set())
    ended.wait()
