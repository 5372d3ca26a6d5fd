"""How many requests to keep in flight: more while the server keeps up, half when it does not."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

#: Requests in flight to begin with.
START = 8
#: What is left of the limit after a back-off.
BACK_OFF = 0.5
#: Steps of one round trip each from nothing to the ceiling, once the limit has been found.
STEPS = 64
#: A window holds so many answers at least: a median of fewer is chance.
SMALLEST_WINDOW = 16
#: A median so many times the best one is far above it, and one below so many seconds never is.
FAR, NOTICEABLE = 2.0, 0.1
#: What counts as more throughput, and what as less (a half was expected).
MORE, LESS = 1.1, 0.75


@dataclass(frozen=True)
class Window:
    """Some answers in a row: their median latency in seconds, their rate per second."""

    latency: float
    rate: float
    level: float  # the limit at its end


@dataclass(frozen=True)
class Suspicion:
    """A back-off on latency: the window that led to it, and what to go back to if in vain."""

    window: Window
    threshold: float


class Pace:
    """Additive increase, multiplicative decrease of `limit`, between 1 and the ceiling.

    Until the first back-off, and after one up to what it left, every answer allows one more
    request; from there on a 64th of the ceiling is added each round trip. It halves when the
    server refuses (`overloaded`), once for all that was in flight then; and when a window's
    median latency is far above the best one while its rate is not. Whether that was right shows
    in the window after: if half the requests had half the rate, it was the work that changed.
    Times are seconds of any one clock.
    """

    def __init__(self, ceiling: int, *, adaptive: bool = True) -> None:
        self.ceiling = ceiling
        self.limit = min(START, ceiling) if adaptive else ceiling
        self.in_flight = 0  # kept by whoever asks
        self._adaptive = adaptive and ceiling > 1
        self._level = float(self.limit)
        self._threshold = float(ceiling)  # below it, growth is fast
        self._backed_off = float("-inf")
        self._answered = False  # anything that was sent since then?
        self._skipped = 1  # answers yet to pass until the next window opens
        self._opened = 0.0
        self._size = SMALLEST_WINDOW
        self._latencies: list[float] = []
        self._best: Window | None = None  # the lowest latency and the highest rate so far
        self._suspicion: Suspicion | None = None

    def answered(self, started: float, now: float) -> None:
        """A request that was sent at `started` got its answer; it is still in `in_flight`."""
        if not self._adaptive:
            return
        if started >= self._backed_off:
            self._answered = True
        if self.limit < self.ceiling and 4 * self.in_flight >= 3 * self.limit:
            self._grow()
        if self._skipped:
            self._skipped -= 1
            self._open(now)
            return
        self._latencies.append(now - started)
        if len(self._latencies) >= self._size:
            self._close(now)

    def overloaded(self, started: float, now: float) -> None:
        """The server refused a request that was sent at `started`, or let it time out."""
        if self._adaptive and started >= self._backed_off:
            self._suspicion = None
            self._halve(now)

    def _grow(self) -> None:
        if self._best is None or self._suspicion is not None:
            return  # these windows have one limit
        fast = self._level < self._threshold
        self._set(self._level + (1 if fast else max(1, self.ceiling / STEPS) / self._level))

    def _halve(self, now: float) -> None:
        # In a storm nothing gets through: the limit falls, but what it was before is remembered.
        if self._answered:
            self._threshold = max(1.0, self._level * BACK_OFF)
        self._answered = False
        self._backed_off = now
        self._skipped = self.limit  # so many answers are of requests from before
        self._set(self._level * BACK_OFF)

    def _set(self, level: float) -> None:
        self._level = min(max(1.0, level), float(self.ceiling))
        self.limit = int(self._level)

    def _open(self, now: float) -> None:
        self._opened = now
        self._size = max(SMALLEST_WINDOW, 2 * self.limit)  # answers: two round trips
        self._latencies.clear()

    def _close(self, now: float) -> None:
        elapsed = max(now - self._opened, 1e-9)
        rate = len(self._latencies) / elapsed
        window = Window(median(self._latencies), rate, self._level)
        self._open(now)
        if self._suspicion is not None:
            self._decide(self._suspicion, window)
        elif self._best is None:
            self._best = window
        elif _congested(self._best, window):
            self._suspicion = Suspicion(window, self._threshold)
            self._halve(now)
        else:
            self._best = _better(self._best, window)

    def _decide(self, suspicion: Suspicion, window: Window) -> None:
        self._suspicion = None
        if window.rate < LESS * suspicion.window.rate:
            self._threshold = suspicion.threshold
            self._best = Window(window.latency, suspicion.window.rate, window.level)
            self._set(suspicion.window.level)


def _congested(best: Window, window: Window) -> bool:
    slow = window.latency > max(NOTICEABLE, FAR * best.latency)
    return slow and window.rate < MORE * best.rate


def _better(best: Window, window: Window) -> Window:
    return Window(min(best.latency, window.latency), max(best.rate, window.rate), window.level)
