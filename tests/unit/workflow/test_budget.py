"""A run's budget: earlier jobs count with what they took, or in full where nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalhpc.config.validation import validate
from evalhpc.core.estimate import Ask, JobCost, ask, price
from evalhpc.errors import BudgetError, ConfigError, UsageError
from evalhpc.models.site import JobSize, RunSettings
from evalhpc.paths import RunPaths
from evalhpc.slurm.jobs import JobRecord, TestOnly
from evalhpc.workflow.record.jobs import record_job, recorded_jobs
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit.budget import budget_of, measured, refuse_above_budget
from evalhpc.workflow.submit.estimate import estimate, start
from tests.factories import make_spec
from tests.slurm_fakes import MESSAGES, FakeSlurm

SITE = {"name": "gpus", "resources": {"shard": {"walltime": "1:00:00", "gpus_per_node": 1}}}
HOUR = 3600


def run_with(root: Path, budget: float | None, **changes: object) -> Run:
    """A run whose array of two takes 2 GPU-hours at most."""
    spec = make_spec(
        site={**SITE, **changes},
        model={"format": "hf", "path": "/m", "url": None},
        deployment={"kind": "vllm"},
        run={"shards": 2, "max_gpu_hours": budget},
    )
    return Run(RunPaths(root), spec, spec.digest())


def shards(run: Run, tasks: int = 2) -> list[Ask]:
    return [ask(run.spec, "shard", tasks, "/run")]


def record(
    task: int, elapsed: int | None, state: str = "COMPLETED", restarts: int = 0
) -> JobRecord:
    return JobRecord(
        job_id=7, array_job_id=7, task_id=task, state=state, elapsed_seconds=elapsed,
        restarts=restarts,
    )  # fmt: skip


def squeue(*elapsed: str) -> str:
    """squeue's lines for finished tasks of array 7."""
    return "".join(
        f"7_{task}|{8 + task}|COMPLETED|0|0|None|n1|1795254719|1795254819|{used}|batch|x|\n"
        for task, used in enumerate(elapsed)
    )


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ([], 2 * HOUR),
        ([record(0, 60), record(1, 30)], 90),
        ([record(0, 60)], 60 + HOUR),
        ([record(0, 60), record(1, 30, "RUNNING")], 60 + HOUR),
        ([record(0, 60), record(1, None, "UNKNOWN")], 60 + HOUR),
        ([record(0, 60), record(1, 0, "CANCELLED")], 60),
        ([record(0, 60), record(1, 30, restarts=2)], 90 + 2 * HOUR),
    ],
)
def test_what_slurm_does_not_know_counts_in_full(records: list[JobRecord], seconds: int) -> None:
    """Tasks that ended count with their time; unknown, running and earlier attempts do not."""
    cost = price(Ask("shard", JobSize(walltime="1:00:00", gpus_per_node=1), 2))
    assert measured(cost, records) == seconds


def test_nodes_and_gpus_multiply_the_time() -> None:
    """An hour of a replica over two nodes of eight is sixteen."""
    cost: JobCost = price(Ask("shard", JobSize(walltime="2:00:00", nodes=2, gpus_per_node=8), 1))
    assert measured(cost, [record(0, HOUR)]) == 16 * HOUR


def test_without_a_budget_nobody_is_asked(tmp_path: Path) -> None:
    """Any size goes."""
    run = run_with(tmp_path, None)
    refuse_above_budget(run, shards(run, 1000), FakeSlurm().gate())


def test_a_first_array_above_the_budget_is_refused(tmp_path: Path) -> None:
    """2 GPU-hours fit into 2, and not into 1.9."""
    fits = run_with(tmp_path, 2)
    refuse_above_budget(fits, shards(fits), FakeSlurm().gate())
    small = run_with(tmp_path, 1.9)
    with pytest.raises(BudgetError, match=r"may use 2 GPU-hours, and its budget is 1\.9"):
        refuse_above_budget(small, shards(small), FakeSlurm().gate())


