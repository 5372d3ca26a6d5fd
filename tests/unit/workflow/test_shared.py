"""Deployment jobs and their token: what is published, who is believed, and what is left behind."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evalhpc.deploy.readiness import Kind
from evalhpc.errors import EndpointError
from evalhpc.paths import RunPaths
from evalhpc.workflow.record import pulse
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import Interrupted, Received
from evalhpc.workflow.record.tokens import drop_token, make_token, read_token
from evalhpc.workflow.serve import herald as herald_module
from evalhpc.workflow.serve import shared, shared_replica
from evalhpc.workflow.serve.herald import Herald
from evalhpc.workflow.serve.shared import call_answered, published
from evalhpc.workflow.serve.shared_replica import SharedReplica
from tests.factories import make_spec

URLS = {"model": "http://192.0.2.1:1/v1"}
HF = {"model_id": "m", "format": "hf", "path": "/models/m", "url": None}


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own; a second lasts a hundredth; every server is proved at once."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pulse, "BEAT", 0.01)
    for module in (shared, shared_replica):
        monkeypatch.setattr(module, "LOOK", 0.01)
        monkeypatch.setattr(module, "SETTLED", 0.3)
    monkeypatch.setattr(herald_module, "node_name", lambda: "n1")

    def proved(
        url: str, model: str, *, kind: Kind, token: str, deadline: float, alive: Callable[[], None]
    ) -> float:
        alive()
        return 0.0

    monkeypatch.setattr(shared_replica, "wait_ready", proved)


def make_run(folder: Path, **deploy: object) -> Run:
    spec = make_spec(
        model=HF,
        deployment={"kind": "hf"},
        site={"deploy": {"topology": "job", **deploy}},
        run={"ready_timeout": 2, "lease_timeout": 0.2},
    )
    run = Run(RunPaths(folder), spec, spec.digest())
    for path in run.paths.folders():
        path.mkdir(parents=True, exist_ok=True)
    return run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = make_run(tmp_path / "run")
    make_token(found)
    return found


def test_a_token_is_private_and_not_in_the_run_directory(run: Run, tmp_path: Path) -> None:
    """Mode 0600 in a folder of mode 0700; the run directory has its name only."""
    token = read_token(run)
    (file,) = (tmp_path / "home" / ".local/state/evalhpc/tokens").iterdir()
    assert file.read_text() == token
    assert len(token) == 48
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    texts = [path.read_text() for path in run.paths.root.rglob("*") if path.is_file()]
    assert texts
    assert not any(token in text for text in texts)


def test_a_token_lasts_as_long_as_the_run(run: Run, tmp_path: Path) -> None:
    """Making it again changes nothing; dropped, it is gone, and the next one is another."""
    token = read_token(run)
    assert not make_token(run)
    assert read_token(run) == token
    drop_token(run)
    drop_token(run)
    assert not list((tmp_path / "home" / ".local/state/evalhpc/tokens").iterdir())
    with pytest.raises(EndpointError, match="cannot be read"):
        read_token(run)
    assert make_token(run)
    assert read_token(run) != token


def test_two_runs_of_one_spec_do_not_share_a_token(run: Run, tmp_path: Path) -> None:
    """The end of one leaves the other's alone."""
    other = make_run(tmp_path / "other")
    make_token(other)
    assert other.hash == run.hash
    drop_token(other)
    assert read_token(run)


def test_a_home_that_this_node_does_not_see_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likely cause and a way out, rather than a 401."""
    monkeypatch.setenv("HOME", "/elsewhere")
    with pytest.raises(EndpointError) as caught:
        read_token(run)
    assert "home directory" in caught.value.cause
    assert "deploy.topology=shard" in caught.value.hint


def test_a_shard_asks_a_job_that_is_seen_to_live(run: Run) -> None:
    """Where it is, with the run's token, once its models are loaded."""
    replica = SharedReplica(run, 3, "model")
    with Herald(run, 0) as herald:
        threading.Timer(0.05, herald.serves, [URLS]).start()
        assert replica.ready() == ((URLS["model"],), read_token(run))
        assert replica.death() is None


