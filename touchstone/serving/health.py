"""Whether the engine still computes: a GPU that is lost, or a process without memory, fails whatever is asked.

One text may fail by itself. Where several in a row do, a sealed text is scored, which every version could at its
loading: if that fails too, it isn't the texts. Then /readyz and /healthz say so, and whoever watches the process
starts another.
"""

from __future__ import annotations

import logging
import threading

from touchstone.model.scoring import Scorer

log = logging.getLogger(__name__)

SUSPICIOUS = 3
"""Failures without a success between them."""


class Health:
    """What came of the last forward passes. Told by the threads that score.

    Attributes:
        broken: the engine fails at what it could do before.
    """

    def __init__(self) -> None:
        self.broken = False
        self._failures = 0
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        """A forward pass gave scores."""
        self._failures = 0
        self.broken = False

    def failed(self, scorer: Scorer) -> None:
        """A forward pass of a single request raised."""
        with self._lock:
            self._failures += 1
            suspicious = self._failures % SUSPICIOUS == 0
        if not suspicious:
            return
        vector = scorer.card.self_test[0]
        try:
            scorer.raw([(vector.messages(), [vector.completion])])
        except BaseException as error:
            if not self.broken:
                log.error("the engine is broken: a sealed text gives %s; restart the endpoint", type(error).__name__)
            self.broken = True
        else:
            self.succeeded()
