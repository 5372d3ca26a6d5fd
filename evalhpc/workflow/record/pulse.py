"""A heartbeat from a thread of its own: neither a loading model nor a busy loop stops it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from evalhpc.errors import EvalhpcError

log = logging.getLogger(__name__)

#: Seconds between heartbeats, which also flush the journal: what a crash can cost.
BEAT = 2.0


class Pulse:
    """Calls `beat` every BEAT seconds; a beat that fails is tried again with the next one."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when no beat is under way any more."""
        self._ended.set()
        self._thread.join()

    def wait_healthy(self, seconds: float) -> None:
        """Return once the last beat went well; raises its error after so many seconds.

        While its heartbeat fails (a full disk), a worker must not take work: others would take
        it for dead.
        """
        deadline = time.monotonic() + seconds
        while (error := self._error) is not None:
            if time.monotonic() > deadline:
                raise error
            self._ended.wait(BEAT / 4)

    def _run(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self._beat()
                self._error = None
            except EvalhpcError as error:
                log.error("heartbeat: %s", error.what)
                self._error = error
            except Exception as error:  # else this thread would end, and nobody would hear of it
                log.exception("heartbeat")
                self._error = error
