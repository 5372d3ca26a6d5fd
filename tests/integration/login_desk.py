"""An ordinary user at the login node of the dev cluster, with a quick site and a tiny model."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from tests.integration.cluster import DevCluster
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_hf

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
PATH = f"{Path(EVALHPC).parent}:/usr/bin:/bin"


@dataclass(frozen=True)
class Desk:
    """The ordinary user's home with a quick site, and their command line on the login node."""

    cluster: DevCluster
    home: Path
    program: tuple[str, ...] = (EVALHPC,)

    def evalhpc(self, *words: object, path: str = PATH) -> CompletedProcess[str]:
        command = [*self.program, *map(str, words)]
        return self.cluster.exec(command, cwd=self.home, env={"PATH": path}, timeout=400)

    def submit(self, run: Path, *words: object, path: str = PATH) -> CompletedProcess[str]:
        words = ("--site", self.home / "quick.yaml", "--tasks", "lm-eval/ok", *words)
        if "--model" not in words:
            words = (*words, "--model", self.home / "tiny")
        return self.evalhpc("submit", "--run-dir", run, *words, path=path)

    def refused(self, code: int, *words: object, path: str = PATH, run: str = "refused") -> str:
        """The message of a submission that leaves neither a directory nor a job."""
        done = self.submit(self.home / run, *words, path=path)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr.count("error: ") == 1
        assert "Traceback" not in done.stderr
        assert not (self.home / run).exists()
        assert self.queue() == []
        return done.stderr

    def queue(self) -> list[str]:
        """Names of the jobs of runs of this file; other tests have jobs too."""
        listed = self.cluster.exec(["squeue", "--noheader", "--format=%Z"], check=True).stdout
        return [line for line in listed.splitlines() if str(self.home) in line]


@contextmanager
def desk_in(cluster: DevCluster, name: str) -> Iterator[Desk]:
    """A desk in a folder of its own, which goes with it."""
    home = cluster.home / f"{name}-{os.getpid()}"
    write_quick_site(home, "devcluster")
    write_hf(home / "tiny", tokenizer=False)
    for path in (home, *home.rglob("*")):
        os.chown(path, cluster.home.stat().st_uid, cluster.home.stat().st_gid)
        os.utime(path, (1, 1))
    yield Desk(cluster, home)
    shutil.rmtree(home)
