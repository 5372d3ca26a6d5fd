"""The Slurm verbs against a real cluster, as an ordinary user on its login node."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import REPO, DevCluster, wait_until

pytestmark = pytest.mark.slurm

JOB = """#!/bin/bash
#SBATCH --output=/dev/null
sleep "${1:-0}"
exit "${2:-0}"
"""
#: Evaluates one expression on the login node; its value or its ClusterError comes back as JSON.
DRIVER = """
import dataclasses, json, sys
from pathlib import Path
from evalhpc import process
from evalhpc.errors import ClusterError
from evalhpc.process import Finished
from evalhpc.slurm.chain import Step, submit_chain
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import Dependency

JOB = Path("job.sh")
slurm = Slurm()
plain = lambda value: dataclasses.asdict(value)
try:
    print(json.dumps({"value": eval(sys.stdin.read())}, default=plain))
except ClusterError as error:
    print(json.dumps({"what": error.what, "cause": error.cause, "hint": error.hint}))
"""


@dataclass
class Login:
    """A user with a folder of his own, sitting at the login node."""

    cluster: DevCluster
    folder: Path

    def ask(self, expression: str, env: Mapping[str, str] | None = None) -> Any:
        """The value of an expression over `slurm`; fails the test on a ClusterError."""
        answer = self._drive(expression, env)
        assert "value" in answer, answer
        return answer["value"]

    def refused(self, expression: str) -> dict[str, str]:
        """The ClusterError that an expression raises: what, cause, hint."""
        answer: dict[str, str] = self._drive(expression)
        assert "what" in answer, answer
        return answer

    def states(self, job_id: int) -> list[str]:
        """The state of a job, or of each task of an array."""
        jobs = self.ask(f"slurm.jobs([{job_id}])")
        return [record["state"] for record in jobs[str(job_id)]]

    def until(self, job_id: int, *states: str, timeout: float = 60) -> None:
        """Wait until the job, or every task, is in one of these states."""
        wait_until(
            lambda: set(self.states(job_id)) <= set(states),
            timeout=timeout,
            what=f"job {job_id} is {' or '.join(states)}",
        )

    def names_in_queue(self) -> list[str]:
        """Names of all the user's jobs that the controller knows, whatever their state."""
        argv = ["squeue", "--me", "--noheader", "--states=all", "--format=%j"]
        return self.cluster.exec(argv, check=True).stdout.split()

    def root(self, *argv: str) -> None:
        self.cluster.exec(argv, user="root", check=True)

    def _drive(self, expression: str, env: Mapping[str, str] | None = None) -> Any:
        done = self.cluster.exec(
            [sys.executable, "-c", DRIVER],
            cwd=self.folder,
            env={"PYTHONPATH": str(REPO), **(env or {})},
            stdin=expression,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def login(cluster: DevCluster, request: pytest.FixtureRequest) -> Iterator[Login]:
    """A folder with job.sh (arguments: seconds to sleep, exit code); the jobs go in the end."""
    folder = cluster.home / f"gate-{request.function.__name__}"
    cluster.exec(["mkdir", "-p", str(folder)], check=True)
    cluster.exec(["tee", str(folder / "job.sh")], stdin=JOB, check=True)
    yield Login(cluster, folder)
    cluster.exec(["scancel", "--me"])


def test_a_job_is_submitted_and_followed_to_its_exit_code(login: Login) -> None:
    """An environment that would send it to a partition that is too short does not matter."""
    assert login.ask("slurm.available()") is None
    env = {"SBATCH_PARTITION": "tiny", "SBATCH_TIMELIMIT": "10"}
    job = login.ask("slurm.submit(JOB, '0', '7')", env)
    login.until(job, "FAILED")
    [record] = login.ask(f"slurm.jobs([{job}])")[str(job)]
    assert (record["exit_code"], record["signal"], record["partition"]) == (7, 0, "batch")
    assert record["end"] >= record["start"] > 1_600_000_000


def test_a_failure_cancels_what_needs_success_and_releases_what_needs_an_end(
    login: Login,
) -> None:
    """Nothing stays in the queue as DependencyNeverSatisfied."""
    first = login.ask("slurm.submit(JOB, '1', '1')")
    needs = login.ask(f"slurm.submit(JOB, dependency=Dependency(after_ok=({first},)))")
    follows = login.ask(f"slurm.submit(JOB, dependency=Dependency(after_any=({first},)))")
    login.until(needs, "CANCELLED")
    login.until(follows, "COMPLETED")


def test_an_array_is_seen_task_by_task_and_cancelled_twice(login: Login) -> None:
    """One runs, the others wait for it; the second cancellation is no error."""
    job = login.ask("slurm.submit(JOB, '60', array='0-2,5%1')")
    wait_until(lambda: "RUNNING" in login.states(job), timeout=30, what="a task runs")
    records = login.ask(f"slurm.jobs([{job}])")[str(job)]
    assert [record["task_id"] for record in records] == [0, 1, 2, 5]
    assert [record["state"] for record in records] == ["RUNNING"] + ["PENDING"] * 3
    assert {record["array_job_id"] for record in records} == {job}
    login.ask(f"slurm.cancel([{job}])")
    login.ask(f"slurm.cancel([{job}, 999999])")
    login.until(job, "CANCELLED", "COMPLETING", "COMPLETED")
    login.until(job, "CANCELLED")
    assert len(login.states(job)) == 4


def test_a_trial_submission_estimates_and_leaves_no_job(login: Login) -> None:
    """Nodes and partition are known before anything is in the queue."""
    before = login.names_in_queue()
    estimate = login.ask("slurm.test_only(JOB, array='0-3', extra=('--nodes=2',))")
    assert (estimate["partition"], estimate["node_list"]) == ("batch", "n[1-2]")
    assert estimate["start"] > 1_600_000_000
    assert login.names_in_queue() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("'--partition=bacth'", "did you mean batch?"),
        ("'--partition=tiny', '--time=10'", "tiny: up, 4 nodes, 2 min"),
        ("'--gpus-per-node=h100:64'", "Requested node configuration is not available"),
        ("'--nodes=64'", "Node count specification invalid"),
        ("'--array=0-99999'", "at most 10001 tasks, numbered up to 10000"),
        ("'--constraint=moon'", "Invalid feature specification"),
        ("'--no-such-option'", "unrecognized option"),
    ],
)
def test_what_slurm_will_not_take_is_refused_with_a_cause_and_a_hint(
    login: Login, options: str, said: str
) -> None:
    """The real controller's words lead to our explanation, before and at submission."""
    for verb in ("test_only", "submit"):
        error = login.refused(f"slurm.{verb}(JOB, extra=({options},))")
        assert said in error["what"]
        assert error["cause"]
        assert error["hint"]


