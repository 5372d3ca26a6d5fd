"""Three schedules of `scripts/chaos`: whole runs while a real cluster comes apart around them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.disk import why_none
from tests.chaos.rig import Rig, rig
from tests.chaos.trial import run_trial

pytestmark = pytest.mark.slurm

SEED = 1
#: Between them: a server, a worker, a gateway, a harness and a node that die, preemption, tasks
#: that are cancelled, a damaged journal, a disk that is full, over quota, slow, or starts anew.
SCHEDULES = (2, 16, 18)


@pytest.fixture(scope="module")
def rigged() -> Iterator[Rig]:
    if os.geteuid() != 0:
        pytest.skip("mounting a file system and signalling other users' processes needs root")
    if reason := why_none():
        if os.environ.get("EVALHPC_REQUIRE_CLUSTER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    state = Path(f"/var/tmp/evalhpc-chaos-test-{os.getpid()}")
    with rig(state, seconds=0.6) as made:
        yield made


@pytest.mark.parametrize("number", SCHEDULES)
def test_nothing_is_lost_doubled_different_or_left(rigged: Rig, number: int) -> None:
    """Results are the bytes of a plain run, whatever a schedule did to the sharded one."""
    report = run_trial(rigged, SEED, number)
    assert not report.wrong, report.line()
