"""A real cluster's limits: several arrays, fewer shards, fitted walltimes, and nothing orphaned."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from evalhpc.workflow.record.signals import INTERRUPTED
from tests.integration.cluster import USER, DevCluster, wait_until
from tests.integration.conftest import with_accounting
from tests.integration.login_desk import PATH, Desk, desk_in

pytestmark = pytest.mark.slurm

#: 24 requests of half a second, one after another.
SLOW = (
    "--tasks", "lm-eval/ok,lm-eval/a,lm-eval/b", "--set", "run.unit_size=1",
    "--set", "run.concurrency=1", "--set", "run.adaptive=false",
    "--set", "deploy.extra_args=[slow]",
)  # fmt: skip


@pytest.fixture(scope="module")
def desk(cluster: DevCluster) -> Iterator[Desk]:
    with desk_in(cluster, "limits") as desk:
        yield desk
        cluster.exec(["scancel", "--me"])


def jobs_of(run: Path, kind: str = "") -> list[dict[str, Any]]:
    """What the run recorded of its jobs."""
    jobs = [json.loads(line) for line in (run / "jobs.jsonl").read_text().splitlines()]
    return [job for job in jobs if not kind or job["kind"] == kind]


def as_user(desk: Desk, *argv: object) -> str:
    return desk.cluster.exec(list(map(str, argv)), cwd=desk.home, check=True).stdout.strip()


def restart(cluster: DevCluster) -> None:
    """The controller starts (again), and knows all nodes."""
    cluster.restart_controller()

    def known() -> bool:
        nodes = [node["slurm"] for node in cluster.status()["nodes"] if node["slurm"] != "-"]
        return not any(state.startswith(("down", "unk")) or "*" in state for state in nodes)

    wait_until(known, timeout=30, what="every node is back")


def wait_for_answers(run: Path) -> None:
    """Until the first unit's answers are on the disk, of which some must be left then."""

    def some() -> bool:
        return any(path.stat().st_size > 500 for path in (run / "journals").glob("*.journal"))

    wait_until(some, timeout=60, every=0.05, what="some requests are answered")


# --- arrays