def test_a_chain_is_undone_when_slurm_refuses_its_second_job(login: Login) -> None:
    """The script changes after the trial, as a user's edit or an admin's new limit would."""
    too_long = JOB.replace("--output", "--partition=tiny --time=10 --output")
    login.cluster.exec(["tee", str(login.folder / "b.sh")], stdin=JOB, check=True)
    error = login.refused(
        f"""submit_chain(
            slurm,
            [Step("planning", JOB, ("600",)),
             Step("shard", Path("b.sh"), array="0-1", after_ok=("planning",))],
            lambda step, job: (
                Path("recorded").write_text(str(job)), Path("b.sh").write_text({too_long!r})
            ),
        )"""
    )
    assert "the shard job was not submitted" in error["what"]
    assert "time limit" in error["what"]
    recorded = login.cluster.exec(["cat", str(login.folder / "recorded")]).stdout
    assert f"cancelled what was submitted before: {recorded}" in error["what"]
    login.until(int(recorded), "CANCELLED")


def test_a_whole_chain_runs_in_order(login: Login) -> None:
    """Planning, an array, then the collector: the recorded ids are the submitted ones."""
    planning, shard, collect = login.ask(
        """submit_chain(
            slurm,
            [Step("planning", JOB), Step("shard", JOB, array="0-1", after_ok=("planning",)),
             Step("collect", JOB, after_any=("shard",))],
            lambda step, job: Path(step.kind).write_text(str(job)),
        )"""
    )
    login.until(collect, "COMPLETED")
    jobs = login.ask(f"slurm.jobs([{planning}, {shard}, {collect}])")
    assert jobs[str(planning)][0]["end"] <= min(r["start"] for r in jobs[str(shard)])
    assert max(r["end"] for r in jobs[str(shard)]) <= jobs[str(collect)][0]["start"]


