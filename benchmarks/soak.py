"""A gateway and a worker at full rate for a while: what grows, and whether an answer is lost.

Each is a process of its own, over real HTTP on loopback, beside a model server that answers at
once. The gateway runs pass after pass over a store that knows half of what is asked; the worker
takes round after round from its desk, with plan file, leases and journal. Both are sampled from
/proc while they work; every reply and every journal is compared with what it has to be.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import linear_regression
from typing import TypeVar

import click
import orjson
import uvloop

from benchmarks.clients import CONCURRENCY
from benchmarks.exchanges import PATH, chat_answer, chat_body, requests, write_store
from benchmarks.servers import (
    NEW_PASS,
    RUN_HASH,
    TOKEN,
    constant_server,
    gateway_server,
    running,
)
from evalhpc.core.frames import Damage
from evalhpc.core.identity import Answer, Request
from evalhpc.gateway.app import API_ROOT, PassCounts
from evalhpc.http.client import HttpClient
from evalhpc.paths import RunPaths
from evalhpc.storage.journal import read_journal
from evalhpc.worker.loop import Worker
from evalhpc.workflow.answer.desk import Desk
from evalhpc.workflow.record.rounds import plan_round
from evalhpc.workflow.record.run import Run
from tests.factories import make_spec

#: Requests of one pass and of one round.
LENGTH = 4_000
#: The first part of the time, in which caches and pools fill, is not judged.
WARM_UP = 0.25
#: MiB that private memory may rise over the judged time, by the line through its samples.
RISE = 8.0
#: Files and threads come and go with a round; no more may be there later than at first, plus these.
SLACK = 4
#: Looks at a process at least, however short the time.
LOOKS = 60
#: Where the worker tells of its rounds, in its folder.
ROUNDS = "rounds.jsonl"
T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Sample:
    """A look at a process: seconds since the start, MiB of private memory, files, threads."""

    at: float
    memory: float
    files: int
    threads: int


@dataclass(frozen=True)
class Trend:
    """How a process was after its warm-up: least and most of each figure, and memory's rise."""

    name: str
    samples: int
    memory: tuple[float, float]  # MiB
    rise: float  # MiB over the judged time, by least squares
    files: tuple[int, int]
    threads: tuple[int, int]
    faults: tuple[str, ...]


@dataclass
class Counts:
    """What was asked, and what came of it."""

    gateway: int = 0
    gateway_wrong: int = 0
    worker: int = 0
    worker_wrong: int = 0
    rounds: int = 0
    journals: int = 0  # bytes
    faults: list[str] = field(default_factory=list)


def trend(name: str, samples: Sequence[Sample]) -> Trend:
    """Judge the samples of one process."""
    first = samples[-1].at * WARM_UP
    early = [s for s in samples if s.at <= first] or [samples[0]]
    late = [s for s in samples if s.at > first]
    slope = linear_regression([s.at for s in late], [s.memory for s in late]).slope
    rise = slope * (late[-1].at - late[0].at)
    faults = [f"{name}: memory rose by {rise:.1f} MiB"] if rise > RISE else []
    for what in ("files", "threads"):
        before, after = (max(getattr(s, what) for s in some) for some in (early, late))
        if after > before + SLACK:
            faults.append(f"{name}: {before} {what} at first, {after} later")
    return Trend(
        name=name,
        samples=len(samples),
        memory=_range(round(s.memory, 1) for s in late),
        rise=round(rise, 2),
        files=_range(s.files for s in late),
        threads=_range(s.threads for s in late),
        faults=tuple(faults),
    )


def _range(values: Iterable[T]) -> tuple[T, T]:
    some = list(values)
    return min(some), max(some)


def look(pid: int, start: float) -> Sample:
    """The process as /proc has it; raises FileNotFoundError once it has ended."""
    folder = Path("/proc", str(pid))
    lines = (folder / "status").read_text().splitlines()
    status = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return Sample(
        at=time.monotonic() - start,
        memory=int(status["RssAnon"].split()[0]) / 1024,
        files=sum(1 for _ in (folder / "fd").iterdir()),
        threads=int(status["Threads"]),
    )


def worker_process(ready: Connection, base_url: str, folder: Path) -> None:
    """Round after round until it is ended; each is told as [asked, wrong, bytes of the journal]."""
    ready.send(0)  # where a server says its port
    spec = make_spec()
    run = Run(RunPaths(folder), spec, spec.digest())
    run.paths.journals.mkdir(parents=True)
    planned = list(requests(LENGTH))
    with (folder / ROUNDS).open("wb") as told:
        for round_ in count(1):
            plan_round(run, round_, planned)
            with Desk(run, round_, 0) as desk:
                uvloop.run(_work(desk, base_url))
            journal = run.paths.journal(round_, 0, 0)
            found = list(read_journal(journal, run.hash))
            wrong = _wrong(planned, found)
            told.write(orjson.dumps([len(planned), wrong, journal.stat().st_size]) + b"\n")
            told.flush()
            journal.unlink()


