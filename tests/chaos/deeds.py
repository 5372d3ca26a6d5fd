"""What each kind of event does to a cluster. A deed says what it did, or "" if it found nothing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TypeVar

from tests.chaos.processes import Process, parent_of
from tests.chaos.rig import NODES, Rig
from tests.chaos.schedule import Event

T = TypeVar("T")
#: Tenths of a second that whoever kills or stops waits for a victim.
PATIENCE = 150
Deed = Callable[[Rig, Path, Event], str]


def _pick(targets: Sequence[T], event: Event) -> T | None:
    return targets[int(event.pick * len(targets))] if targets else None


def _node(event: Event) -> str:
    return NODES[int(event.pick * len(NODES))]


def _hit(
    targets: Callable[[], Sequence[Process]], event: Event, number: signal.Signals = signal.SIGKILL
) -> Process | None:
    """Signal one of the targets, which may have yet to start."""
    for _ in range(PATIENCE):
        victim = _pick(targets(), event)
        if victim and victim.send(number):
            return victim
        time.sleep(0.1)
    return None


def _kill(targets: Callable[[], Sequence[Process]], event: Event, what: str) -> str:
    victim = _hit(targets, event)
    return f"{what} {victim.pid}" if victim else ""


def _named(rig: Rig, run: Path, word: str) -> list[Process]:
    return [process for process in rig.processes(run) if process.is_a(word)]


def kill_worker(rig: Rig, run: Path, event: Event) -> str:
    """kill -9 of a shard."""
    return _kill(lambda: _named(rig, run, "evalhpc node shard"), event, "shard")


def kill_gateway(rig: Rig, run: Path, event: Event) -> str:
    """kill -9 of the process that a harness asks."""

    def gateways() -> list[Process]:
        everything = rig.processes(run)
        harnesses = [process for process in everything if process.is_a("chaos/harness.py")]
        above = [parent_of(harness, everything, "evalhpc node") for harness in harnesses]
        return [process for process in above if process]

    return _kill(gateways, event, "gateway")


def kill_server(rig: Rig, run: Path, event: Event) -> str:
    """kill -9 of a model server."""
    return _kill(lambda: _named(rig, run, "chaos/server.py"), event, "server")


def kill_harness(rig: Rig, run: Path, event: Event) -> str:
    """kill -9 of a harness."""
    return _kill(lambda: _named(rig, run, "chaos/harness.py"), event, "harness")


def freeze_worker(rig: Rig, run: Path, event: Event) -> str:
    """A shard is stopped for longer than its lease lasts, and then goes on as if nothing was."""
    victim = _hit(lambda: _named(rig, run, "evalhpc node shard"), event, signal.SIGSTOP)
    if victim is None:
        return ""
    try:
        time.sleep(8 + 8 * event.size)
    finally:
        victim.send(signal.SIGCONT)
    return f"shard {victim.pid} for {8 + 8 * event.size:.0f} s"


def kill_slurmd(rig: Rig, _run: Path, event: Event) -> str:
    """A node's slurmd dies and comes back; its jobs go on meanwhile."""
    with rig.daemons[_node(event)]:
        rig.cluster.kill_slurmd(_node(event))
        time.sleep(2 + 12 * event.size)
        rig.cluster.start_slurmd(_node(event))
    return f"{_node(event)}, back after {2 + 12 * event.size:.0f} s"


def crash_node(rig: Rig, _run: Path, event: Event) -> str:
    """A node dies with everything on it, and comes back."""
    with rig.daemons[_node(event)]:
        rig.cluster.crash(_node(event))
        time.sleep(2 + 20 * event.size)
        rig.cluster.boot(_node(event))
    return f"{_node(event)}, back after {2 + 20 * event.size:.0f} s"


def restart_controller(rig: Rig, _run: Path, _event: Event) -> str:
    """slurmctld stops and starts."""
    with rig.daemons["login"]:
        rig.cluster.restart_controller()
    return "slurmctld"


def stall_controller(rig: Rig, _run: Path, event: Event) -> str:
    """slurmctld takes connections and answers none of them for a while."""
    seconds = 3 + 12 * event.size
    with rig.daemons["login"]:
        rig.slurm("pkill", "-STOP", "-x", "slurmctld", user="root")
        try:
            time.sleep(seconds)
        finally:
            rig.slurm("pkill", "-CONT", "-x", "slurmctld", user="root")
    return f"for {seconds:.0f} s"


def preempt(rig: Rig, _run: Path, event: Event) -> str:
    """A job of a higher partition takes a whole node for some seconds."""
    done = rig.slurm(
        "sbatch", "--parsable", "--partition=high", f"--nodelist={_node(event)}", "--exclusive",
        "--output=/dev/null", f"--wrap=sleep {3 + 5 * event.size:.0f}",
    )  # fmt: skip
    return f"{_node(event)} by job {done.stdout.strip()}" if done.returncode == 0 else ""


