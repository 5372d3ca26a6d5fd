"""As many shards as the queue has room for, in as many arrays as they need."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.estimate import ask
from evalhpc.errors import ClusterError
from evalhpc.paths import RunPaths
from evalhpc.process import Finished
from evalhpc.slurm.arrays import parse_tasks
from evalhpc.slurm.chain import Step
from evalhpc.slurm.jobs import JobRecord
from evalhpc.slurm.quotas import Allowed, Queued, Quotas
from evalhpc.workflow.record.jobs import record_job, recorded_jobs
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit.launch import first_steps
from evalhpc.workflow.submit.limits import (
    Bounds,
    in_arrays,
    read_bounds,
    refuse_long,
    running,
    tasks_of,
    within,
)
from evalhpc.workflow.watch import status
from tests.factories import make_spec
from tests.slurm_fakes import FakeSlurm, captured


def run_of(shards: int = 8, root: Path = Path("/run"), **site: object) -> Run:
    spec = make_spec(site=site, run={"shards": shards, "schedule": site.pop("schedule", "dynamic")})
    return Run(RunPaths(root), spec, spec.digest())


def at_most(jobs: int, queued: int = 0, seconds: int | None = None) -> Quotas:
    """An account that may have so many jobs in the queue."""
    return Quotas(
        default_account="lab",
        associations=(Allowed("lab", max_submit=jobs, max_seconds=seconds),),
        queued=(Queued("lab", "", "", queued),),
    )


def shards_of(run: Run, steps: list[Step]) -> int:
    return sum(tasks_of(run, step) for step in steps if step.kind == "shard")


@pytest.mark.parametrize(("limit", "queued", "shards"), [(10, 0, 8), (9, 0, 7), (9, 6, 1)])
def test_shards_get_what_the_queue_has_left(
    limit: int, queued: int, shards: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Planning and collector are counted first; where it is fewer, one line says so."""
    run = run_of()
    with caplog.at_level(logging.WARNING):
        steps = within(run, first_steps(run), Bounds(1001, at_most(limit, queued)))
    assert shards_of(run, steps) == shards
    assert len(caplog.messages) == (shards < 8)
    if caplog.messages:
        assert f"{shards} shards instead of 8" in caplog.messages[0]
        assert f"MaxSubmitJobs of account lab is {limit}, {queued} in the queue, 2" in caplog.text


def test_not_even_one_shard_is_refused_with_the_sum() -> None:
    """What is needed, what fits, and the next command."""
    run = run_of()
    with pytest.raises(ClusterError, match=r"1 planning \+ 1 collect \+ 1 shard = 3 jobs") as error:
        within(run, first_steps(run), Bounds(1001, at_most(9, 7)))
    assert "and 2 fit into the queue (MaxSubmitJobs of account lab is 9, 7 are there)" in (
        error.value.what
    )
    assert "squeue --me" in error.value.hint


def test_a_collector_alone_needs_a_place_too() -> None:
    """Without an array the sum names no shard."""
    run = run_of()
    collect = [step for step in first_steps(run) if step.kind == "collect"]
    assert within(run, collect, Bounds(1001, at_most(8, 7))) == collect
    with pytest.raises(ClusterError, match="1 collect = 1 jobs at least, and 0 fit"):
        within(run, collect, Bounds(1001, at_most(8, 8)))


def test_fixed_slices_are_not_made_fewer() -> None:
    """Nobody would take over the slice of a shard that is not there."""
    run = run_of(schedule="static")
    with pytest.raises(ClusterError, match=r"8 shards do not fit.* so that 7 fit") as error:
        within(run, first_steps(run), Bounds(1001, at_most(9)))
    assert "--shards 7, or --schedule dynamic" in error.value.hint
    assert shards_of(run, within(run, first_steps(run), Bounds(1001, at_most(10)))) == 8


def test_jobs_of_another_partition_may_have_a_limit_of_their_own() -> None:
    """Passes in a partition for CPUs do not take the shards' places."""
    run = run_of(slurm={"partition": "gpu", "cpu_partition": "cpu"})
    quotas = Quotas(
        default_account="lab",
        associations=(Allowed("lab", "gpu", max_submit=4), Allowed("lab", "cpu", max_submit=2)),
    )
    # An endpoint's shards hold no model, and are in the partition of CPUs as well.
    with pytest.raises(ClusterError, match="of account lab in partition cpu is 2"):
        within(run, first_steps(run), Bounds(1001, quotas))


def test_the_tightest_of_several_limits_counts(caplog: pytest.LogCaptureFixture) -> None:
    """An account above may have less room than the user's own limit: what others have counts."""
    run = run_of()
    quotas = Quotas(
        user="me",
        default_account="lab",
        associations=(Allowed("lab", max_submit=9),),
        accounts={"lab": Allowed("lab", parent="dept"), "dept": Allowed("dept", grp_submit=20)},
        queued=(Queued("lab", "", "", 13, "you"),),
    )
    steps = within(run, first_steps(run), Bounds(1001, quotas))
    assert shards_of(run, steps) == 5
    [said] = caplog.messages
    assert "GrpSubmitJobs of account dept is 20, 13 in the queue, 2 for" in said
    full = replace(quotas, queued=(Queued("lab", "", "", 18, "you"),))
    with pytest.raises(ClusterError, match="GrpSubmitJobs of account dept is 20, 18") as error:
        within(run, first_steps(run), Bounds(1001, full))
    assert "squeue --all, as others' jobs count too" in error.value.hint