def _wrong(planned: Sequence[Request], found: Sequence[tuple[bytes, Answer] | Damage]) -> int:
    """How many of a round's answers are lost, damaged, there twice, or nobody's."""
    keys = Counter(item[0] for item in found if not isinstance(item, Damage))
    lost = {request.key for request in planned}.symmetric_difference(keys)
    return len(lost) + len(found) - len(keys)


async def _work(desk: Desk, base_url: str) -> None:
    async with HttpClient(base_url, connections=CONCURRENCY) as client:
        await Worker(client, desk, desk.record, desk.counts, concurrency=CONCURRENCY).run()


async def _ask(port: int, seconds: float, counts: Counts) -> None:
    """A harness that never ends: every other question is one that the store knows."""
    bodies = [chat_body(number) for number in range(LENGTH)]
    known = {number: chat_answer(number) for number in range(0, LENGTH // 2)}
    numbers, end = count(), time.monotonic() + seconds
    async with HttpClient(
        f"http://127.0.0.1:{port}", token=TOKEN, connections=CONCURRENCY
    ) as client:

        async def lane() -> None:
            while time.monotonic() < end:
                number = next(numbers) % LENGTH
                reply = await client.request("POST", API_ROOT + PATH, bodies[number])
                expected = known.get(number)
                counts.gateway += 1
                # A miss gets a stub, which is as long as it is told to be.
                good = reply.body == expected if expected else b"choices" in reply.body
                counts.gateway_wrong += reply.status != 200 or not good

        await asyncio.gather(*(lane() for _ in range(CONCURRENCY)))
        said = await client.request("GET", NEW_PASS)
    passes = PassCounts(**orjson.loads(said.body))
    if passes.asked != counts.gateway or passes.answered + passes.misses != passes.asked:
        counts.faults.append(f"the gateway counted {passes}, the harness {counts.gateway}")


def soak(seconds: float, folder: Path) -> tuple[Counts, list[Trend]]:
    """Run both for so many seconds; what they did, and how they were."""
    counts, samples = Counts(), {name: list[Sample]() for name in ("gateway", "worker")}
    write_store(folder, LENGTH // 2, RUN_HASH)
    over = threading.Event()
    with (
        running(constant_server) as model,
        running(gateway_server, folder, LENGTH // 2, stored=True) as gateway,
        running(
            worker_process, f"http://127.0.0.1:{model.port}{API_ROOT}", folder / "run"
        ) as worker,
    ):
        pids, start = {"gateway": gateway.pid, "worker": worker.pid}, time.monotonic()

        def watch() -> None:
            while not over.wait(min(1.0, seconds / LOOKS)):
                for name, pid in pids.items():
                    samples[name].append(look(pid, start))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            uvloop.run(_ask(gateway.port, seconds, counts))
        finally:
            over.set()
            watching.join()
    for line in (folder / "run" / ROUNDS).read_bytes().splitlines():
        asked, wrong, size = orjson.loads(line)
        counts.rounds += 1
        counts.worker += asked
        counts.worker_wrong += wrong
        counts.journals += size
    return counts, [trend(name, some) for name, some in samples.items()]


def faults(counts: Counts, trends: Sequence[Trend]) -> list[str]:
    """Everything that must not be, in words."""
    found = [*counts.faults, *(fault for one in trends for fault in one.faults)]
    if counts.gateway_wrong or counts.worker_wrong:
        found.append(f"wrong or lost: {counts.gateway_wrong} replies of the gateway, "
                     f"{counts.worker_wrong} answers of the worker")  # fmt: skip
    if not (counts.gateway and counts.rounds):
        found.append("nothing was asked, or no round came to its end")
    if counts.journals < counts.worker * len(chat_answer(0)):
        found.append(f"{counts.journals} bytes of journals cannot hold {counts.worker} answers")
    return found


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.1), default=10.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(minutes: float, as_json: bool) -> None:
    """Exit 1 if something grew or was lost."""
    with tempfile.TemporaryDirectory() as name:
        counts, trends = soak(minutes * 60, Path(name))
    found = faults(counts, trends)
    if as_json:
        record = {"counts": asdict(counts), "trends": [asdict(t) for t in trends], "faults": found}
        click.echo(orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(f"gateway: {counts.gateway:,} replies, {counts.gateway_wrong} wrong")
        click.echo(f"worker: {counts.worker:,} answers in {counts.rounds:,} rounds, "
                   f"{counts.worker_wrong} lost or wrong, {counts.journals / 1e9:.2f} GB of "
                   "journals")  # fmt: skip
        for one in trends:
            click.echo(f"{one.name}: memory {one.memory[0]:.1f} to {one.memory[1]:.1f} MiB, trend "
                       f"{one.rise:+.2f} MiB; files {one.files[0]} to {one.files[1]}, threads "
                       f"{one.threads[0]} to {one.threads[1]}; {one.samples} samples")  # fmt: skip
        for fault in found:
            click.echo(f"FAULT: {fault}", err=True)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
