"""`--shard-by samples`: the harness itself on slices of the documents, beside its model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalhpc.storage.samples import read_answered
from tests.integration.model_servers import free_port
from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc

pytestmark = pytest.mark.server

_SERVER = Path(__file__).with_name("quick_server.py")
_MODEL = "outside"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return write_quick_site(folder, "local")


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A model server that is up; its mode is the fixture's parameter."""
    port = free_port()
    words = [sys.executable, _SERVER, "127.0.0.1", port, _MODEL, getattr(request, "param", "")]
    child = subprocess.Popen([*map(str, words)])
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait()


def submit(
    site: Path, url: str, run_dir: Path, task: str, *more: object
) -> subprocess.CompletedProcess[str]:
    return evalhpc(
        "submit", "--site", site, "--endpoint", url, "--model-id", _MODEL, "--tasks",
        f"lm-eval/{task}", "--run-dir", run_dir, "--shards", 3, *more,
    )  # fmt: skip


def complete(site: Path, url: str, run_dir: Path, task: str, *more: object) -> dict[str, Any]:
    """A run that ends well; its certificate's counts."""
    done = submit(site, url, run_dir, task, *more, "--wait")
    assert done.returncode == 0, done.stderr + done.stdout
    checked = evalhpc("verify", run_dir, "--replay")
    assert checked.returncode == 0, checked.stderr
    return dict(json.loads((run_dir / "certificate.json").read_text())["counts"])


def slices(run_dir: Path) -> list[dict[str, Any]]:
    """What became of each slice, attempt by attempt."""
    paths = sorted(run_dir.glob("slices/*/*-*/outcome.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_slices_give_what_requests_give(site: Path, url: str, tmp_path: Path) -> None:
    """Three shards ask 3, 3 and 2 of 8 documents; every byte of the results is the same."""
    counts = complete(site, url, tmp_path / "sliced", "plain", "--shard-by", "samples")
    assert [found["asked"] for found in slices(tmp_path / "sliced")] == [3, 3, 2]
    assert (counts["planned"], counts["answered"], counts["rounds"]) == (8, 8, 1)
    assert counts["passes"] == 2
    complete(site, url, tmp_path / "plain", "plain")
    for name in ("plain", "results.yml"):
        files = sorted(path for path in (tmp_path / "sliced" / "results" / name).rglob("*.json*"))
        for path in files:
            twin = tmp_path / "plain" / path.relative_to(tmp_path / "sliced")
            assert path.read_bytes() == twin.read_bytes()
    assert (tmp_path / "sliced" / "results" / "plain").is_dir()


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
