"""`--shard-by samples`: the harness itself on slices of the documents, beside its model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evalhpc.storage.journal import read_journal
from evalhpc.storage.round_view import worker_stats
from evalhpc.storage.samples import read_answered
from tests.integration.harness_outputs import as_is
from tests.integration.model_servers import quick_endpoint
from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc

pytestmark = pytest.mark.server

_MODEL = "outside"
T = TypeVar("T")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return write_quick_site(folder, "local")


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A model server that is up; its mode is the fixture's parameter."""
    with quick_endpoint(getattr(request, "param", "")) as url:
        yield url


def submit(
    site: Path, url: str, run_dir: Path, task: str, *more: object, shards: int = 3
) -> subprocess.CompletedProcess[str]:
    return evalhpc(
        "submit", "--site", site, "--endpoint", url, "--model-id", _MODEL, "--tasks",
        f"lm-eval/{task}", "--run-dir", run_dir, "--shards", shards, *more,
    )  # fmt: skip


def complete(site: Path, url: str, run_dir: Path, task: str, *more: object) -> dict[str, Any]:
    """A run that ends well; its certificate's counts."""
    done = submit(site, url, run_dir, task, *more, "--wait")
    assert done.returncode == 0, done.stderr + done.stdout
    checked = evalhpc("verify", run_dir)
    assert checked.returncode == 0, checked.stderr
    return dict(json.loads((run_dir / "certificate.json").read_text())["counts"])


