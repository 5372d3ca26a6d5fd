"""One wish that is submitted twice, at the same time or after a submission that was killed."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer

import pytest

from evalhpc.errors import ClusterError, StorageError
from evalhpc.paths import RunPaths
from evalhpc.workflow.submit.prepare import prepare
from evalhpc.workflow.submit.run_directory import Prepared, filling
from evalhpc.workflow.submit.wish import Wish
from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc
from tests.models.checkpoints import write_hf

SUBMITTED = "this very run, submitted before"


@pytest.fixture
def wish(tmp_path: Path) -> Wish:
    """A run in `tmp_path`/run."""
    model = write_hf(tmp_path / "tiny", tokenizer=False)
    os.utime(model, (1, 1))
    return Wish(
        site=str(write_quick_site(tmp_path, "local")), model=str(model), tasks="lm-eval/ok",
        run_dir=tmp_path / "run",
    )  # fmt: skip


def rendered_twice(wish: Wish) -> tuple[Prepared, Prepared]:
    """Two submissions that are both through with their scripts."""
    return prepare(wish, os.environ), prepare(wish, os.environ)


def test_of_two_submissions_at_once_one_is_refused_and_undoes_nothing(wish: Wish) -> None:
    """Neither the other's record nor the directory, although it had made that."""
    first, second = rendered_twice(wish)
    jobs = first.run.paths.jobs
    with second.submitting():
        jobs.write_text('{"kind": "planning"}\n')
        with (
            pytest.raises(StorageError, match="this very run, submitted before"),
            first.submitting(),
        ):
            pytest.fail("two submissions")
        with pytest.raises(StorageError, match="this very run, submitted before"):
            prepare(wish, os.environ)
    assert jobs.read_text() == '{"kind": "planning"}\n'


def test_who_comes_while_another_fills_the_directory_waits_and_takes_nothing_away(
    wish: Wish,
) -> None:
    """Both made it theirs before either had anything in it; the second goes on from the first."""
    run = prepare(wish, os.environ).run
    shutil.rmtree(run.paths.root)
    begun, waits = Event(), Event()

    def fills() -> None:
        with filling(run):
            begun.set()
            waits.wait(30)
            run.paths.spec.touch()

    with ThreadPoolExecutor() as pool:
        other = pool.submit(fills)
        assert begun.wait(30)
        Timer(0.5, waits.set).start()
        with filling(run) as prepared:
            assert prepared.undo == "nothing"
        other.result()
    with pytest.raises(StorageError, match="no space"), filling(run):
        raise StorageError("no space")
    assert run.paths.spec.exists()


def test_a_submission_that_fails_may_be_tried_again(wish: Wish) -> None:
    """By the one that rendered the directory, or another: what it wrote of jobs is gone."""
    first, second = rendered_twice(wish)
    with pytest.raises(ClusterError), second.submitting():
        raise ClusterError("refused")
    with first.submitting():
        assert first.run.paths.jobs.read_bytes() == b""


def test_what_another_wish_rendered_meanwhile_is_not_submitted(wish: Wish) -> None:
    """A run whose scripts and jobs are of two minds would be neither."""
    first = prepare(wish, os.environ)
    prepare(Wish(**{**vars(wish), "limit": 3}), os.environ)
    with pytest.raises(StorageError, match="for another run"), first.submitting():
        pytest.fail("submitted")


def test_a_submission_that_was_killed_is_resumed_not_repeated(wish: Wish) -> None:
    """Its jobs may be in the queue: only `resume` looks for them."""
    words = ("--site", wish.site, "--model", wish.model, "--tasks", wish.tasks,
             "--run-dir", wish.run_dir)  # fmt: skip
    assert evalhpc("render", *words).returncode == 0
    run = RunPaths(Path(str(wish.run_dir)))
    run.jobs.touch()  # what a submission does before the first job is there
    status = json.loads(evalhpc("status", run.root, "--json").stdout)
    assert (status["state"], status["jobs"]) == ("stalled", [])
    assert "its submission was cut short" in status["why"]
    again = evalhpc("submit", *words)
    assert again.returncode == 6, again.stderr
    assert f"evalhpc resume {run.root}" in again.stderr
    done = evalhpc("resume", run.root, "--wait")
    assert done.returncode == 0, done.stderr
    assert run.certificate.exists()
