"""Shards and deployment jobs: who asks whom, who moves, and who waits for one that returns."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from evalhpc.errors import EndpointError
from evalhpc.http.balanced import Client
from evalhpc.http.errors import FailureKind, TransportError
from evalhpc.http.messages import JSON, HttpResponse
from evalhpc.workflow.record.jobs import record_job
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import Received
from evalhpc.workflow.record.tokens import make_token
from evalhpc.workflow.serve import deployment_jobs, shared_replica
from evalhpc.workflow.serve.deployment_jobs import preferred
from evalhpc.workflow.serve.herald import Herald
from evalhpc.workflow.serve.moving import MovingClient
from evalhpc.workflow.serve.shared_replica import SharedReplica
from tests.slurm_fakes import FakeSlurm
from tests.unit.workflow.test_shared import make_run, quick

__all__ = ["quick"]  # the fixture: a second lasts a hundredth

URLS = [{"model": f"http://192.0.2.{job}:1/v1"} for job in range(3)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of two deployment jobs."""
    made = make_run(tmp_path / "run", jobs=2)
    make_token(made)
    return made


def wait_for(replica: SharedReplica, url: str) -> None:
    """Until the replica asks there, looking as a shard at work does."""
    for _ in range(500):
        assert replica.death() is None
        if replica.url() == url:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{replica.url()} is asked, not {url}")


@contextmanager
def ending(run: Run, job: int, why: BaseException) -> Iterator[Herald]:
    """A deployment job that ends so after the block."""
    with suppress(type(why)), Herald(run, job) as herald:
        yield herald
        raise why


