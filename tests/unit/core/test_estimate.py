"""What a run may cost: exact arithmetic over every kind of job, and budgets that hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.estimate import (
    Ask,
    JobCost,
    ask,
    duration,
    hours,
    price,
    refuse_above,
    total,
    unbounded,
)
from evalhpc.core.walltime import walltime_seconds
from evalhpc.errors import BudgetError
from evalhpc.models.site import JobSize
from tests.factories import make_spec

GPU_SITE = {
    "name": "gpus",
    "resources": {"shard": {"walltime": "4:00:00", "gpus_per_node": 8, "nodes": 2}},
}
SERVED = {
    "model": {"model_id": "m", "format": "hf", "path": "/m", "url": None},
    "deployment": {"kind": "vllm"},
}


def cost(tasks: int = 8, gpus: int = 8, walltime: str = "4:00:00", kind: str = "shard") -> JobCost:
    return price(Ask(kind, JobSize(walltime=walltime, gpus_per_node=gpus), tasks))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("2:00:00", 7200),
        ("90:00", 5400),
        ("1-12", 129600),
        ("1-00:30", 88200),
        ("1-00:00:00", 86400),
        ("0", None),
        ("0:00:00", None),
    ],
)
def test_walltimes_are_read_as_sbatch_reads_them(text: str, seconds: int | None) -> None:
    """A bare number is minutes, two are minutes and seconds, after days come hours; 0: no limit."""
    assert walltime_seconds(text) == seconds


@given(
    tasks=st.integers(1, 1000),
    nodes=st.integers(1, 64),
    gpus=st.integers(0, 16),
    minutes=st.integers(1, 10_000),
)
def test_the_most_that_jobs_can_use_is_a_product(
    tasks: int, nodes: int, gpus: int, minutes: int
) -> None:
    """Tasks × nodes × GPUs of a node × walltime, to the second."""
    size = JobSize(walltime=str(minutes), nodes=nodes, gpus_per_node=gpus, cpus=3)
    found = price(Ask("shard", size, tasks))
    assert found.gpu_seconds == tasks * nodes * gpus * minutes * 60
    assert found.cpu_seconds == tasks * nodes * 3 * minutes * 60


def test_the_arithmetic_is_shown() -> None:
    """In GPU-hours, or in CPU-hours for jobs without GPUs."""
    size = JobSize(walltime="4:00:00", nodes=2, gpus_per_node=8)
    assert price(Ask("shard", size, 8)).sum == (
        "shard: 8 tasks × 2 nodes × 8 GPUs × 4:00:00 = 512 GPU-hours"
    )
    assert cost(1, 0, "30", "collect").sum == "collect: 1 task × 2 CPUs × 30 = 1 CPU-hours"


def test_what_has_no_bound_is_said_and_not_reckoned() -> None:
    """A walltime of 0, and whatever is unbounded for another reason; no GPUs stay no GPU-hours."""
    assert cost(walltime="0").gpu_seconds is None
    assert "no bound" in cost(walltime="0").sum
    local = price(Ask("shard", JobSize(gpus_per_node=1), 1), "a local run has no walltime")
    assert local.gpu_seconds is None
    assert price(Ask("shard", JobSize(), 1), "a local run has no walltime").gpu_seconds == 0
    assert price(Ask("shard", JobSize(), 1), "slurm.extra has --gres=gpu:8").gpu_seconds is None
    assert total([1, None]) is None
    assert total([]) == 0


@pytest.mark.parametrize(
    ("option", "replaces"),
    [
        ("--time=3-0", True),
        ("--gres=gpu:8", True),
        ("--gpus=4", True),
        ("--gpus-per-task=4", True),
        ("--nodes=2", True),
        ("--ntasks-per-node=8", True),
        ("--exclusive", False),
        ("--time-min=10", False),
        ("--exclude=n1", False),
    ],
)
def test_options_of_the_site_that_change_the_sum_are_noticed(option: str, replaces: bool) -> None:
    """The arithmetic must not stand where `slurm.extra` asks for other times or sizes."""
    spec = make_spec(site={"slurm": {"extra": [option]}})
    assert bool(unbounded(spec)) is replaces


def test_gpus_that_come_with_the_node_are_held_by_every_job_there() -> None:
    """With gpu_request none, planning in the GPU partition holds the GPUs as well."""
    slurm = {"gpu_request": "none", "partition": "gpu"}
    spec = make_spec(site={**GPU_SITE, "slurm": slurm}, **SERVED)
    assert ask(spec, "planning", 1, "/run").size.gpus_per_node == 8
    apart = make_spec(site={**GPU_SITE, "slurm": {**slurm, "cpu_partition": "cpu"}}, **SERVED)
    assert ask(apart, "planning", 1, "/run").size.gpus_per_node == 0
    assert ask(apart, "shard", 1, "/run").size.gpus_per_node == 8


def test_shards_that_only_ask_an_endpoint_hold_no_gpus() -> None:
    """The size is the one that the batch script asks for."""
    spec = make_spec(site=GPU_SITE)
    assert ask(spec, "shard", 4, "/run").size.gpus_per_node == 0


@given(budget=st.floats(0, 1e6), used=st.integers(0, 10**9), tasks=st.integers(1, 100))
def test_a_budget_is_never_exceeded(budget: float, used: int, tasks: int) -> None:
    """What is let through, with what was used before, fits to the second."""
    jobs = [cost(tasks), cost(1, 0)]
    try:
        refuse_above(budget, used, jobs)
    except BudgetError:
        assert used + jobs[0].gpu_seconds > budget * 3600  # type: ignore[operator]  # has a bound
    else:
        assert used + jobs[0].gpu_seconds <= budget * 3600  # type: ignore[operator]  # the same


def test_a_budget_that_is_just_met_is_kept() -> None:
    """8 × 8 × 4 h are 256; jobs without GPUs cost nothing."""
    refuse_above(256, 0, [cost(), cost(1, 0, "0", "collect")])
    refuse_above(0, 0, [cost(gpus=0)])


def test_a_refusal_shows_the_sum_and_what_would_fit() -> None:
    """The arithmetic of each job that costs, what was used, and what to lower."""
    with pytest.raises(BudgetError) as refused:
        refuse_above(100, 0, [cost(), cost(1, 0, kind="collect")])
    text = str(refused.value)
    assert "may use 256 GPU-hours, and its budget is 100: not submitted" in text
    assert "shard: 8 tasks × 8 GPUs × 4:00:00 = 256 GPU-hours" in text
    assert "collect" not in text
    assert "--shards 3 would fit" in text
    assert "raise --max-gpu-hours" in text
    with pytest.raises(BudgetError, match="used before: at most 1 GPU-hours"):
        refuse_above(100, 3600, [cost()])


@pytest.mark.parametrize("used", [0, None])
def test_what_has_no_bound_is_above_every_budget(used: int | None) -> None:
    """Whether it is to come or was used before."""
    with pytest.raises(BudgetError, match="any number of GPU-hours"):
        refuse_above(1e9, used, [cost(walltime="0" if used == 0 else "1")])


def test_figures_are_short() -> None:
    """Hours and times as a reader wants them."""
    assert [hours(s) for s in (0, 1, 3600, 34560, 1843200)] == [
        "0", "less than 0.01", "1", "9.6", "512",
    ]  # fmt: skip
    assert [duration(s) for s in (0.3, 45, 840, 11520, 216000)] == [
        "less than 1 s", "45 s", "14 min", "3.2 h", "2.5 days",
    ]  # fmt: skip
