"""What explains a failure on a real cluster, and the site file that is made of one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from evalhpc.config.sites import load_site
from tests.integration.cluster import DevCluster, wait_until
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_hf

pytestmark = pytest.mark.slurm

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
PATH = f"{Path(EVALHPC).parent}:/usr/bin:/bin"


@dataclass(frozen=True)
class Place:
    """A home of the ordinary user with a quick site, and the command line on the login node."""

    cluster: DevCluster
    home: Path

    def evalhpc(self, *words: object, **env: str) -> CompletedProcess[str]:
        given = {"PATH": PATH, "HOME": str(self.home), "USER": "evaluser",
                 "EVALHPC_RUN_ROOT": str(self.home), **env}  # fmt: skip
        return self.cluster.exec([EVALHPC, *map(str, words)], cwd=self.home, env=given)

    def explain(self, name: object, **env: str) -> tuple[int, dict[str, Any]]:
        done = self.evalhpc("explain", name, "--json", **env)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def submit(self, run: str, task: str, *words: str) -> dict[str, int]:
        """Ids of the run's jobs by kind."""
        done = self.evalhpc("submit", "--site", self.home / "quick.yaml", "--model", "tiny",
                            "--tasks", f"lm-eval/{task}", "--run-dir", self.home / run,
                            *words)  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = (self.home / run / "jobs.jsonl").read_text().splitlines()
        return {job["kind"]: job["id"] for job in map(json.loads, lines)}


@pytest.fixture(scope="module")
def place(cluster: DevCluster) -> Iterator[Place]:
    home = cluster.home / f"explain-{os.getpid()}"
    write_quick_site(home, "devcluster")
    write_hf(home / "tiny", tokenizer=False)
    for path in (home, *home.rglob("*")):
        os.chown(path, cluster.home.stat().st_uid, cluster.home.stat().st_gid)
        os.utime(path, (1, 1))
    yield Place(cluster, home)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def failed(place: Place) -> dict[str, int]:
    """A run whose harness knows no such task; Slurm cancels its shards."""
    jobs = place.submit("failed", "fails", "--shards", "2")

    listed = ["squeue", "--noheader", f"--jobs={','.join(map(str, jobs.values()))}"]

    def over() -> bool:
        return place.cluster.exec(listed).stdout == ""

    wait_until(over, timeout=60, what="the run has failed")
    return jobs


def test_a_failed_run_is_explained_by_the_harness(place: Place, failed: dict[str, int]) -> None:
    """The line of its log comes first; what Slurm made of the rest of the chain comes last."""
    code, found = place.explain(place.home / "failed")
    assert (code, found["state"], found["scheduler"]) == (0, "failed", "")
    first = found["findings"][0]
    assert (first["about"], first["line"]) == ("harness", 1)
    assert first["what"] == "ValueError: Tasks not found: fails"
    assert first["file"].endswith("passes/0/fails/harness.log")
    causes = [finding["cause"] for finding in found["findings"]]
    assert "never started: a job that it waited for failed" in causes
    said = place.evalhpc("status", place.home / "failed").stdout
    assert "explained  harness: the harness knows no task of that name" in said
    text = place.evalhpc("explain", place.home / "failed").stdout
    assert f"then: evalhpc resume {place.home / 'failed'}" in text


def test_a_job_is_explained_by_its_number(place: Place, failed: dict[str, int]) -> None:
    """Its run is found by the runs' records, or else by where the job starts."""
    planning = failed["planning"]
    for variables in ({}, {"EVALHPC_RUN_ROOT": "/nowhere"}):
        code, found = place.explain(planning, **variables)
        assert (code, found["job"]) == (0, str(planning))
        assert found["run_dir"] == str(place.home / "failed")
        assert found["findings"][0]["about"] == "harness"
        assert f"job {planning} on n" in found["findings"][-1]["what"]
    code, found = place.explain(f"{failed['shard']}_1")
    assert [finding["what"] for finding in found["findings"]] == [
        f"job {failed['shard']}_1: CANCELLED"
    ]


