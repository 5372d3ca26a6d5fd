"""Bad input on a real Slurm cluster, and a full disk: nothing half-submitted, nothing half-done."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.integration.cluster import DevCluster, wait_until
from tests.integration.login_desk import EVALHPC, PATH, Desk, desk_in
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_hf

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def desk(cluster: DevCluster) -> Iterator[Desk]:
    with desk_in(cluster, "bad") as desk:
        yield desk


def test_what_slurm_would_refuse_is_refused_before_anything_is_submitted(desk: Desk) -> None:
    """Partition, walltime, GPUs, nodes, option: Slurm's words, the cause, and what there is."""
    cases = [
        (["slurm.partition=btach"], ["did you mean batch?", "partition does not exist"]),
        (["slurm.partition=tiny"], ["tiny: up", "2 min", "lower `walltime`"]),
        (["resources.shard.gpus_per_node=64"], ["no node has the GPUs", "gpu_type"]),
        (["resources.shard.nodes=64"], ["more nodes or CPUs"]),
        (["slurm.extra=[--speed=9]"], ["--speed=9", "slurm.extra"]),
    ]
    for sets, parts in cases:
        said = desk.refused(5, *(word for one in sets for word in ("--set", one)))
        assert all(part in said for part in parts), said


def test_a_second_sbatch_that_fails_takes_the_first_job_with_it(desk: Desk, tmp_path: Path) -> None:
    """Slurm changed its mind between the question and the submission of the array."""
    wrapper = desk.home / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/bash\n"
        'case "$*" in *test-only*) ;; *shard.sbatch*) set -- --partition=gone "$@" ;; esac\n'
        'exec /usr/bin/sbatch "$@"\n'
    )
    wrapper.chmod(0o755)
    said = desk.refused(5, path=f"{wrapper.parent}:{PATH}")
    assert "the shard job was not submitted" in said
    assert "cancelled what was submitted before: " in said


def test_without_slurms_commands(desk: Desk) -> None:
    """The message says where to go; the scores of a run are read without them."""
    bare = desk.home / "bare"
    bare.mkdir()
    (bare / "bash").symlink_to("/bin/bash")
    said = desk.refused(5, path=f"{Path(EVALHPC).parent}:{bare}")
    assert "Slurm is not available here" in said
    assert "--site local" in said


def test_what_the_user_may_not_read_or_write(desk: Desk) -> None:
    """A run directory, a checkpoint, another user's run: exit codes 6, 4 and 6."""
    closed = desk.home / "closed"
    closed.mkdir(mode=0o700)  # root's
    done = desk.submit(closed / "run")
    assert done.returncode == 6, done.stderr
    assert "Permission denied" in done.stderr
    assert "Permission denied" in desk.refused(4, "--model", closed / "model")
    done = desk.evalhpc("status", closed / "run")
    assert done.returncode == 6
    assert "no permission there" in done.stderr
    listed = desk.evalhpc("ls", "runs", "--root", desk.home)
    assert listed.returncode == 0, listed.stderr


def test_a_directory_that_slurm_cannot_name(desk: Desk) -> None:
    """A line break cannot stand in an sbatch option."""
    said = desk.refused(3, run="two\nlines")
    assert "line break" in said
    assert said.count("likely cause") == 1


@pytest.fixture(scope="module")
def ended(desk: Desk) -> dict[str, tuple[Path, CompletedProcess[str]]]:
    """Whole runs with --wait, all at once: name → directory, and what they ended with."""
    runs: dict[str, tuple[Path, list[object]]] = {
        "odd": (desk.home / "a b'c\"d $(touch gone) `id` %j é;#", []),
        "fragile": (desk.home / "fragile", [
            "--shards", 2, "--set", "deploy.extra_args=[fragile]", "--set", "run.unit_size=1",
        ]),
        "python": (
            desk.home / "python", ["--set", "python=/nonexistent/python", "--no-preflight"]
        ),
        "die": (desk.home / "die", ["--set", "deploy.extra_args=[die]"]),
    }  # fmt: skip
    with ThreadPoolExecutor() as pool:
        waiting = {
            name: pool.submit(desk.submit, run, *words, "--wait")
            for name, (run, words) in runs.items()
        }
        return {name: (runs[name][0], future.result()) for name, future in waiting.items()}


