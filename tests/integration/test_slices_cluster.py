"""`--shard-by samples` on a Slurm cluster: array tasks lease slices, and others take them over."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.integration.cluster import DevCluster
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_hf

pytestmark = pytest.mark.slurm

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
PATH = f"{Path(EVALHPC).parent}:/usr/bin:/bin"


@pytest.fixture
def home(cluster: DevCluster) -> Iterator[Path]:
    """A quick site and a checkpoint in the ordinary user's home."""
    folder = cluster.home / f"slices-{os.getpid()}"
    write_quick_site(folder, "devcluster")
    write_hf(folder / "tiny", tokenizer=False)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, cluster.home.stat().st_uid, cluster.home.stat().st_gid)
        os.utime(path, (1, 1))
    yield folder
    shutil.rmtree(folder)


def submit(cluster: DevCluster, home: Path, task: str, *words: object) -> CompletedProcess[str]:
    command = [
        EVALHPC, "submit", "--site", home / "quick.yaml", "--model", home / "tiny", "--tasks",
        f"lm-eval/{task}", "--run-dir", home / task, "--shards", 3, "--shard-by", "samples",
        "--wait", *words,
    ]  # fmt: skip
    return cluster.exec([*map(str, command)], cwd=home, env={"PATH": PATH}, timeout=400)


def test_a_slice_whose_server_dies_is_run_by_another_task(cluster: DevCluster, home: Path) -> None:
    """The server of the first task ends after three requests; every answer is asked once."""
    done = submit(cluster, home, "turns", "--set", "deploy.extra_args=[fragile]")
    assert done.returncode == 0, done.stderr
    counts = json.loads((home / "turns" / "certificate.json").read_text())["counts"]
    assert (counts["planned"], counts["answered"]) == (24, 24)
    ended = {path.parent.name for path in (home / "turns").glob("slices/turns/*-*/outcome.json")}
    assert {name.partition("-")[0] for name in ended} == {"0", "1", "2"}


def test_slices_that_change_the_prompts_end_the_run_before_its_array(
    cluster: DevCluster, home: Path
) -> None:
    """The collector, which runs whatever becomes of the array, keeps the planning job's reason."""
    done = submit(cluster, home, "ordered")
    assert done.returncode == 10, done.stderr
    assert "2 of 2 requests of ordered" in done.stderr
    assert json.loads((home / "ordered" / "failure.json").read_text())["exit_code"] == 10
    assert not list((home / "ordered" / "journals").iterdir())
