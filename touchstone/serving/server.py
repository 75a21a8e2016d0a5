"""The endpoint's process: takes the port first, loads, listens, follows the aliases, and ends cleanly."""

from __future__ import annotations

import gc
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from touchstone.errors import ServingError
from touchstone.serving import logs
from touchstone.serving.operating import Operation
from touchstone.settings import Settings

if TYPE_CHECKING:  # seconds of imports
    from touchstone.serving.combination import Combination
    from touchstone.serving.live import Live


def serve(root: Path, settings: Settings, *, name: str | None, host: str, port: int, model: str | None = None) -> None:
    """Serve a model until SIGTERM or Ctrl-C; prints where it listens and what it serves.

    Args:
        root: the project's root: where the registry is.
        name, model: what is served, as `models.open_models` takes them.
        port: 0 takes a free one.

    Raises:
        ServingError: the port is taken or there are no API keys although others can reach it (both found before
            anything is loaded), or there is nothing to serve.
        RegistryError: the registry can't be opened.
    """
    # Take the port. Until the server runs, both signals end the process at once, without a traceback and with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    chosen = settings.serve
    logs.set_up(chosen.log_format)
    operation = Operation.open(root, chosen, host)
    listener = listen(host, port)

    # Load. Seconds of imports, so after the port is ours.
    from touchstone.model.processor import batches_at_once, prepare
    from touchstone.serving.app import make_app
    from touchstone.serving.batching import Batcher
    from touchstone.serving.http_server import Server
    from touchstone.serving.models import open_models

    if model is None or not (root / model).is_dir():
        import touchstone.registry  # noqa: F401 - MLflow comes with it, which a folder does without

    # What the imports made lives as long as the process: no collection need walk it (the last one took seconds).
    gc.freeze()
    chosen = settings.serve.model_copy(update={"host": host})
    prepare(settings.serving_threads)
    batcher = Batcher(chosen, batches_at_once(chosen.parallel_batches, settings.serving_threads))
    live, combination = open_models(root, settings, batcher, name=name, model=model)
    app = make_app(live, batcher, chosen, operation, combination=combination)
    server = Server(app, app.state.service, chosen)

    # The server catches both signals once it runs, drains, puts these handlers back and raises the signal again: the
    # default would end in a traceback or 143. Before it runs, they tell it to end as soon as it does.
    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)

    # By default SIGHUP would end the process.
    signal.signal(signal.SIGHUP, lambda number, frame: operation.reload())

    # Serve, and follow the aliases meanwhile.
    stop = threading.Event()
    lives = app.state.service.lives.values()
    followers = [threading.Thread(target=each.follow, args=(stop, chosen.poll_seconds), daemon=True) for each in lives]
    for follower in followers:
        follower.start()
    _announce([*lives], combination, listener)
    try:
        server.run(sockets=[listener])
    finally:
        stop.set()
        for follower in followers:
            follower.join(timeout=chosen.poll_seconds + 1)
        listener.close()
        operation.close()


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


def _announce(lives: Sequence[Live], combination: Combination | None, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    names = [
        f"{live.name}@{alias} version {served.version.version}"
        for live in lives
        for alias, served in live.served.items()
    ]
    served = ", ".join([*names, *([] if combination is None else [combination.name])])
    address = f"[{host}]" if ":" in host else host
    print(f"Serving {served} on http://{address}:{port} (Ctrl-C stops)", flush=True)  # noqa: T201 - the command's output


def _leave(number: int, frame: FrameType | None) -> None:
    # Nothing is under way yet. An exception instead would be raised amid somebody's import, who may swallow it.
    os._exit(0)