Ended = dict[str, tuple[Path, CompletedProcess[str]]]


def test_an_odd_name_of_the_run_directory_reaches_no_shell(desk: Desk, ended: Ended) -> None:
    """Spaces, quotes, `$()`, `%j` and Unicode: the run completes, and makes nothing else."""
    run, done = ended["odd"]
    assert done.returncode == 0, done.stderr
    assert (run / "certificate.json").is_file()
    assert list(desk.home.rglob("gone")) == []


def test_a_replica_that_dies_in_the_middle_costs_no_answer(ended: Ended, desk: Desk) -> None:
    """Others, or the next round, answer what it held."""
    run, done = ended["fragile"]
    assert done.returncode == 0, done.stderr
    assert desk.evalhpc("verify", run).returncode == 0


def test_jobs_that_end_before_they_can_say_why(ended: Ended, desk: Desk) -> None:
    """Python is not there on the nodes: exit code 9, no score, and the logs say it."""
    run, done = ended["python"]
    assert done.returncode == 9
    assert "it is stalled" in done.stderr
    assert f"evalhpc logs {run}" in done.stderr
    assert "/nonexistent/python" in desk.evalhpc("logs", run).stdout
    assert desk.evalhpc("results", run).returncode == 9


def test_a_server_that_dies_while_it_loads(ended: Ended, desk: Desk) -> None:
    """The end of its log is in the message; no job goes on."""
    run, done = ended["die"]
    assert done.returncode == 7, done.stderr
    assert "OutOfMemoryError" in done.stderr
    assert "there is no score" in desk.evalhpc("results", run).stderr
    assert desk.queue() == []


# --- a full disk: a file system of 3 MiB, which each kind of job fills once -----------------------

#: Before its work a job fills the disk, once. What is said then finds room beside the first word
#: in its log.
_FILL = (
    "echo begun; case $0 in *{kind}.sbatch) [[ -e {disk}/{kind} ]] || {{ : >{disk}/{kind}; "
    "head -c 9M /dev/zero >{disk}/ballast-{kind}; }} 2>/dev/null || true;; esac"
)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, seen by every process here until the end."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_costs_no_answer(tmp_path: Path) -> None:
    """Submission leaves nothing on a full or too small one; planning and collector wait for room,
    and another round asks what a shard could not write down."""
    site = write_quick_site(tmp_path / "site", "local")
    model = write_hf(tmp_path / "tiny", tokenizer=False)
    with small_disk(tmp_path / "disk") as disk:
        ballast, run = disk / "ballast", disk / "run"
        setup = [_FILL.format(kind=kind, disk=disk) for kind in ("planning", "shard", "collect")]
        with site.open("a") as file:
            file.write("environment:\n  setup:\n")
            file.writelines(f"  - '{line}'\n" for line in setup)

        def evalhpc(*words: object) -> CompletedProcess[str]:
            command = [EVALHPC, *map(str, words)]
            return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

        words = ("submit", "--site", site, "--model", model, "--tasks", "lm-eval/ok", "--shards", 1)
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 8192))
        done = evalhpc(*words, "--run-dir", run)
        assert done.returncode == 6, done.stderr
        assert "No space left on device" in done.stderr
        assert not run.exists()
        ballast.unlink()
        done = evalhpc(*words, "--run-dir", run)
        assert done.returncode == 6, done.stderr
        assert "MiB free, and the run needs some" in done.stderr
        assert not run.exists()

        waiting = subprocess.Popen(
            [EVALHPC, *map(str, (*words, "--no-preflight", "--run-dir", run, "--wait"))],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        waits = "run.storage_wait)"
        for log, text in (
            ("planning-0", waits),
            ("shard-1-0", "No space left"),
            ("collect-1", waits),
        ):
            wait_until(partial(says, run / "logs" / f"{log}.log", text), timeout=60, what=log)
            assert "its jobs wait for room" in evalhpc("status", run).stdout
            (disk / f"ballast-{log.partition('-')[0]}").unlink()
        _, said = waiting.communicate(timeout=300)
        assert waiting.returncode == 0, said
        assert evalhpc("verify", run).returncode == 0


def says(log: Path, text: str) -> bool:
    """Whether a log has come to say that."""
    return log.is_file() and text in log.read_text()
