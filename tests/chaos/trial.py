"""One run through one schedule: what happened, and whether anything was lost, doubled or left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.chaos.deeds import DEEDS
from tests.chaos.harness import DOCUMENTS, REQUESTS
from tests.chaos.processes import Process
from tests.chaos.rig import NODES, Rig
from tests.chaos.schedule import Event, make_schedule

#: Seconds that a trial may take; a machine with other work may need most of them.
DEADLINE = 900.0
#: How often the user says `evalhpc resume` before they give up.
RESUMES = 6
LOOK = 0.25
#: What is preempted is requeued in the one, and cancelled in the other.
PARTITIONS = ("low", "lowest")
#: Seconds without a job after which nothing goes on any more; a process that is left is an orphan.
STILL, ORPHANED = 3.0, 20.0


@dataclass
class Report:
    """What came of a schedule; `wrong` is empty where everything held."""

    number: int
    seconds: float = 0.0
    deeds: list[str] = field(default_factory=list)
    resumes: int = 0
    asked: int = 0  # completions that the servers answered: REQUESTS, and what was asked again
    duplicates: int = 0
    damaged: int = 0
    orphaned: int = 0
    rounds: int = 0
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))


def run_trial(rig: Rig, seed: int, number: int, *, calm: bool = False) -> Report:
    """Submit a run, let schedule `number` loose on it, act as its user, and look at the end."""
    report, begun = Report(number), time.monotonic()
    run = rig.disk / f"run-{seed}-{number}{'-calm' if calm else ''}"
    rig.forget_counts()
    done = rig.submit(run, PARTITIONS[number % len(PARTITIONS)])
    if done.returncode != 0:
        report.wrong.append(f"submit exited with {done.returncode}: {done.stderr}")
        return report
    events = () if calm else make_schedule(seed, number)
    with ThreadPoolExecutor() as pool:
        deeds: list[tuple[Event, str, Future[str]]] = []
        for event, when in _due(rig, run, events, report, begun + DEADLINE):
            deeds.append((event, when, pool.submit(DEEDS[event.kind], rig, run, event)))
        for event, when, deed in deeds:
            report.deeds.append(f"{event.kind} ({when}): {deed.result() or 'found nothing'}")
    for node in NODES:
        rig.set_clock(node, 0)
    _judge(rig, run, report)
    report.seconds = round(time.monotonic() - begun, 1)
    return report


def _due(
    rig: Rig, run: Path, events: Sequence[Event], report: Report, deadline: float
) -> Iterator[tuple[Event, str]]:
    """The events as their time comes, until the run has ended for good."""
    waiting, seen = list(events), dict[str, float]()
    quiet_since: float | None = None
    while time.monotonic() < deadline:
        now, processes = time.monotonic(), rig.processes(run)
        phase = _phase(run, processes)
        seen.setdefault(phase, now)
        share = rig.asked() / REQUESTS
        for event in list(waiting):
            if _is_due(event, phase, now - seen[phase], share):
                waiting.remove(event)
                yield event, f"{phase}, {share:.0%}"
        if (processes and quiet_since is None) or rig.jobs(run):
            quiet_since = None
        elif quiet_since is None:
            quiet_since = now
        elif now - quiet_since > (ORPHANED if processes else STILL):
            if (run / "certificate.json").exists():
                report.deeds += [f"{event.kind}: never came" for event in waiting]
                return
            if not _go_on(rig, run, report):
                return
            quiet_since = None
        time.sleep(LOOK)
    report.wrong.append(f"not over within {DEADLINE:.0f} s: {rig.jobs(run)}")


def _phase(run: Path, processes: Sequence[Process]) -> str:
    collecting = any(process.is_a("evalhpc node collect") for process in processes)
    if (run / "certificate.json").exists() or collecting:
        return "collecting"
    if not (run / "plan" / "1" / "units.json").exists():
        return "planning"
    passing = any(process.is_a("chaos/harness.py") for process in processes)
    return "passing" if passing else "answering"


def _is_due(event: Event, phase: str, seconds: float, share: float) -> bool:
    if event.phase == "answering":
        return share >= event.at and phase != "planning"
    order = ("planning", "answering", "passing", "collecting")
    if phase == event.phase:
        return seconds >= event.at
    # Its moment went by unseen: better late than never.
    return event.phase == "planning" or (order.index(phase) > order.index(event.phase))


def _go_on(rig: Rig, run: Path, report: Report) -> bool:
    """What a user does when a run stands still: look, and resume it."""
    shown = rig.evalhpc("results", run)
    if shown.returncode == 0 or "length" in shown.stdout:
        report.wrong.append(f"a run without certificate shows a score: {shown.stdout}")
    state = rig.status(run)["state"]
    if state not in ("failed", "stalled", "cancelled"):
        report.wrong.append(f"nothing goes on, and status says {state}")
    if report.resumes == RESUMES:
        report.wrong.append(f"still without a score after {RESUMES} resumes: {shown.stderr}")
        return False
    report.resumes += 1
    done = rig.evalhpc("resume", run)
    report.deeds.append(f"resume of a {state} run: {shown.stderr.splitlines()[:2]}")
    if done.returncode not in (0, 5, 6):  # Slurm or the disk may still be away
        report.wrong.append(f"resume exited with {done.returncode}: {done.stderr}")
    if done.returncode:
        time.sleep(5)
    return True


def _judge(rig: Rig, run: Path, report: Report) -> None:
    """Everything that has to hold after any schedule."""
    report.asked = rig.asked()
    if not (run / "certificate.json").exists():
        report.wrong.append("there is no score")
    else:
        for command in (("results",), ("verify", "--replay")):
            done = rig.evalhpc(*command, run)
            if done.returncode != 0:
                report.wrong.append(f"{command[0]} exited with {done.returncode}: {done.stderr}")
        _count(run, report)
        report.wrong += _unlike(rig, run)
    report.wrong += _left(rig, run)


def _count(run: Path, report: Report) -> None:
    certificate = json.loads((run / "certificate.json").read_text())
    counts, failed = certificate["counts"], certificate["failed"]
    report.duplicates, report.damaged = counts["duplicates"], counts["damaged"]
    report.rounds, report.orphaned = counts["rounds"], counts["orphaned"]
    # What followed from an answer that a damaged journal took away was asked, and is not any more.
    wanted = REQUESTS + report.orphaned
    if (counts["planned"], counts["answered"], failed) != (wanted, wanted, []):
        report.wrong.append(f"lost or doubled: {counts}, failed: {failed}")
    if report.asked < REQUESTS:
        report.wrong.append(f"{report.asked} answers of servers make {REQUESTS} in the results")


def _unlike(rig: Rig, run: Path) -> Iterator[str]:
    """Files that differ from what the harness writes without evalhpc."""
    for task in DOCUMENTS:
        for wanted in sorted((rig.plain / task).iterdir()):
            found = list((run / "results").glob(f"*{task}*/**/{wanted.name}"))
            if len(found) != 1 or found[0].read_bytes() != wanted.read_bytes():
                yield f"{task}/{wanted.name} is not what a plain run writes: {found}"


def _left(rig: Rig, run: Path) -> Iterator[str]:
    """Processes, jobs, ports and temporary files that outlive the run."""
    for process in rig.processes(run):
        yield f"process left: {process.command}"
    for job in rig.jobs(run):
        yield f"job left: {job}"
    for path in run.rglob("*"):
        # Owner files are no temporary ones: each lease of a worker is a link to its own.
        if path.suffix == ".tmp" or (path.name.startswith(".") and path.suffix != ".owner"):
            yield f"temporary file left: {path.relative_to(run)}"
    for node in NODES:
        ports = rig.cluster.exec(["ss", "-Hltn"], node=node, user="root").stdout.splitlines()
        for port in ports:
            if ":6818 " not in port:
                yield f"port left on {node}: {port}"
        find = ["find", "/tmp", "/dev/shm", "-user", "evaluser"]
        for name in rig.cluster.exec(find, node=node, user="root").stdout.splitlines():
            yield f"file left on {node}: {name}"
