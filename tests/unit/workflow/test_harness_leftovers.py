"""What a harness leaves: no secrets, though it was killed; durable before it is vouched for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from evalhpc.gateway.app import PassCounts
from evalhpc.models.suite import Benchmark
from evalhpc.paths import RunPaths
from evalhpc.storage.merge import MergeReport
from evalhpc.workflow.collect import finish
from evalhpc.workflow.passes import passes
from evalhpc.workflow.passes.harness_run import Ended, Known, Place
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.slices import harness
from evalhpc.workflow.slices.listing import Slice, SliceOutcome
from tests.factories import make_spec

SECRET = "hf_Zq81LmNoPq72RsTu"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run among whose variables is a secret."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    spec = make_spec()
    run = Run(RunPaths(tmp_path), spec, spec.digest())
    for folder in run.paths.folders():
        folder.mkdir()
    return run


def leave_secret(output: Path) -> Path:
    """What a harness was writing when it was killed."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "run_config.yml"
    path.write_text(f"token: {SECRET}\nlimit: 5\n")
    return path


def holds_secret(run: Run) -> list[Path]:
    files = (path for path in run.paths.root.rglob("*") if path.is_file())
    return [path for path in files if SECRET in path.read_text(errors="replace")]


async def asks_nothing(run: Run, benchmark: Benchmark, known: Known, place: Place) -> Ended:
    """A harness that writes a result."""
    (place.output / "deep").mkdir()
    (place.output / "deep" / "results.json").write_text("{}")
    counts = PassCounts()
    counts.asked = 1
    return Ended(0, counts, set(), 0.0)


def test_the_next_life_of_a_pass_takes_secrets_out_of_what_the_last_one_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is set aside for people to look at, and its secrets with asterisks for them."""
    leave_secret(run.paths.pass_output(1, "arc"))
    monkeypatch.setattr(passes, "run_harness", asks_nothing)
    asyncio.run(passes.all_passes(run, 1))
    (left,) = run.paths.passes.glob("1/*interrupted*/output/run_config.yml")
    assert left.read_text() == f"token: {'*' * len(SECRET)}\nlimit: 5\n"
    assert holds_secret(run) == []


def test_the_next_life_of_a_slice_does_so_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it runs the harness."""
    for attempt in range(2):
        leave_secret(run.paths.slice_attempt("arc", 3, attempt) / "output")
    found: list[list[Path]] = []

    async def runs(*_: object) -> SliceOutcome:
        found.append(holds_secret(run))
        return SliceOutcome(benchmark="arc", number=3, exit_code=0, asked=0, foreign=0, further=0)

    async def ask(_: object) -> None:
        """No model."""

    monkeypatch.setattr(harness, "_run", runs)
    slice_ = Slice(id=0, benchmark="arc", number=3)
    asyncio.run(harness.run_slice(run, slice_, ask))
    assert found == [[]]


def test_before_the_certificate_all_that_was_killed_is_looked_through(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes and slices that had no further life, whatever their output leads to."""
    leave_secret(run.paths.pass_output(0, "arc"))
    leave_secret(run.paths.slice_attempt("arc", 0, 0) / "output")
    elsewhere = leave_secret(run.paths.root / "elsewhere")
    linking = run.paths.pass_output(2, "arc")
    leave_secret(linking)
    (linking / "a_link").symlink_to(elsewhere)
    done = leave_secret(run.paths.pass_output(1, "arc"))
    run.paths.outcome(1, "arc").write_text("{}")  # was looked through as it ended

    def publishes(_: Path) -> None:
        raise InterruptedError

    monkeypatch.setattr(finish, "_empty", publishes)
    with pytest.raises(InterruptedError):
        finish.publish(run, 1, [], MergeReport())
    assert sorted(holds_secret(run)) == sorted([done, elsewhere])


def test_results_are_on_the_disk_before_what_vouches_for_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness's files before the outcome of a final pass, their copies before the rest."""
    synced: list[Path] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(passes, "run_harness", asks_nothing)
    asyncio.run(passes.all_passes(run, 1))
    output = run.paths.pass_output(1, "arc")
    wanted = [output / "deep" / "results.json", output / "deep", output]
    outcome = next(n for n, path in enumerate(synced) if ".outcome.json." in path.name)
    assert set(wanted) <= set(synced[:outcome])
    synced.clear()
    finish._copy_output(run, 1, "arc")
    assert {"results.json", "deep"} <= {path.name for path in synced}