def requeue(rig: Rig, run: Path, event: Event) -> str:
    """An administrator requeues one of the run's running jobs or tasks."""
    return _to_task(rig, run, event, "scontrol", "requeue")


def cancel_task(rig: Rig, run: Path, event: Event) -> str:
    """Somebody cancels one of the run's running jobs or tasks."""
    return _to_task(rig, run, event, "scancel")


def shorten_walltime(rig: Rig, run: Path, event: Event) -> str:
    """A running job or task gets a walltime of a minute: it is warned 15 s before, or killed."""
    task = _pick(rig.running_tasks(run), event)
    if task is None:
        return ""
    words = ("scontrol", "update", f"JobId={task}", "TimeLimit=1")
    return f"task {task}" if rig.slurm(*words, user="root").returncode == 0 else ""


def _to_task(rig: Rig, run: Path, event: Event, *words: str) -> str:
    task = _pick(rig.running_tasks(run), event)
    done = rig.slurm(*words, task) if task else None
    return f"task {task}" if done and done.returncode == 0 else ""


def fill_disk(rig: Rig, _run: Path, event: Event) -> str:
    """Somebody else fills the file system to the last byte, and frees it later."""
    ballast = rig.disk / f"somebody-elses-{event.pick}"
    try:
        with ballast.open("wb") as file:
            for size in (1 << 20, 1 << 12):  # what others free meanwhile is theirs
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), file.tell(), size)
                        file.seek(0, os.SEEK_END)
        free = shutil.disk_usage(rig.disk).free
        time.sleep(2 + 10 * event.size)
    finally:
        ballast.unlink(missing_ok=True)
    return f"to {free} bytes for {2 + 10 * event.size:.0f} s"


def slow_disk(rig: Rig, _run: Path, event: Event) -> str:
    """Everything that is asked of the file server takes some hundredths of a second."""
    milliseconds, seconds = 5 + 45 * event.pick, 5 + 20 * event.size
    with rig.server.behaving(latency=round(1000 * milliseconds)):
        time.sleep(seconds)
    return f"{milliseconds:.0f} ms a time for {seconds:.0f} s"


def stall_disk(rig: Rig, _run: Path, event: Event) -> str:
    """The file server does not answer; who asks it hangs until it does."""
    seconds = 2 + 18 * event.size
    with rig.server.behaving(stalled=1):
        time.sleep(seconds)
    return f"for {seconds:.0f} s"


def over_quota(rig: Rig, _run: Path, event: Event) -> str:
    """The user's quota is used up; half of the time only fsync() and close() say so."""
    seconds, late = 2 + 10 * event.size, event.pick < 0.5
    with rig.server.behaving(growth=errno.EDQUOT, late=int(late)):
        time.sleep(seconds)
    return f"for {seconds:.0f} s{', said late' if late else ''}"


def read_only_disk(rig: Rig, _run: Path, event: Event) -> str:
    """The file system is read-only for a while, on all nodes."""
    seconds = 2 + 10 * event.size
    with rig.server.behaving(change=errno.EROFS):
        time.sleep(seconds)
    return f"for {seconds:.0f} s"


def stale_handles(rig: Rig, _run: Path, _event: Event) -> str:
    """The file server starts anew, and no longer knows the files that anybody has open."""
    rig.server.forget_handles()
    return "all"


def skew_clock(rig: Rig, _run: Path, event: Event) -> str:
    """A node's wall clock jumps by up to two hours, either way, and stays there."""
    seconds = round((event.size - 0.5) * 4 * 3600)
    rig.set_clock(_node(event), seconds)
    return f"{_node(event)} by {seconds} s"


def corrupt_journal(_rig: Rig, run: Path, event: Event) -> str:
    """The tail of a journal is cut, changed or followed by garbage, live or not."""
    journals = [path for path in sorted((run / "journals").glob("*.journal"))
                if path.stat().st_size > 1000]  # fmt: skip
    path = _pick(journals, event)
    if path is None:
        return ""
    random, size = Random(event.size), path.stat().st_size
    if event.size < 1 / 3:
        os.truncate(path, size - random.randint(1, 300))
        how = "cut"
    elif event.size < 2 / 3:
        with path.open("r+b") as file:
            file.seek(size - random.randint(8, 400))
            file.write(random.randbytes(8))
        how = "changed"
    else:
        with path.open("ab") as file:
            file.write(random.randbytes(100))
        how = "followed by garbage"
    return f"{path.name} {how}"


DEEDS: dict[str, Deed] = {
    deed.__name__: deed
    for deed in (
        kill_worker, kill_gateway, kill_server, kill_harness, kill_slurmd, crash_node,
        restart_controller, stall_controller, preempt, requeue, cancel_task, fill_disk,
        skew_clock, corrupt_journal, freeze_worker, shorten_walltime,
        slow_disk, stall_disk, over_quota, read_only_disk, stale_handles,
    )
}  # fmt: skip
