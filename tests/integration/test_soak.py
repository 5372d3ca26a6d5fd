"""The soak's short form: a gateway and a worker at full rate lose nothing and do not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.exchanges import chat_answer
from benchmarks.soak import RISE, SLACK, Counts, Sample, faults, soak, trend

SECONDS = 12.0


def test_a_gateway_and_a_worker_at_full_rate_lose_nothing_and_do_not_grow(tmp_path: Path) -> None:
    """Every reply and every journal is right, memory, files and threads stay as they were."""
    counts, trends = soak(SECONDS, tmp_path)
    assert faults(counts, trends) == []
    assert counts.gateway > 4_000, "two passes at least"
    assert counts.rounds > 1
    assert {one.name for one in trends} == {"gateway", "worker"}
    assert all(one.samples > 20 for one in trends)


def samples(memory: float = 0.0, files: float = 0.0, threads: float = 0.0) -> list[Sample]:
    """A minute of samples; each figure rises by so much within it."""
    parts = [at / 60 for at in range(61)]
    return [
        Sample(60 * part, 50 + memory * part, 10 + int(files * part), 2 + int(threads * part))
        for part in parts
    ]


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ({"memory": 2 * RISE}, "memory rose"),
        ({"files": 4.0 * SLACK}, "files at first"),
        ({"threads": 4.0 * SLACK}, "threads at first"),
    ],
)
def test_what_grows_is_a_fault(grown: dict[str, float], said: str) -> None:
    """A leak of memory, of files or of threads is named."""
    (fault,) = trend("worker", samples(**grown)).faults
    assert said in fault
    assert trend("worker", samples()).faults == ()


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (Counts(gateway=9, rounds=1, gateway_wrong=1), "wrong or lost"),
        (Counts(gateway=9, rounds=1, worker_wrong=1), "wrong or lost"),
        (Counts(gateway=9), "no round"),
        (Counts(gateway=9, rounds=1, worker=10, journals=10), "cannot hold"),
    ],
)
def test_what_is_lost_is_a_fault(counts: Counts, said: str) -> None:
    """A wrong reply, a lost answer, no work at all, a journal that did not grow."""
    assert any(said in fault for fault in faults(counts, []))
    good = Counts(gateway=9, rounds=1, worker=1, journals=len(chat_answer(0)))
    assert faults(good, []) == []