def test_the_accounting_remembers_what_the_controller_forgot(login: Login) -> None:
    """With a squeue that has forgotten: the exit code, or UNKNOWN where nothing is accounted."""
    job = login.ask("slurm.submit(JOB, '0', '3')")
    login.until(job, "FAILED")
    forgetful = (
        "Slurm(lambda argv, **k: Finished(tuple(argv), 0, '', '')"
        " if argv[0] == 'squeue' else process.run(argv, **k))"
    )
    if not login.ask("slurm.limits()")["accounting"]:
        [record] = login.ask(f"{forgetful}.jobs([{job}])")[str(job)]
        assert record["state"] == "UNKNOWN"
        return
    wait_until(
        lambda: login.ask(f"{forgetful}.jobs([{job}])")[str(job)][0]["state"] == "FAILED",
        timeout=30,
        what="sacct has caught up",
    )
    [record] = login.ask(f"{forgetful}.jobs([{job}])")[str(job)]
    assert (record["exit_code"], record["signal"]) == (3, 0)


def test_a_preempted_job_counts_its_restarts(login: Login) -> None:
    """Slurm puts it back into the queue under the same number."""
    node = "'--nodelist=n1', '--exclusive'"
    job = login.ask(f"slurm.submit(JOB, '300', extra=('--partition=low', {node}))")
    login.until(job, "RUNNING")
    urgent = login.ask(f"slurm.submit(JOB, extra=('--partition=high', {node}))")
    login.until(urgent, "COMPLETED")
    login.until(job, "RUNNING")
    [record] = login.ask(f"slurm.jobs([{job}])")[str(job)]
    assert record["restarts"] == 1


def test_questions_and_submissions_outlast_a_restart_of_the_controller(login: Login) -> None:
    """Asked while it is down, answered when it is back; the job is there once."""
    script = "slurm.submit(JOB, '600', extra=('--job-name=outlast',))"
    login.root("scontrol", "shutdown", "slurmctld")
    with ThreadPoolExecutor() as pool:
        submitted = pool.submit(login.ask, script)
        asked = pool.submit(login.ask, "[p.name for p in slurm.partitions()]")
        with pytest.raises(NotYet):
            asked.result(timeout=2)
        login.cluster.restart_controller()
        assert "tiny" in asked.result()
        job = submitted.result()
    assert login.states(job)[0] in ("PENDING", "RUNNING")
    assert login.names_in_queue().count("outlast") == 1


def test_a_submission_whose_answer_is_lost_is_adopted_and_never_doubled(login: Login) -> None:
    """The controller hangs: sbatch gives up, but its request is taken later all the same."""
    pid = (login.cluster.state / "run" / "slurmctld.pid").read_text().strip()
    script = "slurm.submit(JOB, '600', extra=('--job-name=adopted',))"
    login.root("kill", "-STOP", pid)
    try:
        with ThreadPoolExecutor() as pool:
            submitted = pool.submit(login.ask, script)
            # sbatch waits five seconds here (MessageTimeout) before it gives up
            with pytest.raises(NotYet):
                submitted.result(timeout=8)
            login.root("kill", "-CONT", pid)
            job = submitted.result()
    finally:
        login.root("kill", "-CONT", pid)
    assert login.states(job)[0] in ("PENDING", "RUNNING")
    assert login.names_in_queue().count("adopted") == 1