def test_jobs_that_would_wait_for_one_another_are_not_submitted() -> None:
    """Deployment jobs hold their places until a shard was there; with a limit of 0 nothing runs."""
    site = {"deploy": {"topology": "job", "jobs": 2}}
    spec = make_spec(
        model={"model_id": "m", "format": "hf", "path": "/m", "url": None},
        deployment={"kind": "hf"}, site=site, run={"shards": 8},
    )  # fmt: skip
    run = Run(RunPaths(Path("/run")), spec, spec.digest())

    def bounds(jobs: int) -> Bounds:
        own = Allowed("lab", max_jobs=jobs)
        return Bounds(1001, Quotas(default_account="lab", associations=(own,)))

    assert within(run, first_steps(run), bounds(3))
    assert running(run, 8, bounds(7)) == 5
    assert running(run_of(), 8, bounds(7)) == 7
    with pytest.raises(
        ClusterError, match=r"2 deploy \+ 1 shard must run at a time, and MaxJobs of"
    ):
        within(run, first_steps(run), bounds(2))
    assert within(run_of(), first_steps(run_of()), bounds(1))
    with pytest.raises(ClusterError, match=r"1 planning must run at a time, .* is 0") as error:
        within(run_of(), first_steps(run_of()), bounds(0))
    assert "for ever" in error.value.cause


@given(
    shards=st.integers(1, 400),
    size=st.integers(1, 120),
    throttle=st.none() | st.integers(1, 50),
)
def test_arrays_number_every_shard_once(shards: int, size: int, throttle: int | None) -> None:
    """Offset + task id: each shard in one array, none too long, no more at once than allowed."""
    run = run_of(shards, slurm={"array_throttle": throttle})
    bounds = Bounds(size)
    steps = in_arrays(run, within(run, first_steps(run), bounds), bounds)
    arrays = [step for step in steps if step.kind == "shard"]
    numbers, at_once = [], 0
    for step in arrays:
        tasks = parse_tasks(step.array or "")
        assert len(tasks) <= size
        assert max(tasks) < size
        offset = int(step.args[1]) if len(step.args) > 1 else 0
        numbers += [offset + task for task in tasks]
        at_once += min(len(tasks), int((step.array or "").partition("%")[2] or len(tasks)))
    fits = shards if throttle is None else min(shards, throttle * size)
    assert numbers == list(range(fits))
    assert throttle is None or at_once <= throttle
    assert steps[-1].after_any == tuple(step.key for step in arrays)
    assert all(step.after_ok == ("planning",) for step in arrays)


def test_a_walltime_above_the_accounts_is_refused() -> None:
    """Slurm would queue it for ever; the message names who sets the limit, and the key."""
    run = run_of(resources={"shard": {"walltime": "2:00:00"}})
    asks = [ask(run.spec, kind, 1, "/run") for kind in ("planning", "shard")]
    refuse_long(run, asks, Bounds(9, at_most(9, seconds=7200)))
    refuse_long(run, asks, Bounds(9))
    with pytest.raises(ClusterError, match=r"the shard job asks for 2:00:00.*MaxWall of") as error:
        refuse_long(run, asks, Bounds(9, at_most(9, seconds=7199)))
    assert "--set resources.shard.walltime=119" in error.value.hint


def test_the_sites_own_options_decide_whose_limits_count() -> None:
    """`--qos` among slurm.extra stands last in the script."""
    run = run_of(slurm={"qos": "a", "extra": ["--qos=b", "--exclusive"]})
    quotas = Quotas(qos={"a": Allowed("a", max_submit=3), "b": Allowed("b", max_submit=4)})
    assert shards_of(run, within(run, first_steps(run), Bounds(99, quotas))) == 2


def test_limits_are_asked_for_only_where_they_are_enforced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The smaller of site and cluster; a database that is down is said, and stops nothing."""
    config = captured("22.05/config.txt")
    free = FakeSlurm(scontrol_config=config.replace("associations,limits", "none"))
    run = run_of(slurm={"max_array_size": 70})
    assert read_bounds(run, free.gate()) == Bounds(70)
    enforced = config + "\nAccountingStorageEnforce = associations,limits\n"
    down = Finished(("sacctmgr",), 1, "", "sacctmgr: error: slurmdbd: no permission")
    fake = FakeSlurm(
        scontrol_config=enforced, scontrol_partition=captured("22.05/partitions.txt"), sacctmgr=down
    )
    assert read_bounds(run, fake.gate()) == Bounds(70)
    assert "the limits of your account are unknown" in caplog.text


def test_fixed_slices_are_not_made_fewer_by_a_throttle_either() -> None:
    """One array of three may run one task at a time; five shards would need two arrays."""
    run = run_of(5, schedule="static", slurm={"array_throttle": 1})
    with pytest.raises(ClusterError, match=r"array_throttle is 1, an array has 3 tasks"):
        within(run, first_steps(run), Bounds(3))


def test_a_shard_is_known_by_its_arrays_first_number(tmp_path: Path) -> None:
    """Task 1 of the second array is shard 4: one that Slurm says has ended is silent for good."""
    run = run_of(root=tmp_path)
    record_job(run.paths, "shard", 7, 1, "slurm", tasks=3)
    record_job(run.paths, "shard", 8, 1, "slurm", tasks=2, offset=3)
    states = {7: ["COMPLETED"] * 3, 8: ["COMPLETED", "RUNNING"]}
    records = {
        job: [JobRecord(job, job, task, state=state) for task, state in enumerate(known)]
        for job, known in states.items()
    }
    ended = status._ended(recorded_jobs(run.paths), records)
    assert [shard for shard in range(5) if not ended(shard)] == [4]
