"""RunPaths: the one class that knows the names inside a run directory.

    RUN/
      run.yaml provenance.json certificate.json report.md failure.json   jobs.jsonl collect.lock
      failures.jsonl  requests that were given up for good
      scripts/        planning.sbatch shard.sbatch collect.sbatch server[-<endpoint>].sh
                      harness-<benchmark>.sh
      tasks/          task definitions and data that the run brings along
      passes/<n>/<benchmark>/       output/ harness.log misses.frames outcome.json progress.json
                      unsettled.txt
      plan/<round>/   requests.frames units.json
      plan/queue/     <attempt>.frames: what pass 0 waits for (--miss wait)
      plan/slices.json, slices/<benchmark>/   <slice>.json <slice>-<attempt>/ check/: who runs
                      the harness on which documents (--shard-by samples)
      leases/<round>/ <unit>.lease <unit>.done  workers/<worker>.json  stopped-<resumes>.json
      leases/collector/   the same for the run's collectors, of which one is at work
      excluded_nodes.json   nodes that the next round does without
      journals/       <round>-<shard>-<attempt>.journal (and .failures.jsonl)
      seals/          <n>/journals.json: how far each counted; lost-*.json: answers that are gone
      endpoints/ logs/
      store.h5
      results/        results.yml samples.h5 requests.h5 <benchmark>/ (the harness's own files)

Round r answers the misses of pass r-1; pass r is the one after round r.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_FAILURES = ".failures.jsonl"
_ATTEMPT = re.compile(rf"(\d+)-(\d+)-(\d+)(?:\.journal|{re.escape(_FAILURES)})")


class Attempt(NamedTuple):
    """What the name of a journal, or of the failures beside it, says."""

    round: int
    shard: int
    attempt: int


class RunPaths:
    """Names inside one run directory; nothing here touches the file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = root / "run.yaml"
        self.provenance = root / "provenance.json"
        self.certificate = root / "certificate.json"
        self.failure = root / "failure.json"
        self.failures = root / "failures.jsonl"
        self.report = root / "report.md"
        self.jobs = root / "jobs.jsonl"
        self.cancelled = root / "cancelled"
        self.excluded_nodes = root / "excluded_nodes.json"
        self.control_lock = root / "control.lock"
        self.collect_lock = root / "collect.lock"
        self.scripts = root / "scripts"
        self.tasks = root / "tasks"
        self.passes = root / "passes"
        self.plan = root / "plan"
        self.slices = root / "slices"
        self.slice_list = self.plan / "slices.json"
        self.leases = root / "leases"
        self.journals = root / "journals"
        self.seals = root / "seals"
        self.endpoints = root / "endpoints"
        self.logs = root / "logs"
        self.store = root / "store.h5"
        self.results = root / "results"
        self.results_yml = self.results / "results.yml"
        self.samples = self.results / "samples.h5"
        self.requests = self.results / "requests.h5"

    def folders(self) -> tuple[Path, ...]:
        """The folders that a new run directory has."""
        return (self.scripts, self.tasks, self.passes, self.plan, self.leases,
                self.journals, self.endpoints, self.logs, self.results)  # fmt: skip

    def script(self, kind: str) -> Path:
        """`planning`, `shard` or `collect`: a batch script; it takes the round as its argument."""
        return self.scripts / f"{kind}.sbatch"

    def server_script(self, endpoint: str = "model") -> Path:
        return self.scripts / f"server{_suffix(endpoint)}.sh"

    def harness_script(self, benchmark: str) -> Path:
        return self.scripts / f"harness-{benchmark}.sh"

    def pass_dir(self, number: int, benchmark: str) -> Path:
        return self.passes / str(number) / benchmark

    def pass_output(self, number: int, benchmark: str) -> Path:
        return self.pass_dir(number, benchmark) / "output"

    def harness_log(self, number: int, benchmark: str) -> Path:
        return self.pass_dir(number, benchmark) / "harness.log"

    def misses(self, number: int, benchmark: str) -> Path:
        return self.pass_dir(number, benchmark) / "misses.frames"

    def outcome(self, number: int, benchmark: str) -> Path:
        return self.pass_dir(number, benchmark) / "outcome.json"

    def unsettled(self, number: int, benchmark: str) -> Path:
        return self.pass_dir(number, benchmark) / "unsettled.txt"

    def round_plan(self, round_: int) -> Path:
        return self.plan / str(round_) / "requests.frames"

    def round_units(self, round_: int) -> Path:
        return self.plan / str(round_) / "units.json"

    def queue(self, attempt: int) -> Path:
        return self.plan / "queue" / f"{attempt:03d}.frames"

    def slice_documents(self, benchmark: str, number: int) -> Path:
        return self.slices / benchmark / f"{number}.json"

    def slice_attempt(self, benchmark: str, number: int, attempt: int) -> Path:
        """Folder of output/ harness.log further.frames outcome.json."""
        return self.slices / benchmark / f"{number}-{attempt}"

    def slice_check(self, benchmark: str) -> Path:
        return self.slices / benchmark / "check"

    def round_leases(self, round_: int) -> Path:
        return self.leases / str(round_)

    def round_stopped(self, round_: int, resumes: int) -> Path:
        return self.round_leases(round_) / f"stopped-{resumes}.json"

    @property
    def resume_claim(self) -> Path:
        # One name for all times: what a resume records first must not lead to another.
        return self.leases / "resume.claim"

    @property
    def collector_leases(self) -> Path:
        return self.leases / "collector"

    def journal(self, round_: int, shard: int, attempt: int) -> Path:
        # Zero-padded, so that the order of names is the order of rounds.
        return self.journals / f"{round_:04d}-{shard:05d}-{attempt:03d}.journal"

    def shard_failures(self, round_: int, shard: int, attempt: int) -> Path:
        return self.journal(round_, shard, attempt).with_suffix(_FAILURES)

    def failures_pattern(self, round_: int | None = None) -> str:
        """Matches what `shard_failures` names in `journals`, of one round or of all."""
        return f"{'*' if round_ is None else f'{round_:04d}-*'}{_FAILURES}"

    def endpoint(self, round_: int, shard: int, endpoint: str = "model") -> Path:
        return self.endpoints / f"{round_:04d}-{shard:05d}{_suffix(endpoint)}.json"

    def deployment(self, job: int) -> Path:
        return self.endpoints / f"deployment-{job}.json"

    @property
    def deployment_call(self) -> Path:
        return self.endpoints / "call"

    @property
    def token_name(self) -> Path:
        """Names the token of the deployment jobs; the token itself is in the user's home."""
        return self.endpoints / "token-name"

    def server_log(self, round_: int, shard: int, endpoint: str = "model", copy: int = 0) -> Path:
        copies = f".{copy}" if copy else ""
        return self.logs / f"server{_suffix(endpoint)}-{round_}-{shard}{copies}.log"

    def pass_progress(self, number: int, benchmark: str) -> Path:
        return self.pass_dir(number, benchmark) / "progress.json"

    def log(self, name: str) -> Path:
        return self.logs / name


def attempt_of(path: Path) -> Attempt | None:
    """Whose journal or failures these are; None for a file of another name."""
    found = _ATTEMPT.fullmatch(path.name)
    return Attempt(*map(int, found.groups())) if found else None


def _suffix(endpoint: str) -> str:
    """Names of the model under test are plain, those of further endpoints bear theirs."""
    return "" if endpoint == "model" else f"-{endpoint}"