def test_a_further_array_is_added_to_what_the_first_took(tmp_path: Path) -> None:
    """Twenty minutes of two tasks leave room for 2 of 3 GPU-hours; fifty minutes do not."""
    run = run_with(tmp_path, 3)
    record_job(run.paths, "shard", 7, 1, "slurm", tasks=2)
    quick = FakeSlurm(squeue=squeue("20:00", "20:00"), sacct="")
    refuse_above_budget(run, shards(run), quick.gate())
    slow = FakeSlurm(squeue=squeue("50:00", "50:00"), sacct="")
    with pytest.raises(BudgetError, match=r"used before: at most 1\.67 GPU-hours"):
        refuse_above_budget(run, shards(run), slow.gate())


def test_a_cluster_that_does_not_answer_lets_nothing_through(tmp_path: Path) -> None:
    """Then the first array counts in full, which may refuse too much."""
    run = run_with(tmp_path, 3)
    record_job(run.paths, "shard", 7, 1, "slurm", tasks=2)
    down = next(m for m in MESSAGES.values() if "Unable to contact slurm" in m.stderr)
    fake = FakeSlurm(squeue=down, sacct=down)
    with pytest.raises(BudgetError, match="used before: at most 2 GPU-hours"):
        refuse_above_budget(run, shards(run), fake.gate())


def test_the_last_resume_with_a_budget_decides(tmp_path: Path) -> None:
    """One without keeps what was; the budget is part of what a resume records."""
    run = run_with(tmp_path, 1)
    assert budget_of(run) == 1
    record_job(run.paths, "resume", 0, 1, "slurm", max_gpu_hours=5)
    record_job(run.paths, "resume", 0, 2, "slurm")
    assert budget_of(run) == 5
    assert [job.max_gpu_hours for job in recorded_jobs(run.paths)] == [5, None]


def test_a_local_run_with_gpus_has_no_bound(tmp_path: Path) -> None:
    """There is no walltime, so no budget can hold; without GPUs there is nothing to hold."""
    run = run_with(tmp_path, 1e6, scheduler="local")
    with pytest.raises(BudgetError, match="a local run has no walltime"):
        refuse_above_budget(run, shards(run))
    spec = make_spec(site={"scheduler": "local"}, run={"max_gpu_hours": 0})
    bare = Run(RunPaths(tmp_path), spec, spec.digest())
    refuse_above_budget(bare, shards(bare))


@pytest.mark.parametrize("value", ["-1", "much", "inf", "1e999"])
def test_a_budget_is_a_number_of_hours(value: str) -> None:
    """In a site file or with --set, as on the command line."""
    data = {"max_gpu_hours": value if value == "much" else float(value)}
    with pytest.raises((ConfigError, UsageError)):
        validate(RunSettings, data, "--set run.max_gpu_hours")


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (None, "Slurm takes it, and gives no start"),
        (5, "at once"),
        (-9, "at once"),
        (7200, "in 2 h"),
        (20 * 365 * 86400, "Slurm cannot say"),
    ],
)
def test_the_queues_estimate_in_words(ahead: int | None, text: str) -> None:
    """A start decades ahead is none: a limit holds the job."""
    now = 1795254719
    found = start("shard", TestOnly(start=None if ahead is None else now + ahead), now)
    assert text in found.text
    assert (found.at is None) == (ahead is None or ahead > 1e8)


@pytest.mark.parametrize(("option", "said"), [("--exclusive", True), ("--exclusive=user", False)])
def test_jobs_that_take_whole_nodes_may_cost_more(tmp_path: Path, option: str, said: bool) -> None:
    """What a job shares with others of its user takes no more than it asks for."""
    run = run_with(tmp_path / "run", None, slurm={"extra": [option]})
    notes = estimate(run, {"EVALHPC_RUN_ROOT": str(tmp_path)}).notes
    assert any("jobs are exclusive" in note for note in notes) is said
