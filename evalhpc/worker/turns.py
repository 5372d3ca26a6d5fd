"""Whose turn it is: requests in their order, so many at once, of one configuration at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Lets callers in, in the order in which they came.

    Never more than `limit()` are inside, unless it fell meanwhile, and never two that named
    different configurations: the first in line waits until the others have left, and everybody
    behind it waits for it, so that no configuration waits for ever.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._inside = 0
        self._config = b""
        self._line: deque[tuple[bytes, asyncio.Future[None]]] = deque()

    async def enter(self, config: bytes) -> None:
        """Return once it is the caller's turn, who then owes a `leave`."""
        if not self._line and self._fits(config):
            self._admit(config)
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append((config, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._let_in()
            else:  # let in and cancelled at once
                self.leave()
            raise

    def leave(self) -> None:
        """The caller's request is over."""
        self._inside -= 1
        self._let_in()

    def _fits(self, config: bytes) -> bool:
        if self._inside == 0:
            return True
        return config == self._config and self._inside < self._limit()

    def _admit(self, config: bytes) -> None:
        self._inside += 1
        self._config = config

    def _let_in(self) -> None:
        while self._line:
            config, turn = self._line[0]
            if not turn.done():
                if not self._fits(config):
                    return
                self._admit(config)
                turn.set_result(None)
            self._line.popleft()