def test_more_shards_than_an_array_may_have_become_several_arrays(desk: Desk) -> None:
    """Offset + task id is the shard: each does its fixed slice, and one collector follows all."""
    run = desk.home / "arrays"
    done = desk.submit(
        run, "--shards", 7, "--schedule", "static", "--set", "run.unit_size=1",
        "--set", "slurm.max_array_size=3", "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [job["tasks"] for job in jobs_of(run, "shard")] == [3, 3, 1]
    assert len(jobs_of(run, "collect")) == 1
    shards = sorted(path.name.split("-")[1] for path in (run / "journals").glob("0001-*.journal"))
    assert shards == [f"{number:05d}" for number in range(7)]
    assert len(json.loads(desk.evalhpc("status", run, "--json").stdout)["jobs"]) == 5


def test_cancel_ends_every_array_and_what_nobody_recorded(desk: Desk) -> None:
    """Also a job submitted by hand, which then is in no record; a run of the same name stays."""
    words = ("--shards", 4, "--set", "slurm.max_array_size=2", "--set", "deploy.extra_args=[hang]")
    run, other = desk.home / "cancelled", desk.home / "other"
    for root in (run, other):
        done = desk.submit(root, *words)
        assert done.returncode == 0, done.stderr
    assert jobs_of(run)[0]["id"] != jobs_of(other)[0]["id"]
    by_hand = as_user(desk, "sbatch", "--parsable", "--hold", run / "scripts/shard.sbatch", 1)
    assert int(by_hand) not in {job["id"] for job in jobs_of(run)}
    done = desk.evalhpc("cancel", run)
    assert done.returncode == 0, done.stderr

    def ended() -> bool:
        return str(run) not in "".join(desk.queue())

    wait_until(ended, timeout=20, what="every job of the run is gone")
    assert str(other) in "".join(desk.queue())
    assert desk.evalhpc("cancel", other).returncode == 0
    wait_until(lambda: desk.queue() == [], timeout=20, what="the other run is gone, too")


# --- walltimes


@pytest.mark.long
def test_walltimes_are_fitted_to_what_was_measured(desk: Desk) -> None:
    """A round for what a cancelled array left, by its own rate; a later run by the earlier one."""
    run, second = desk.home / "measured" / "first", desk.home / "measured" / "second"
    words = (*SLOW, "--shards", 1, "--set", "run.request_timeout=20")
    done = desk.submit(run, *words)
    assert done.returncode == 0, done.stderr
    [array] = jobs_of(run, "shard")
    assert array["walltime"] == ""

    wait_for_answers(run)
    as_user(desk, "scancel", array["id"])
    wait_until((run / "certificate.json").is_file, timeout=60, what="the run is complete")
    [_, again] = jobs_of(run, "shard")
    assert again["walltime"] in ("0:02:00", "0:03:00", "0:04:00"), again
    assert re.fullmatch(
        r"\d+ requests? left, \S+ s of a shard each in round 1, load .*", again["why"]
    )
    done = desk.submit(second, *words, "--wait")
    assert done.returncode == 0, done.stderr
    [fitted] = jobs_of(second, "shard")
    assert fitted["why"] == "from 1 earlier run of this suite with this model"
    assert fitted["walltime"] in ("0:02:00", "0:03:00", "0:04:00"), fitted
    assert f"--time {fitted['walltime']}" in done.stdout


# --- holes

#: 128 requests of half a second: more than fit into the minute that a job gets.
SHORTER = (*SLOW[:1], "lm-eval/ok,lm-eval/a", *SLOW[2:])
LONGER = (*SLOW[:1], ",".join(f"lm-eval/{name}" for name in "abcdefghijklmnop"), *SLOW[2:])
#: At most ten minutes, at least one; what needs no model fits into any hole.
HOLE = (
    "--shards", 1, "--set", "resources.shard.walltime=10", "--set", "resources.shard.time_min=1",
    "--set", "resources.planning.walltime=1", "--set", "resources.collect.walltime=1",
    "--set", "slurm.signal_seconds=10", "--set", "run.fit_walltime=false",
)  # fmt: skip


@pytest.fixture
def reserved(desk: Desk) -> Iterator[Callable[[], object]]:
    """In six minutes all nodes are somebody else's; until the test calls this."""
    words = ("reservationname=later", "starttime=now+6minutes", "duration=60", "users=root",
             "nodes=ALL", "flags=ignore_jobs")  # fmt: skip
    desk.cluster.exec(["scontrol", "create", "reservation", *words], user="root", check=True)
    gone = ["scontrol", "delete", "reservationname=later"]
    yield lambda: desk.cluster.exec(gone, user="root", check=True)
    desk.cluster.exec(gone, user="root")


@pytest.mark.parametrize(
    ("questions", "warns"),
    [
        pytest.param(SHORTER, "scancel", id="warned-early"),
        pytest.param(LONGER, "slurmctld", marks=pytest.mark.long, id="warned-by-slurm"),
    ],
)
def test_a_shard_takes_a_hole_shorter_than_its_walltime(
    questions: tuple[str, ...], warns: str, desk: Desk, reserved: Callable[[], object]
) -> None:
    """Real backfill starts it with less time; it stops leasing when it is warned and ends by
    itself, another one does the rest. Afterwards, the bytes are those of a run that had time."""
    run, calm = desk.home / f"hole-{warns}", desk.home / "calm"
    done = desk.submit(run, *questions, *HOLE)
    assert done.returncode == 0, done.stderr
    [array] = jobs_of(run, "shard")

    wait_for_answers(run)
    given = as_user(desk, "squeue", "-h", f"--jobs={array['id']}", "-o", "%l|%T")
    minutes, seconds = map(int, given.partition("|")[0].split(":"))
    assert given.endswith("RUNNING")
    assert 1 <= minutes + seconds / 60 <= 6
    if warns == "scancel":
        as_user(desk, "scancel", "--batch", "--signal=USR1", array["id"])

    def ended() -> str:
        shown = as_user(desk, "scontrol", "show", "job", array["id"])
        found = dict(re.findall(r"(JobState|ExitCode)=(\S+)", shown))
        busy = found["JobState"] in ("RUNNING", "COMPLETING")
        return "" if busy else f"{found['JobState']} {found['ExitCode']}"

    wait_until(lambda: ended() != "", timeout=90, what="it has left")
    assert ended() == f"FAILED {INTERRUPTED}:0"  # of its own accord: Slurm's word is TIMEOUT
    reserved()
    wait_until((run / "certificate.json").is_file, timeout=120, what="the run is complete")
    assert len(jobs_of(run, "shard")) >= 2
    assert desk.evalhpc("verify", run).returncode == 0
    if warns == "slurmctld":
        done = desk.submit(calm, *questions[:2], "--shards", 2, "--wait")
        assert done.returncode == 0, done.stderr
        assert scored(run) == scored(calm) != {}


def scored(run: Path) -> dict[str, bytes]:
    """What the harness left, by file; its names and texts have no time and no place in them."""
    found = (run / "results").rglob("samples_*")
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


# --- limits of the account

ENFORCED = "AccountingStorageEnforce=associations,limits,qos"


@dataclass(frozen=True)
class Account:
    """The ordinary user's account, whose limits count."""

    desk: Desk

    def limit(self, **limits: int) -> None:
        """`maxsubmitjobs`, `maxwall` (minutes); -1: none. Slurm's controller knows it at once."""
        sets = [f"{key}={value}" for key, value in limits.items()]
        self.root("sacctmgr", "-i", "modify", "user", USER, "set", *sets)

    def root(self, *argv: str) -> None:
        self.desk.cluster.exec(argv, user="root", check=True)


@pytest.fixture(scope="module")
def account(desk: Desk) -> Iterator[Account]:
    """Limits are enforced while these tests run."""
    if not with_accounting():
        pytest.skip("without accounting nothing is limited")
    conf, account = desk.cluster.state / "etc" / "slurm" / "slurm.conf", Account(desk)
    before = conf.read_text()
    account.root("sacctmgr", "-i", "add", "account", "dept")
    account.root("sacctmgr", "-i", "add", "account", "lab", "parent=dept")
    for user in (USER, "root"):
        account.root("sacctmgr", "-i", "add", "user", user, "account=lab")
    conf.write_text(f"{before}{ENFORCED}\n")
    restart(desk.cluster)
    try:
        yield account
    finally:
        desk.cluster.exec(["scancel", "--me"])
        conf.write_text(before)
        restart(desk.cluster)
        for user in (USER, "root"):
            desk.cluster.exec(["sacctmgr", "-i", "delete", "user", user], user="root")
        desk.cluster.exec(["sacctmgr", "-i", "delete", "account", "lab,dept"], user="root")


@pytest.fixture
def limited(account: Account) -> Iterator[Account]:
    """Six jobs at most; what earlier tests left, and still ends, would count."""
    everything = ["squeue", "--me", "--noheader"]
    wait_until(
        lambda: not account.desk.cluster.exec(everything).stdout, timeout=20, what="an empty queue"
    )
    account.limit(maxsubmitjobs=6, maxwall=-1)
    yield account
    account.limit(maxsubmitjobs=-1, maxwall=-1)
    account.desk.cluster.exec(["scancel", "--me"])


def test_shards_are_as_many_as_the_account_may_have(limited: Account) -> None:
    """Six jobs, one of them another's: planning, collector and three shards; the same answers.

    The collector of a round counts itself when it submits the next one.
    """
    desk, run = limited.desk, limited.desk.home / "fatter"
    other = as_user(desk, "sbatch", "--parsable", "--hold", "--wrap=true")
    done = desk.submit(
        run, "--shards", 8, "--set", "run.linger=0", "--tasks", "lm-eval/turns", "--wait"
    )
    assert done.returncode == 0, done.stderr
    said = "3 shards instead of 8, each with more of the work: MaxSubmitJobs of account lab is 6"
    assert f"{said}, 1 in the queue, 2 for the run's other jobs" in done.stderr
    assert {job["tasks"] for job in jobs_of(run, "shard")} == {3}
    assert len(jobs_of(run, "collect")) > 1
    as_user(desk, "scancel", other)


def test_what_cannot_fit_is_refused_before_anything_is_submitted(limited: Account) -> None:
    """No place for one shard, fixed slices that do not fit, a walltime above MaxWall."""
    desk = limited.desk
    said = desk.refused(5, "--shards", 8, "--schedule", "static")
    assert "so that 4 fit" in said
    assert "--shards 4, or --schedule dynamic" in said
    others = as_user(
        desk, "sbatch", "--parsable", "--hold", "--chdir=/", "--array=0-3", "--wrap=true"
    )
    said = desk.refused(5)
    assert "1 planning + 1 collect + 1 shard = 3 jobs at least, and 2 fit" in said
    as_user(desk, "scancel", others)
    limited.limit(maxwall=9)
    said = desk.refused(5)
    assert "the planning job asks for 10:00, and MaxWall of account lab is 9 min" in said


#: What counts for a job with these options, as evalhpc sees it.
POOLS = """\
import json, sys
from evalhpc.slurm.gate import Slurm
quotas = Slurm().quotas(sys.argv[1], sys.argv[2])
pools = quotas.pools(None, sys.argv[3], sys.argv[4] or None)
print(json.dumps([[pool.label, pool.limit, pool.queued] for pool in pools]))
"""
LIMITS = {
    "GrpSubmitJobs of account dept": ["account dept set GrpSubmitJobs=4"],
    "MaxSubmitJobsPerAccount of QOS normal": ["qos normal set MaxSubmitJobsPerAccount=4"],
    "GrpSubmitJobs of QOS normal": [
        "qos normal set GrpSubmitJobs=4", "account dept set GrpSubmitJobs=2",
    ],
}  # fmt: skip
MORE_LIMITS = {
    "GrpSubmitJobs of account lab": ["account lab set GrpSubmitJobs=4"],
    f"GrpSubmitJobs of {USER} in account lab": [f"user {USER} set GrpSubmitJobs=4"],
    "MaxSubmitJobsPerUser of QOS normal": ["qos normal set MaxSubmitJobsPerUser=4"],
}


@pytest.mark.parametrize(
    ("label", "settings"),
    [
        *LIMITS.items(),
        *(pytest.param(*limit, marks=pytest.mark.long) for limit in MORE_LIMITS.items()),
    ],
)
def test_slurm_takes_what_fits_and_refuses_one_more(
    label: str, settings: list[str], limited: Account
) -> None:
    """Real limits of accounts and QOS, with another user's job in the same account."""
    desk, others = limited.desk, "PerUser" not in label and USER not in label
    limited.limit(maxsubmitjobs=-1)
    for setting in settings:
        limited.root("sacctmgr", "-i", "modify", *setting.split())
    hold = ("sbatch", "--parsable", "--hold", "--chdir=/", "--wrap=true")
    limited.root(*hold, "--account=lab")
    try:
        as_user(desk, *hold)
        python = (sys.executable, "-c", POOLS, USER, "devcluster", "", "")
        pools = {row[0]: row[1:] for row in json.loads(as_user(desk, *python))}
        assert pools[label] == [4, 1 + others]
        room = min(limit - queued for limit, queued in pools.values())
        for tasks, taken in ((room + 1, False), (room, True)):
            done = desk.cluster.exec([*hold, f"--array=0-{tasks - 1}"])
            assert (done.returncode == 0) == taken, done.stderr
    finally:
        limited.root("scancel", "--user=root")
        for setting in settings:
            limited.root("sacctmgr", "-i", "modify", *re.sub(r"\d+", "-1", setting).split())


# --- a chain that fails in the middle

#: The N-th submission is preceded by something.
WRAPPER = """\
#!/bin/bash
case "$*" in *--test-only*) exec /usr/bin/sbatch "$@" ;; esac
echo x >>{folder}/count
[[ $(wc -l <{folder}/count) -ne {number} ]] || {{ {does}; }} >/dev/null 2>&1
exec /usr/bin/sbatch "$@"
"""
#: The user's last free places go to jobs of another kind.
FILL = "while /usr/bin/sbatch --hold --chdir=/ --wrap=true; do :; done"
WAIT = (
    "touch {folder}/ready; for _ in {{1..600}}; do [[ ! -e {folder}/go ]] || break; sleep 0.1; done"
)
#: Two tries of what a controller does not answer, not six: the same in a tenth of the time.
IMPATIENT = """\
from evalhpc.cli.main import main
from evalhpc.slurm.gate import Slurm
Slurm.__init__.__kwdefaults__["attempts"] = 2
main()
"""
CHAIN = ("planning", "deploy", "shard", "shard", "collect")
SHARED = ("--shards", 3, "--set", "slurm.max_array_size=2", "--set", "deploy.topology=job")


def wrapped(desk: Desk, name: str, number: int, does: str) -> tuple[Path, str]:
    """A folder, and a PATH whose sbatch does something before its submission of that number."""
    folder = desk.home / f"bin-{name}"
    folder.mkdir()
    os.chown(folder, desk.home.stat().st_uid, desk.home.stat().st_gid)
    text = WRAPPER.format(folder=folder, number=number, does=does.format(folder=folder))
    (folder / "sbatch").write_text(text)
    (folder / "sbatch").chmod(0o755)
    return folder, f"{folder}:{PATH}"


def test_whichever_submission_is_refused_nothing_is_left(limited: Account) -> None:
    """Somebody takes the account's last place before each of the chain's five jobs in turn."""
    desk = limited.desk
    limited.limit(maxsubmitjobs=9)
    for number, kind in enumerate(CHAIN, 1):
        _, path = wrapped(desk, f"full-{number}", number, FILL)
        said = desk.refused(5, *SHARED, path=path)
        assert f"the {kind} job was not submitted" in said
        assert "Job violates accounting/QOS policy" in said
        assert ("cancelled what was submitted before: " in said) == (number > 1)
        as_user(desk, "scancel", "--me")
    run = desk.home / "taken"
    done = desk.submit(run, *SHARED)
    assert done.returncode == 0, done.stderr
    assert desk.evalhpc("cancel", run).returncode == 0


@pytest.mark.long
def test_whenever_the_controller_dies_nothing_is_left(desk: Desk) -> None:
    """It stops before each of the chain's five jobs in turn, and returns later.

    What was submitted cannot be undone then: the directory stays, `cancel` finds all of it, and
    `resume` completes the run.
    """
    chosen = dict(enumerate(CHAIN, 1))
    wrappers = [wrapped(desk, f"dead-{number}", number, WAIT) for number in chosen]
    runs = [desk.home / f"dead-before-{number}" for number in chosen]
    impatient = replace(desk, program=(sys.executable, "-c", IMPATIENT))
    kill = f"kill $(cat {desk.cluster.state}/run/slurmctld.pid)"
    with ThreadPoolExecutor(len(chosen)) as pool:
        waiting = [
            pool.submit(impatient.submit, run, *SHARED, path=path)
            for run, (_, path) in zip(runs, wrappers, strict=True)
        ]
        for folder, _ in wrappers:
            wait_until((folder / "ready").exists, timeout=30, what=f"{folder.name} is there")
        try:
            desk.cluster.exec(["bash", "-c", kill], user="root", check=True)
            for folder, _ in wrappers:
                (folder / "go").touch()
            ended = [future.result() for future in waiting]
        finally:
            restart(desk.cluster)
    for (number, kind), run, done in zip(chosen.items(), runs, ended, strict=True):
        assert done.returncode == 5, done.stderr
        assert f"the {kind} job was not submitted" in done.stderr
        assert run.exists() == (number > 1)
        if number > 1:
            assert f"evalhpc cancel {run}" in done.stderr
            cancelled = desk.evalhpc("cancel", run)
            assert cancelled.returncode == 0, cancelled.stderr
    wait_until(lambda: desk.queue() == [], timeout=30, what="no job is left")
    done = desk.evalhpc("resume", runs[-1], "--wait")
    assert done.returncode == 0, done.stderr


# --- preemption


@pytest.mark.parametrize("partition", [pytest.param("low", marks=pytest.mark.long), "lowest"])
def test_preempted_shards_cost_no_answer(desk: Desk, partition: str) -> None:
    """`low` requeues what a higher partition pushes aside, `lowest` cancels it."""
    run = desk.home / f"preempted-{partition}"
    done = desk.submit(
        run, *SLOW, "--shards", 1, "--set", f"slurm.partition={partition}",
        "--set", "slurm.cpu_partition=batch", "--set", "resources.shard.gpus_per_node=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [array] = jobs_of(run, "shard")

    wait_for_answers(run)
    (node,) = as_user(desk, "squeue", "-h", f"--jobs={array['id']}", "-o", "%N").split()
    whole = ("--partition=high", "--gres=gpu:8", f"--nodelist={node}")
    as_user(desk, "sbatch", *whole, "--wrap=sleep 1")
    wait_until((run / "certificate.json").is_file, timeout=90, what="the run is complete")
    requeued = len(list((run / "journals").glob("0001-00000-*.journal"))) == 2
    assert requeued == (partition == "low")
    assert requeued or len(jobs_of(run, "shard")) == 2
    assert desk.evalhpc("verify", run).returncode == 0