def test_a_record_that_stands_still_is_no_job(run: Run) -> None:
    """What a killed job left behind leads nobody to it."""
    with Herald(run, 0) as herald:
        herald.serves(URLS)
        left = published(run, 0)
    assert left is not None
    shared.publish(run, left)
    with pytest.raises(EndpointError, match="no deployment job of this run was ready"):
        SharedReplica(run, 0, "model").ready()


@pytest.mark.parametrize(
    ("error", "said", "transient"),
    [
        (EndpointError("the model server ended (signal 9)"), "signal 9", False),
        (Interrupted("SIGUSR1"), "near its walltime", True),
        (Received("SIGTERM"), "cancelled, preempted", True),
        (KeyError("x"), "a bug of evalhpc", False),
    ],
)
def test_the_reason_of_a_job_that_ended_reaches_its_shards(
    error: BaseException, said: str, transient: bool, run: Run
) -> None:
    """Those that ask it, and those that come later; each ends at once, and knows whether Slurm
    may start the job again."""
    replica = SharedReplica(run, 0, "model")

    def serve() -> None:
        with Herald(run, 0) as herald:
            herald.serves(URLS)
            replica.ready()
            raise error

    with pytest.raises(type(error)):
        serve()
    replica._looked = 0.0
    death = replica.death()
    assert death is not None
    assert said in death.what
    with pytest.raises(EndpointError, match=said) as late:
        SharedReplica(run, 1, "model").ready()
    assert death.transient == late.value.transient == transient


def test_shards_of_a_job_that_went_silent_end(run: Run) -> None:
    """Its node died: nothing is published any more."""
    replica = SharedReplica(run, 0, "model")
    with Herald(run, 0) as herald:
        herald.serves(URLS)
        replica.ready()
        herald.silence()
        death = None
        for _ in range(500):
            if death := replica.death():
                break
            threading.Event().wait(0.01)
    assert death is not None
    assert "went silent" in death.what
    assert death.transient


def test_shards_spread_over_the_jobs_that_live(tmp_path: Path) -> None:
    """One that ended is left out; the run goes on with the other two."""
    run = make_run(tmp_path / "three", jobs=3)
    make_token(run)
    with Herald(run, 0):
        pass
    urls = [{"model": f"http://192.0.2.{job}:1/v1"} for job in range(3)]
    with Herald(run, 1) as one, Herald(run, 2) as two:
        one.serves(urls[1])
        two.serves(urls[2])
        asked = [SharedReplica(run, shard, "model").ready()[0][0] for shard in range(4)]
    assert sorted(asked) == sorted([urls[1]["model"], urls[2]["model"]] * 2)


def test_a_call_is_answered_by_a_job_that_stays(run: Run) -> None:
    """A round may rest on it; on one that has left, or that has the token of before, none may."""
    with Herald(run, 0) as herald:
        called = herald.called
        assert call_answered(run)
        assert herald.called > called
        assert herald.leave("nothing asked it")
        assert not call_answered(run)
    with Herald(run, 0) as herald:
        drop_token(run)
        assert herald.dismissed
        make_token(run)
        assert herald.dismissed
        assert not call_answered(run)


def test_a_job_that_was_called_does_not_leave(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if the call came after its last beat."""
    monkeypatch.setattr(pulse, "BEAT", 60)
    with Herald(run, 0) as herald:
        assert not call_answered(run)
        assert not herald.leave("nothing asked it")


def test_an_earlier_start_of_a_job_gives_way(run: Run) -> None:
    """A node that came back finds its job requeued elsewhere: it says nothing over that one."""
    with Herald(run, 0) as early:
        record = published(run, 0)
        assert record is not None
        shared.publish(run, record.model_copy(update={"start": "another"}))
        for _ in range(500):
            if early.superseded:
                break
            threading.Event().wait(0.01)
        assert early.superseded
    record = published(run, 0)
    assert record is not None
    assert (record.start, record.ended) == ("another", "")


@pytest.mark.parametrize("mark", ["certificate", "cancelled", "failure"])
def test_a_job_is_dismissed_when_the_run_is_over(mark: str, run: Run) -> None:
    """Complete, cancelled or failed."""
    with Herald(run, 0) as herald:
        assert not herald.dismissed
        Path(getattr(run.paths, mark)).write_text("{}")
        assert herald.dismissed
