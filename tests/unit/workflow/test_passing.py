"""What is waited for, and run again, within a job, and for how long."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
import tenacity.nap

from evalhpc.core.acceptance import Outcome
from evalhpc.errors import HarnessError, StorageError
from evalhpc.storage.atomic import storage_error
from evalhpc.workflow.collect.refusals import refuse_failed
from evalhpc.workflow.faults import passing
from evalhpc.workflow.faults.passing import may_pass, patiently
from evalhpc.workflow.node import jobs as nodes
from evalhpc.workflow.record.run import Run
from tests.unit.workflow.test_walltime import run_in


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path / "run")


def raised(number: int) -> StorageError:
    """As storage raises it."""
    error = OSError(number, "what")
    found = storage_error(Path("x"), error)
    found.__cause__ = error
    return found


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (raised(errno.ENOSPC), True),
        (raised(errno.ESTALE), True),
        (OSError(errno.EDQUOT, "what"), True),
        (HarnessError("exit code 1\n  | OSError: [Errno 28] No space left on device"), True),
        (HarnessError("exit code 1\n  | no such task"), False),
        (HarnessError("exit code -9", transient=True), True),
        (raised(errno.EACCES), False),
        (StorageError("another collector is at work"), False),
        (ValueError("x"), False),
    ],
)
def test_only_a_file_system_that_is_full_or_away_is_waited_for(
    error: Exception, passes: bool
) -> None:
    """Whatever is met again at once is not."""
    assert may_pass(error) is passes


def test_work_is_tried_again_until_there_is_room_or_patience_is_over(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was tried for in vain is told as StorageError."""
    monkeypatch.setattr(passing, "FIRST", 0.01)
    settings = run.spec.run.model_copy(update={"storage_wait": 0.02})
    run = Run(run.paths, run.spec.model_copy(update={"run": settings}), run.hash)
    tries: list[int] = []

    def work() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "full")
        return len(tries)

    assert patiently(run, work) == 3
    tries.clear()

    def in_vain() -> None:
        tries.append(1)
        raise OSError(errno.ENOSPC, "full", "a/b")

    with pytest.raises(StorageError, match="cannot use a/b: No space left"):
        patiently(run, in_vain)
    assert len(tries) == 3


def test_a_harness_that_was_killed_is_run_three_times(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lack of memory is met again; whoever has killed it once may not be there again."""
    monkeypatch.setattr(passing, "FIRST", 0.01)
    outcome = Outcome(
        benchmark="b", number=0, exit_code=-9, asked=1, answered=0, misses=1, dependents=0
    )
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        refuse_failed([outcome])

    with pytest.raises(HarnessError, match="signal 9"):
        patiently(run, work)
    assert len(tries) == 3


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the pauses, none of which is made."""
    found: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=found.append))
    return found


def test_a_full_disk_is_given_up_also_after_a_harness_was_killed(
    run: Run, naps: list[float]
) -> None:
    """A harness that is run again whatever was waited is no leave to wait without end."""
    limit = run.spec.run.storage_wait
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise HarnessError("exit code -9", transient=True)
        if sum(naps) > 2 * limit:
            pytest.fail("it waits without end")
        raise OSError(errno.ENOSPC, "full", "a/b")

    with pytest.raises(StorageError, match="No space left"):
        patiently(run, work)
    assert sum(naps) >= limit


@pytest.mark.parametrize(("room", "times"), [(False, 5), (True, 2)])
def test_a_harness_that_tells_of_a_full_disk_is_run_few_times(
    run: Run, naps: list[float], monkeypatch: pytest.MonkeyPatch, room: bool, times: int
) -> None:
    """Where the run's own has room, it means one that stays full ($HOME, /tmp), or only warns."""
    if not room:
        monkeypatch.setattr(run.paths, "logs", run.paths.root / "gone")
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise HarnessError("exit code 1\n  | OSError: [Errno 28] No space left on device")

    with pytest.raises(HarnessError, match="exit code 1"):
        patiently(run, work)
    assert len(tries) == times
    assert naps[0] == passing.FIRST
    limit = 0.0 if room else run.spec.run.storage_wait
    assert limit <= sum(naps) <= limit + passing.FIRST


def test_a_shard_ends_when_the_file_system_is_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, Slurm could not open the log of the collector that follows; its code stays 6."""
    monkeypatch.setattr(passing, "FIRST", 0.01)
    spec = run.spec.model_copy(
        update={"site": run.spec.site.model_copy(update={"scheduler": "slurm"})}
    )
    monkeypatch.setattr(nodes, "open_run", lambda _: Run(run.paths, spec, run.hash))
    tries: list[int] = []

    def fail(*_: object) -> None:
        raise raised(errno.EROFS)

    def write(*_: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise raised(errno.EROFS)

    monkeypatch.setattr(nodes, "run_shard", fail)
    monkeypatch.setattr(passing, "write_bytes", write)
    assert nodes.answering(run.paths.root, 1, 0) == 6
    assert len(tries) == 3
