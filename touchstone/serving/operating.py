"""What stands around an endpoint while it works: API keys, metrics, the log, traces and samples, as the settings say.

operation = Operation.open(root, settings.serve, host)     # before the port is taken: refuses what can't be
operation.surround(app, [live], batcher)                   # the application, its routes included
operation.close()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.serving.exchange import Exchange, Watched
from touchstone.serving.keys import KeyCheck, Keys
from touchstone.serving.logs import Format, log_exchange

if TYPE_CHECKING:  # the port is taken before anything is loaded
    from fastapi import FastAPI

    from touchstone.serving.batching import Batcher
    from touchstone.serving.live import Live
    from touchstone.serving.samples import Samples
    from touchstone.settings.serve import Serve


@dataclass(frozen=True)
class Operation:
    """What the settings ask for.

    Attributes:
        keys: None where nobody is asked for one.
        samples: None where nothing is kept.
        trace: records an exchange's spans; None without OpenTelemetry.
        log_format: text or json.
    """

    keys: Keys | None = None
    samples: Samples | None = None
    trace: Callable[[Exchange], None] | None = None
    log_format: Format = "text"

    @classmethod
    def open(cls, root: Path, settings: Serve, host: str) -> Operation:
        """What the settings ask for, ready.

        Args:
            root: what relative paths count from.
            host: the address that will be listened on.

        Raises:
            ServingError: there are no keys and `host` can be reached from elsewhere, or a file, folder or package that
                the settings name can't be used.
        """
        keys = Keys.open(root, settings, host)
        trace = samples = None
        if settings.opentelemetry:
            from touchstone.serving.tracing import span_recorder

            trace = span_recorder()
        if settings.samples.folder is not None:
            from touchstone.serving.samples import Samples

            samples = Samples.open(root, settings.samples)
        return cls(keys, samples, trace, settings.log_format)

    def surround(self, app: FastAPI, lives: Sequence[Live], batcher: Batcher) -> Sequence[Callable[[Exchange], None]]:
        """Watch everything that the application answers, and ask for keys. To be called once it is complete.

        Returns:
            The observers of what is answered.
        """
        from touchstone.serving.metrics import Metrics

        metrics = Metrics(lives, batcher, self.samples)
        batcher.on_batch = metrics.batch
        app.include_router(metrics.router())

        observers: list[Callable[[Exchange], None]] = [metrics.answered, partial(log_exchange, self.log_format)]
        if self.trace is not None:
            observers.append(self.trace)
        if self.samples is not None:
            observers.append(self.samples.offer)

        # The last one added is the outermost: who has no key is counted and logged too.
        if self.keys is not None:
            app.add_middleware(KeyCheck, keys=self.keys)
        app.add_middleware(Watched, observers=observers)
        return observers

    def reload(self) -> None:
        """Read the file of keys again."""
        if self.keys is not None:
            self.keys.reload()

    def close(self) -> None:
        """Write what was sampled."""
        if self.samples is not None:
            self.samples.close()