@pytest.mark.parametrize(("shards", "jobs"), [(12, 3), (8, 4), (6, 1), (12, 4)])
def test_as_many_shards_to_each_job_also_when_one_is_gone(shards: int, jobs: int) -> None:
    """What it leaves is divided among all others, and nobody else moves."""
    orders = [preferred(shard, jobs) for shard in range(shards)]
    assert all(sorted(order) == list(range(jobs)) for order in orders)
    assert set(Counter(order[0] for order in orders).values()) == {shards // jobs}
    if jobs > 1:
        left = Counter(next(job for job in order if job != 0) for order in orders)
        assert max(left.values()) - min(left.values()) <= 1


def test_shards_begin_with_the_job_that_is_there_and_go_to_their_own_later(run: Run) -> None:
    """The second job loads for longer: its shards do not wait, and it does not stay idle."""
    replica = SharedReplica(run, 1, "model")
    with Herald(run, 0) as early:
        early.serves(URLS[0])
        assert replica.ready()[0] == (URLS[0]["model"],)
        with Herald(run, 1) as late:
            late.serves(URLS[1])
            wait_for(replica, URLS[1]["model"])


def test_a_shard_whose_job_ended_goes_on_with_another(run: Run) -> None:
    """For good or not: only where none is left is it the shard's end."""
    replica = SharedReplica(run, 1, "model")
    with Herald(run, 0) as other:
        other.serves(URLS[0])
        with ending(run, 1, EndpointError("the model server ended (signal 9)")) as own:
            own.serves(URLS[1])
            assert replica.ready()[0] == (URLS[1]["model"],)
        wait_for(replica, URLS[0]["model"])
    for _ in range(500):
        if death := replica.death():
            break
        threading.Event().wait(0.01)
    assert death is not None
    assert "deployment job 0" in death.what


@pytest.mark.parametrize(
    ("state", "waits"),
    [("PENDING", True), ("RUNNING", True), ("CANCELLED", False), ("TIMEOUT", False)],
)
def test_a_preempted_job_that_is_queued_again_is_waited_for(
    state: str, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm says whether it will be back; one that it ended for good ends its shards at once."""
    run = make_run(tmp_path / "one")
    make_token(run)
    record_job(run.paths, "deploy", 7, 1, "slurm", tasks=1)
    line = f"7_0|8|{state}|0:0|1|None||N/A|N/A|0:00|gpu|r|\n"
    fake = FakeSlurm(squeue=line, sacct="")
    monkeypatch.setattr(deployment_jobs, "Slurm", lambda **_: fake.gate())
    with ending(run, 0, Received("SIGTERM")) as first:
        first.serves(URLS[0])
    if not waits:
        with pytest.raises(EndpointError, match="near its walltime") as error:
            SharedReplica(run, 0, "model").ready()
        assert error.value.transient
        return
    found: list[tuple[tuple[str, ...], str]] = []
    shard = threading.Thread(target=lambda: found.append(SharedReplica(run, 0, "model").ready()))
    shard.start()
    shard.join(0.3)
    assert shard.is_alive()
    with Herald(run, 0) as again:
        again.serves(URLS[1])
        shard.join(5)
    assert found[0][0] == (URLS[1]["model"],)
    assert len(fake.named("squeue")) == 1


class Standing:
    """Where a list says, the next one after each move."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)

    def url(self) -> str:
        """The first."""
        return self.urls[0]

    def moved_from(self, url: str) -> bool:
        """Whether there is a further one."""
        if len(self.urls) > 1 and self.url() == url:
            self.urls.pop(0)
        return self.url() != url


class Peer:
    """A server that fails in one way, or answers with its name."""

    def __init__(self, url: str, fails: FailureKind | None) -> None:
        self.url, self.fails, self.asked, self.closed = url, fails, 0, False

    async def request(
        self, method: str, target: str, body: bytes = b"", content_type: str = JSON
    ) -> HttpResponse:
        """One exchange."""
        self.asked += 1
        if self.fails:
            raise TransportError(self.fails, "it is not there")
        return HttpResponse(200, [], self.url.encode())

    async def close(self) -> None:
        """Note it."""
        self.closed = True


@pytest.mark.parametrize("kind", ["refused", "reset", "unreachable", "timeout", "too_large"])
def test_a_request_that_found_nobody_is_sent_where_others_serve(kind: FailureKind) -> None:
    """Once; what may be the request's own doing is for its asker to judge."""
    peers = {"a": Peer("a", kind), "b": Peer("b", None)}

    def connect(url: str) -> Client:
        return peers[url]

    async def ask() -> bytes:
        client = MovingClient(Standing("a", "b"), connect)
        try:
            return (await client.request("POST", "/completions", b"{}")).body
        finally:
            await client.close()

    if kind in ("timeout", "too_large"):
        with pytest.raises(TransportError):
            asyncio.run(ask())
        assert (peers["a"].asked, peers["b"].asked) == (1, 0)
    else:
        assert asyncio.run(ask()) == b"b"
        assert all(peer.closed for peer in peers.values())


def test_without_another_job_the_failure_is_the_requests(run: Run) -> None:
    """And the job stays the one that is asked: it may just be restarting."""
    replica = SharedReplica(run, 0, "model")
    with Herald(run, 0) as herald:
        herald.serves(URLS[0])
        replica.ready()
        assert not replica.moved_from(URLS[0]["model"])
        assert replica.url() == URLS[0]["model"]


def test_an_end_is_no_news_that_is_told_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches asks again half a second later, which is sooner than the next look."""
    replica = SharedReplica(run, 0, "model")
    with ending(run, 0, Received("SIGTERM")) as herald:
        herald.serves(URLS[0])
        replica.ready()
    for _ in range(500):
        if replica.death():
            break
        threading.Event().wait(0.01)
    monkeypatch.setattr(shared_replica, "LOOK", 60.0)
    assert replica.death() is not None


def test_a_job_that_fails_requests_is_asked_again_once_it_beats(run: Run) -> None:
    """A node that dies beats no more: its shards move before its silence is long enough."""
    replica = SharedReplica(run, 0, "model")
    with Herald(run, 0) as own, Herald(run, 1) as other:
        own.serves(URLS[0])
        other.serves(URLS[1])
        replica.ready()
        wait_for(replica, URLS[0]["model"])
        assert replica.moved_from(URLS[0]["model"])
        wait_for(replica, URLS[0]["model"])
