"""Runs on a shared file system that is slow, stale, over quota, read-only or away for a while."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
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


@pytest.fixture(scope="module")
def disk(cluster: DevCluster) -> Iterator[Disk]:
    """Mounted on each node, with caches as long as those of NFS."""
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
        made.build(cached=30, locks="local")
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
def right(desk: Desk) -> dict[str, bytes]:
    """What the harness writes where nothing goes wrong."""
    run = desk.home / "right"
    done = desk.submit(run, "--shards", 2, "--wait")
    assert done.returncode == 0, done.stderr
    return harness_files(run)


def harness_files(run: Path) -> dict[str, bytes]:
    """Name → content of what the harness itself wrote."""
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


def test_slow_and_with_caches(disk: Disk, desk: Desk, right: dict[str, bytes]) -> None:
    """Four nodes that each believe for half a minute what they saw last: the same results, and
    whoever waits at the login node is told of them. Wherever the disk then fails under a command,
    that is said."""
    run = disk.folder / "cached"
    with disk.behaving(latency=3000):
        done = desk.submit(
            run, *SLOW, "--shards", 4, "--set", "slurm.extra=[--exclusive]", "--wait"
        )
    assert done.returncode == 0, done.stderr
    assert harness_files(run) == right
    assert desk.evalhpc("verify", run).returncode == 0
    codes = []
    for spared in (20, 40, 60, 90):
        desk.cluster.exec(["ls", str(run)], check=True)
        with disk.behaving(any=errno.EIO, spared=spared):
            done = desk.evalhpc("verify", run)
        codes.append(done.returncode)
        failing = "likely cause: the storage or its network is failing" in done.stderr
        assert failing == (done.returncode == StorageError.exit_code), done.stderr
    assert StorageError.exit_code in codes
    assert set(codes) <= {0, StorageError.exit_code}


@pytest.mark.parametrize(
    "failing",
    [{"growth": errno.EDQUOT, "late": 1}, {"change": errno.EROFS}],
    ids=["quota", "read-only"],
)
def test_a_disk_that_takes_nothing(
    disk: Disk, desk: Desk, right: dict[str, bytes], failing: dict[str, int]
) -> None:
    """The jobs end, no score is shown, and `resume` completes the run once the file system is well
    again."""
    run = disk.folder / "-".join(f"{key}-{value}" for key, value in failing.items())
    assert desk.submit(run, *SLOW, *IMPATIENT, "--shards", 2).returncode == 0
    wait_until(lambda: marked_done(run) > 0, timeout=60, what="a unit is done")
    with disk.behaving(**failing):
        wait_until(lambda: idle(desk, run), timeout=60, what="no job of the run is left")
    assert not (run / "certificate.json").exists()
    completed(desk, run)
    assert harness_files(run) == right


def test_a_file_server_that_is_replaced(disk: Disk, desk: Desk, right: dict[str, bytes]) -> None:
    """One that does not answer for longer than leases last, and then knows no file that was open,
    costs no answer."""
    run = disk.folder / "replaced"
    assert desk.submit(run, *SLOW, "--shards", 2).returncode == 0
    wait_until(lambda: marked_done(run) > 0, timeout=60, what="a unit is done")
    with disk.behaving(stalled=1):
        desk.cluster.exec(["sleep", "6"])  # `run.lease_timeout` is 5 s
        disk.forget_handles()
    completed(desk, run)
    assert harness_files(run) == right