def test_without_a_controller_the_files_explain(place: Place, failed: dict[str, int]) -> None:
    """The cause is the same, and it is said that Slurm was not heard."""
    shown = place.cluster.exec(["cat", "/etc/slurm/slurm.conf"], check=True).stdout
    conf = place.home / "slurm.conf"
    conf.write_text(shown + "SlurmctldPort=1\n")
    conf.chmod(0o644)
    code, found = place.explain(failed["planning"], SLURM_CONF=str(conf))
    assert code == 0
    assert "Unable to contact slurm controller" in found["scheduler"]
    assert found["findings"][0]["about"] == "harness"


def test_a_job_that_waits_says_for_what(place: Place) -> None:
    """A held job does not start by itself; that the others wait for it is no cause of its own."""
    jobs = place.submit("held", "ok", "--set", "slurm.extra=[--hold]")
    code, found = place.explain(place.home / "held")
    assert code == 0
    first = found["findings"][0]
    assert (first["cause"], first["remedy"]) == (
        "held by its owner", f"scontrol release {jobs['planning']}"
    )  # fmt: skip
    assert place.evalhpc("cancel", place.home / "held").returncode == 0


def test_a_job_of_no_run_is_explained_by_slurm_alone(place: Place) -> None:
    """Killed by a signal; and a number that nobody knows is an error."""
    script = ["sbatch", "--parsable", "--wait", "--output=/dev/null", "--wrap", "kill -9 $$"]
    done = place.cluster.exec(script, cwd=place.home)
    code, found = place.explain(done.stdout.strip())
    assert (code, found["run_dir"]) == (0, "")
    assert found["findings"][0]["cause"].startswith("killed (signal 9)")
    unknown = place.evalhpc("explain", "999999")
    assert unknown.returncode == 2
    assert "no run that is known here has a job 999999" in unknown.stderr


def test_a_job_that_was_submitted_by_hand_is_its_runs(place: Place, failed: dict[str, int]) -> None:
    """Only Slurm knows where it starts; its log is found by its number."""
    run = place.home / "failed"
    script = ["sbatch", "--parsable", "--wait", "--output=logs/shard-%j.log", "--wrap",
              "echo 'OSError: [Errno 122] Disk quota exceeded: /h'; exit 6"]  # fmt: skip
    number = place.cluster.exec(script, cwd=run).stdout.strip()
    code, found = place.explain(number)
    assert (code, found["job"], found["run_dir"]) == (0, number, str(run))
    first = found["findings"][0]
    assert (first["about"], first["line"]) == ("quota", 1)
    assert first["file"] == str(run / "logs" / f"shard-{number}.log")


def test_a_site_file_is_made_of_the_cluster_and_fits_it(place: Place) -> None:
    """What was found passes `site check`; nothing is overwritten; what is open is listed."""
    folder = place.home / "sites"
    file = folder / "found.yaml"
    words = ["site", "init", "found", "--output", file]
    done = place.evalhpc(*words)
    assert done.returncode == 0, done.stderr
    assert f"next: evalhpc site check {file}" in done.stdout
    assert "open: run_root" in done.stderr
    site = load_site(str(file), {}).site
    assert (site.slurm.partition, site.slurm.max_array_size) == ("batch", 10001)
    shard = site.resources.shard
    assert (shard.gpus_per_node, shard.cpus, shard.walltime) == (8, 32, "4:00:00")
    assert place.evalhpc("site", "check", file).returncode == 0
    assert place.evalhpc(*words).returncode == 2
    assert place.evalhpc(*words, "--force", "--partition", "tiny").returncode == 0
    assert load_site(str(file), {}).site.resources.shard.walltime == "0:02:00"
    wrong = place.evalhpc(*words, "--force", "--partition", "tny")
    assert "perhaps you meant 'tiny'?" in wrong.stderr