def slices(run_dir: Path) -> list[dict[str, Any]]:
    """What became of each slice, attempt by attempt."""
    paths = sorted(run_dir.glob("slices/*/*-*/outcome.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_slices_leave_what_a_plain_run_leaves(site: Path, url: str, tmp_path: Path) -> None:
    """Slices of 3, 3 and 2 of 8 documents, one round; every byte of the output is the same."""
    run_dir, plain = tmp_path / "run", tmp_path / "plain"
    counts = complete(site, url, run_dir, "plain", "--shard-by", "samples")
    assert [found["asked"] for found in slices(run_dir)] == [3, 3, 2]
    assert (counts["planned"], counts["answered"], counts["rounds"]) == (8, 8, 1)
    assert counts["passes"] == 2
    replayed = evalhpc("verify", run_dir, "--replay")
    assert replayed.returncode == 0, replayed.stderr
    place = {"EVALHPC_BASE_URL": url, "EVALHPC_OUTPUT_DIR": str(plain), "EVALHPC_API_KEY": "none"}
    script = run_dir / "scripts" / "harness-plain.sh"
    subprocess.run(["bash", script], env=os.environ | place, check=True, capture_output=True)
    assert as_is(run_dir / "results" / "plain") == as_is(plain)
    assert len(as_is(plain)) == 2


def test_identical_documents_in_two_slices_stay_two_samples(
    site: Path, url: str, tmp_path: Path
) -> None:
    """Of 8 documents 4 are copies: the warm shards ask the second occurrences in the same array."""
    counts = complete(site, url, tmp_path / "run", "twins", "--shard-by", "samples")
    assert (counts["planned"], counts["rounds"]) == (8, 1)
    assert len(list(read_answered(tmp_path / "run" / "results" / "requests.h5"))) == 8


def test_turns_are_asked_live(site: Path, url: str, tmp_path: Path) -> None:
    """Three turns of a conversation take one round, as a slice's harness waits for each."""
    counts = complete(site, url, tmp_path / "run", "turns", "--shard-by", "samples")
    assert (counts["planned"], counts["rounds"], counts["passes"]) == (24, 1, 2)
    assert sum(found["further"] for found in slices(tmp_path / "run")) == 16


@pytest.mark.parametrize("url", ["slow"], indirect=True)
def test_a_slice_of_a_dead_shard_is_run_again_from_its_answers(
    site: Path, url: str, tmp_path: Path
) -> None:
    """The other shard takes it over; what the dead one had journalled is not asked twice."""
    run_dir = tmp_path / "run"
    done = submit(site, url, run_dir, "turns", "--shard-by", "samples", shards=2)
    assert done.returncode == 0, done.stderr
    said = _until(lambda: _working(run_dir, "00000"))
    os.kill(said["pid"], signal.SIGKILL)
    _until((run_dir / "certificate.json").is_file)
    journal = run_dir / "journals" / "0001-00000-000.journal"
    certificate = json.loads((run_dir / "certificate.json").read_text())
    assert certificate["counts"]["answered"] == 24
    assert certificate["counts"]["duplicates"] == 0
    frames = read_journal(journal, certificate["run_hash"])
    kept = [item for item in frames if isinstance(item, tuple)]
    assert len(kept) >= said["answered"] > 0
    attempts = sorted(path.parent.name for path in run_dir.glob("slices/*/*-*/outcome.json"))
    assert len(attempts) == 2
    assert any(name.endswith("-1") for name in attempts)
    assert evalhpc("verify", run_dir).returncode == 0


@pytest.mark.parametrize("url", ["slow"], indirect=True)
def test_what_a_dead_array_leaves_is_asked_request_by_request(
    site: Path, url: str, tmp_path: Path
) -> None:
    """The collector plans what pass 0 asked; a second round holds only what has no answer."""
    run_dir = tmp_path / "run"
    done = submit(site, url, run_dir, "plain", "--shard-by", "samples", shards=1)
    assert done.returncode == 0, done.stderr
    said = _until(lambda: _working(run_dir, "00000"))
    os.kill(said["pid"], signal.SIGKILL)
    _until((run_dir / "certificate.json").is_file)
    counts = json.loads((run_dir / "certificate.json").read_text())["counts"]
    assert (counts["planned"], counts["answered"], counts["rounds"]) == (8, 8, 2)
    assert counts["duplicates"] == 0
    asked = json.loads((run_dir / "plan" / "2" / "units.json").read_text())["requests"]
    assert 0 < asked <= 8 - said["answered"]
    assert evalhpc("verify", run_dir).returncode == 0


def _working(run_dir: Path, worker: str) -> dict[str, Any] | None:
    """What a shard says of itself, once it has answered something."""
    said = worker_stats(run_dir / "leases" / "0").get(worker, {})
    return said if said.get("answered") else None


def _until(condition: Callable[[], T | None], seconds: float = 90) -> T:
    """The first value that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
    return value


@pytest.mark.parametrize(
    ("task", "said", "round_"),
    [
        # Found by planning, with one slice over stubs: before any model was asked.
        ("ordered", "2 of 2 requests of ordered", 0),
        # Found by the shard that has the first document.
        ("late", "1 of 8 requests of late", 1),
        # Found when all is there: only a later turn differs.
        ("drifts", "answers of drifts were not asked for by the unsharded harness", 1),
    ],
)
def test_slices_that_change_the_prompts_have_no_score(
    task: str, said: str, round_: int, site: Path, url: str, tmp_path: Path
) -> None:
    """The run ends with the counts, the cause and the way out."""
    run_dir = tmp_path / "run"
    done = submit(site, url, run_dir, task, "--shard-by", "samples", "--wait")
    assert done.returncode == 10, done.stdout + done.stderr
    assert said in done.stderr + done.stdout
    assert "--shard-by requests" in done.stderr + done.stdout
    assert not (run_dir / "certificate.json").exists()
    journals = list((run_dir / "journals").glob("*.journal"))
    assert bool(journals) == bool(round_)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "run.miss=forward"), "exclude each other"),
        (("--set", "run.plan=inline"), "exclude each other"),
        (("--tasks", "command/own.py"), "own.py (command) cannot be told which documents to run"),
    ],
)
def test_what_cannot_be_cut_is_refused_at_submission(
    words: tuple[str, ...], said: str, site: Path, url: str, tmp_path: Path
) -> None:
    """Nothing is left behind, and the advice names the other way."""
    done = submit(site, url, tmp_path / "run", "plain", "--shard-by", "samples", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
