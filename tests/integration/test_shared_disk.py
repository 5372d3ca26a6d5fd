"""Runs on a shared file system that is slow, stale, over quota, read-only or away for a while."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from evalhpc.errors import StorageError
from tests.chaos.disk import Disk, why_none
from tests.integration.cluster import DevCluster, wait_until
from tests.integration.login_desk import Desk, desk_in

pytestmark = pytest.mark.slurm

NODES = ("login", "n1", "n2", "n3", "n4")
#: Of a file server whose errors a job is to meet, not to wait out.
IMPATIENT = ("--set", "run.storage_wait=0.1")
SLOW = ("--set", "deploy.extra_args=[slow]", "--set", "run.unit_size=1")
#: One request after the other, so that a failure comes among them.
SINGLY = (*SLOW, "--set", "run.concurrency=1")


@pytest.fixture(scope="module")
def disk(cluster: DevCluster) -> Iterator[Disk]:
    """Mounted on each node, whose caches outlast leases."""
    if reason := why_none():
        if os.environ.get("EVALHPC_REQUIRE_CLUSTER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    place = cluster.home / f"shared-{os.getpid()}"
    owner = cluster.home.stat()
    made = Disk(place / "disk", place / "tools")
    with ExitStack() as last:
        made.folder.mkdir(parents=True)
        last.callback(shutil.rmtree, place)
        os.chown(made.folder, owner.st_uid, owner.st_gid)
        made.build(cached=6, locks="local")
        for node in NODES:
            cluster.exec([str(made.mount)], node=node, user="root", check=True)
            umount = ["umount", "--lazy", str(made.folder)]
            last.callback(cluster.exec, umount, node=node, user="root")
        yield made


@pytest.fixture(scope="module")
def desk(cluster: DevCluster) -> Iterator[Desk]:
    with desk_in(cluster, "shared-disk") as made:
        yield made


@pytest.fixture(scope="module")
def right(desk: Desk) -> Path:
    """A run where nothing goes wrong, beside the others."""
    run = desk.home / "right"
    done = desk.submit(run, "--shards", 2)
    assert done.returncode == 0, done.stderr
    return run


def harness_files(run: Path) -> dict[str, bytes]:
    """Name → content of what the harness itself wrote, once the run is complete."""
    complete = (run / "certificate.json").exists
    wait_until(complete, timeout=60, what=f"{run.name} is complete")
    found = {path.name: path.read_bytes() for path in (run / "results").rglob("*_2026-*")}
    assert len(found) == 2
    return found


def marked_done(run: Path) -> int:
    return len(list((run / "leases").glob("*/*.done")))


def idle(desk: Desk, run: Path) -> bool:
    """Whether Slurm has nothing more to do with the run."""
    listed = desk.cluster.exec(["squeue", "--noheader", "--format=%Z"], check=True).stdout
    return str(run) not in listed.split()


def completed(desk: Desk, run: Path) -> None:
    """Resume the run as often as it takes, four times at most."""
    for _ in range(4):
        wait_until(lambda: idle(desk, run), timeout=60, what="no job of the run is left")
        if (run / "certificate.json").exists():
            break
        shown = desk.evalhpc("results", run)
        assert shown.returncode != 0
        assert "length" not in shown.stdout
        done = desk.evalhpc("resume", run, "--wait")
        assert done.returncode in (0, StorageError.exit_code), done.stderr
    done = desk.evalhpc("verify", run)
    assert done.returncode == 0, done.stderr


@contextmanager
def ended_by(disk: Disk, desk: Desk, run: Path, **failing: int) -> Iterator[None]:
    """What the block starts ends at the disk's failure, and shows no score."""
    yield
    with disk.behaving(**failing):
        wait_until(lambda: idle(desk, run), timeout=60, what="no job of the run is left")
    assert not (run / "certificate.json").exists()


def fails_at(disk: Disk, desk: Desk, run: Path, spared: int) -> bool:
    """Whether `verify` says that the disk failed, which does after so many operations."""
    desk.cluster.exec(["ls", str(run)], check=True)
    with disk.behaving(any=errno.EIO, spared=spared):
        done = desk.evalhpc("verify", run)
    failing = "likely cause: the storage or its network is failing" in done.stderr
    assert done.returncode == (StorageError.exit_code if failing else 0), done.stderr
    return failing


@pytest.mark.parametrize(
    ("shards", "spared"),
    [(2, [20]), pytest.param(4, [20, 40, 60, 90], marks=pytest.mark.long)],
)
def test_slow_and_with_caches(
    disk: Disk, desk: Desk, right: Path, shards: int, spared: list[int]
) -> None:
    """Nodes that each believe for a while what they saw last: the same results, and whoever waits
    at the login node is told of them. Wherever the disk then fails under a command, that is
    said."""
    run = disk.folder / f"cached-{shards}"
    with disk.behaving(latency=1000):
        done = desk.submit(
            run, *SLOW, "--shards", shards, "--set", "slurm.extra=[--exclusive]", "--wait"
        )
    assert done.returncode == 0, done.stderr
    assert harness_files(run) == harness_files(right)
    assert desk.evalhpc("verify", run).returncode == 0
    failed = [fails_at(disk, desk, run, operations) for operations in spared]
    assert any(failed)


def test_a_disk_that_fails_in_every_way(disk: Disk, desk: Desk, right: Path) -> None:
    """A used-up quota ends the jobs, and so does one that is read-only from their start. A server
    that does not answer for longer than leases last, and then knows no file that was open, costs no
    answer: `resume` completes the run."""
    run = disk.folder / "failing"
    with ended_by(disk, desk, run, growth=errno.EDQUOT, late=1):
        assert desk.submit(run, *SINGLY, *IMPATIENT, "--shards", 2).returncode == 0
        wait_until(lambda: marked_done(run) > 0, timeout=60, what="a unit is done")
    with ended_by(disk, desk, run, change=errno.EROFS):
        assert desk.evalhpc("resume", run).returncode == 0
    done_before = marked_done(run)
    assert desk.evalhpc("resume", run).returncode == 0
    wait_until(
        lambda: marked_done(run) > done_before or idle(desk, run),
        timeout=60,
        what="another unit is done, if any was left",
    )
    stalled(disk, desk)
    completed(desk, run)
    assert harness_files(run) == harness_files(right)


@pytest.mark.long
def test_read_only_in_the_middle(disk: Disk, desk: Desk, right: Path) -> None:
    """The jobs end, no score is shown, and `resume` completes the run."""
    run = disk.folder / "read-only"
    with ended_by(disk, desk, run, change=errno.EROFS):
        assert desk.submit(run, *SINGLY, *IMPATIENT, "--shards", 2).returncode == 0
        wait_until(lambda: marked_done(run) > 0, timeout=60, what="a unit is done")
    completed(desk, run)
    assert harness_files(run) == harness_files(right)


@pytest.mark.long
def test_a_file_server_that_is_replaced(disk: Disk, desk: Desk, right: Path) -> None:
    """It costs no answer of jobs that wait for the file system, either."""
    run = disk.folder / "replaced"
    assert desk.submit(run, *SINGLY, "--shards", 2).returncode == 0
    wait_until(lambda: marked_done(run) > 0, timeout=60, what="a unit is done")
    stalled(disk, desk)
    completed(desk, run)
    assert harness_files(run) == harness_files(right)


def stalled(disk: Disk, desk: Desk) -> None:
    """The file server stands still for longer than leases last, and begins anew."""
    with disk.behaving(stalled=1):
        desk.cluster.exec(["sleep", "6"])  # `run.lease_timeout` is 5 s
        disk.forget_handles()
