"""Walltimes predicted from what shards took: of this run, or of earlier ones like it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalhpc.core.identity import Request, make_key
from evalhpc.errors import EndpointError, IncompleteError
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import append_jsonl
from evalhpc.storage.heartbeats import Heartbeat
from evalhpc.workflow.collect.collect import Collected, collect
from evalhpc.workflow.record.jobs import record_job
from evalhpc.workflow.record.rounds import plan_round
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit.launch import first_steps, timed
from evalhpc.workflow.submit.limits import running
from evalhpc.workflow.submit.walltime import Prediction, predict
from tests.factories import make_spec, merged
from tests.unit.workflow.test_history import write_run

SETTINGS: dict[str, Any] = {
    "run": {"request_timeout": 30},
    "site": {"slurm": {"signal_seconds": 60}},
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path / "run")


def run_in(root: Path, **changes: object) -> Run:
    spec = make_spec(**merged(SETTINGS, changes))
    paths = RunPaths(root)
    for folder in paths.folders():
        folder.mkdir(parents=True, exist_ok=True)
    return Run(paths, spec, spec.digest())


def plan(run: Run, round_: int, count: int) -> None:
    plan_round(run, round_, (
        Request(make_key(bytes([number]) * 16, 0), "arc", "model", "POST", "/completions", b"{}")
        for number in range(count)
    ))  # fmt: skip


def beat(run: Run, round_: int, shard: int, answered: int, **seconds: float) -> None:
    workers = run.paths.round_leases(round_) / "workers"
    workers.mkdir(parents=True, exist_ok=True)
    said = {"seconds": seconds, "answered": answered, "failed": 0}
    Heartbeat(workers, f"{shard:05d}", "t").beat(said, ended=True)


def write_outcome(run: Run, number: int, dependents: int = 0) -> None:
    path = run.paths.outcome(number, "arc")
    path.parent.mkdir(parents=True)
    path.write_text(
        f'{{"benchmark": "arc", "number": {number}, "exit_code": 0, "asked": 8, "answered": 0, '
        f'"misses": 8, "dependents": {dependents}}}'
    )


def test_a_later_round_goes_by_the_rate_of_the_one_before(run: Run) -> None:
    """20 s of a shard for each of 90 requests, 2 tasks: 2 × (50 + 900) + 30 + 60 + 60."""
    plan(run, 1, 10)
    beat(run, 1, 0, 6, starting=50, working=100)
    beat(run, 1, 1, 4, starting=40, working=100)
    plan(run, 2, 90)
    assert predict(run, 2, 2) == Prediction(
        "0:35:00", "90 requests left, 20 s of a shard each in round 1, load 50 s"
    )
    throttled = run_in(run.paths.root, site={"slurm": {"array_throttle": 1}})
    assert running(throttled, 2) == 1


def test_the_longest_load_of_all_rounds_counts(run: Run) -> None:
    """Round 2 met a server that was still up, which by round 3 may have gone."""
    for round_, load in ((1, 900), (2, 2)):
        plan(run, round_, 10)
        beat(run, round_, 0, 10, starting=load, working=100)
    plan(run, 3, 10)
    assert predict(run, 3, 1) == Prediction(
        "0:36:00", "10 requests left, 10 s of a shard each in round 2, load 15 min"
    )


def test_where_nothing_was_measured_the_sites_walltime_stays(run: Run) -> None:
    """Shards that answered nothing, no plan and no earlier run, or the setting switched off."""
    assert predict(run, 1, 2) is None
    plan(run, 1, 10)
    beat(run, 1, 0, 0, starting=50)
    plan(run, 2, 10)
    assert predict(run, 2, 2) is None
    beat(run, 1, 0, 5, starting=50, working=5)
    assert predict(run, 2, 2) is not None
    assert predict(run_in(run.paths.root, run={"fit_walltime": False}), 2, 2) is None
    for walltime in ("0", "4:00"):
        shard = {"resources": {"shard": {"walltime": walltime}}}
        assert predict(run_in(run.paths.root, site=shard), 2, 2) is None
    own = {"slurm": {"extra": ["--time=30"]}}
    assert predict(run_in(run.paths.root, site=own), 2, 2) is None


def test_a_fitted_walltime_that_was_too_short_is_not_repeated(run: Run) -> None:
    """What it left gets the site's; what a pass asked anew is fitted again."""
    plan(run, 1, 10)
    beat(run, 1, 0, 5, working=5)
    plan(run, 2, 5)
    assert predict(run, 2, 1) is not None
    record_job(run.paths, "shard", 7, 1, "slurm", walltime="0:05:00")
    assert predict(run, 2, 1) is None
    write_outcome(run, 1)
    assert predict(run, 2, 1) is not None


