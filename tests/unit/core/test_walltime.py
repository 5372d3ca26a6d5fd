"""Walltimes fitted to what is left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.walltime import EARLY, SAFETY, Pace, clock, fitted, walltime_seconds


def test_a_fitted_walltime_is_twice_what_is_expected_and_a_last_request() -> None:
    """Load 60 s, 1,200 s of work for two tasks, 30 s a request, told 120 s (+60) before the end."""
    pace = Pace(load=60, work=1200)
    assert fitted(pace, 2, request=30, signal=120, limit=86400) == "0:26:00"  # 1530 s
    assert fitted(pace, 4, request=30, signal=120, limit=86400) == "0:16:00"  # 930 s


def test_the_sites_walltime_is_never_exceeded() -> None:
    """Where the prediction is no shorter, the site's stays as it is."""
    pace = Pace(load=60, work=1200)
    assert fitted(pace, 2, request=30, signal=120, limit=1560) is None
    assert fitted(pace, 2, request=30, signal=120, limit=1561) == "0:26:00"


@given(
    load=st.floats(0, 5000), work=st.floats(0, 1e6), tasks=st.integers(1, 1000),
    request=st.floats(0, 3600), signal=st.integers(0, 600), least=st.integers(0, 7200),
)  # fmt: skip
def test_there_is_always_time_to_load_and_to_end(
    load: float, work: float, tasks: int, request: float, signal: int, least: int
) -> None:
    """However little is left: the model, a request, the warning, and the site's shortest time."""
    text = fitted(Pace(load, work), tasks, request=request, signal=signal, limit=10**9, least=least)
    assert text is not None
    seconds = walltime_seconds(text)
    assert seconds is not None
    assert seconds >= max(least, SAFETY * load + request + signal + EARLY)
    assert seconds % 60 == 0


@given(seconds=st.integers(1, 10**7))
def test_a_clock_is_read_back(seconds: int) -> None:
    """`H:MM:SS` is a form that sbatch takes, days as hours."""
    assert walltime_seconds(clock(seconds)) == seconds
