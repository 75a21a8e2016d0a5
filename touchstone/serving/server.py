"""The endpoint's process: takes the port first, loads, listens, follows the aliases, and ends cleanly."""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import FrameType

from touchstone.errors import ServingError
from touchstone.settings import Settings

GRACE_SECONDS = 20
"""How long requests under way may take to end after SIGTERM."""


def serve(root: Path, settings: Settings, *, name: str, host: str, port: int) -> None:
    """Serve a registered model until SIGTERM or Ctrl-C; prints where it listens and what it serves.

    Args:
        root: the project's root: where the registry is.
        port: 0 takes a free one.

    Raises:
        ServingError: the port is taken (found before anything is loaded), or there is nothing to serve.
        RegistryError: the registry can't be opened.
    """
    # Take the port. Until uvicorn takes over, both signals end the process at once, without a traceback and with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    listener = listen(host, port)

    # Load. Seconds of imports, so after the port is ours.
    import uvicorn

    from touchstone.model.processor import prepare
    from touchstone.registry import Registry
    from touchstone.serving.app import make_app
    from touchstone.serving.batching import Batcher
    from touchstone.serving.live import Live

    # What the imports made lives as long as the process: no collection need walk it (the last one took seconds).
    gc.freeze()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("touchstone").setLevel(logging.INFO)
    chosen = settings.serve
    prepare(settings.serving_threads)
    live = Live(
        Registry.open(root),
        name,
        tokens_per_batch=chosen.tokens_per_batch,
        prefix_cache_mib=chosen.prefix_cache_mib,
    )
    live.open()
    batcher = Batcher(chosen.tokens_per_batch, chosen.max_queued_tokens)
    config = uvicorn.Config(
        make_app(live, batcher, chosen),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)

    # uvicorn catches both signals once it runs, drains, puts these handlers back and raises the signal again: its own
    # default would end in a traceback or 143. Before it runs, they tell it to end as soon as it does.
    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)

    # Serve, and follow the aliases meanwhile.
    stop = threading.Event()
    follower = threading.Thread(target=live.follow, args=(stop, chosen.poll_seconds), daemon=True)
    follower.start()
    _announce(live.name, {alias: served.version.version for alias, served in live.served.items()}, listener)
    try:
        server.run(sockets=[listener])
    finally:
        stop.set()
        follower.join(timeout=chosen.poll_seconds + 1)
        listener.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Listening, not only bound: two processes may bind one port as long as neither listens.

    Raises:
        ServingError: the address can't be had.
    """
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    # Named, not implied: asyncio switches Nagle's algorithm off on what it accepts only where it reads TCP here. With
    # it the client's delayed acknowledgement (40 ms) holds back the last packet of a reply.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ServingError(
            f"can't listen on {host}:{port} ({os.strerror(error.errno or 0).lower()}); "
            "stop what listens there, or choose another with --port"
        ) from None
    return listener


def _announce(name: str, versions: dict[str, int], listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    served = ", ".join(f"{name}@{alias} version {version}" for alias, version in versions.items())
    address = f"[{host}]" if ":" in host else host
    print(f"Serving {served} on http://{address}:{port} (Ctrl-C stops)", flush=True)  # noqa: T201 - the command's output


def _leave(number: int, frame: FrameType | None) -> None:
    # Nothing is under way yet. An exception instead would be raised amid somebody's import, who may swallow it.
    os._exit(0)