def test_rounds_that_nobody_can_foresee_get_the_sites_walltime(run: Run) -> None:
    """Where a pass left dependents, the shards stay for further rounds."""
    plan(run, 1, 10)
    beat(run, 1, 0, 10, working=5)
    plan(run, 2, 5)
    write_outcome(run, 1, dependents=3)
    assert predict(run, 2, 1) is None


def test_a_shortest_time_of_the_site_is_kept(run: Run) -> None:
    """--time below --time-min would be refused."""
    plan(run, 1, 10)
    beat(run, 1, 0, 5, working=5)
    plan(run, 2, 5)
    least = run_in(run.paths.root, site={"resources": {"shard": {"time_min": "0:40:00"}}})
    found = predict(least, 2, 1)
    assert found is not None
    assert found.walltime == "0:40:00"


def test_a_first_array_goes_by_earlier_runs_of_the_same_kind(tmp_path: Path) -> None:
    """All their rounds together, waiting included; a resumed run has none to go by."""
    write_run(tmp_path / "old", [{1: {"starting": 30, "working": 600}}], **SETTINGS)
    run = run_in(tmp_path / "new")
    found = predict(run, 1, 2)
    assert found == Prediction("0:14:00", "from 1 earlier run of this suite with this model")
    shard = next(step for step in timed(run, 1, first_steps(run)) if step.kind == "shard")
    assert shard.options == ("--time=0:09:00",)  # four shards
    record_job(run.paths, "resume", 0, 0, "slurm")
    assert predict(run, 1, 2) is None


def test_time_that_shards_only_waited_is_not_shared_among_more_of_them(tmp_path: Path) -> None:
    """Two shards waited 200 s each for a pass, so 16 wait as long: 2 × (200 + 160 / 16) + 150."""
    spent = {"working": 80.0, "waiting": 150.0, "passing": 50.0}
    write_run(tmp_path / "old", [{1: spent}, {1: spent}], **SETTINGS)
    found = predict(run_in(tmp_path / "new"), 1, 16)
    assert found is not None
    assert found.walltime == "0:10:00"


@pytest.mark.parametrize("how", [{"miss": "wait"}, {"plan": "inline"}])
def test_an_array_that_plans_gets_the_sites_walltime(tmp_path: Path, how: dict[str, str]) -> None:
    """Cut before there is a plan, the run fails; and turns take no less with more shards."""
    settings = merged(SETTINGS, {"run": how})
    write_run(tmp_path / "old", [{0: {"working": 7200}}], **settings)
    assert predict(run_in(tmp_path / "new", **settings), 1, 16) is None


def test_a_fitted_round_that_answered_nothing_costs_only_another_round(run: Run) -> None:
    """The model took longer to load than ever before; with the site's own walltime it is over."""
    plan(run, 1, 10)
    record_job(run.paths, "shard", 7, 1, "slurm", walltime="0:05:00")
    run.paths.round_leases(1).mkdir()
    assert collect(run, 1) == Collected("more", 2, 10)
    assert predict(run, 2, 1) is None
    record_job(run.paths, "shard", 8, 2, "slurm")
    run.paths.round_leases(2).mkdir()
    with pytest.raises(IncompleteError, match="round 2 answered none of its 10 requests"):
        collect(run, 2)


def test_shards_that_said_why_are_believed_whatever_their_time(run: Run) -> None:
    """A model that cannot be loaded does not load in more time."""
    plan(run, 1, 10)
    record_job(run.paths, "shard", 7, 1, "slurm", walltime="0:05:00")
    said = {"fatal": "out of memory", "cause": "", "hint": "", "exit_code": 7}
    append_jsonl(run.paths.shard_failures(1, 0, 0), said)
    with pytest.raises(EndpointError, match="answered none"):
        collect(run, 1)
