"""The short check before each submission: what would fail minutes later, on every node.

It takes what can be asked here within a second or two. `evalhpc site check --node` asks a compute
node. Images, mounts and what Slurm takes are checked by the submission itself (launch.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import evalhpc
from evalhpc import process
from evalhpc.core.quoting import shell_word
from evalhpc.core.rendering import batch_job, batch_kinds
from evalhpc.errors import ConfigError, StorageError
from evalhpc.harness.catalogue import brings_data
from evalhpc.models.runspec import RunSpec
from evalhpc.models.stage import StageRecord
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import default_partition
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.secrets import refuse_bad_file
from evalhpc.workflow.submit.wish import Wish

#: A run without answers: scripts, logs, plans, locks.
_LEAST_BYTES, _LEAST_FILES, _FILES_PER_SHARD = 16 << 20, 200, 12
#: A request and its answer in plan, journal, store, samples and the harness's own files.
_BYTES_PER_REQUEST = 32 << 10
#: Where nothing says how many requests a benchmark has.
_REQUESTS = 100
_PYTHON_SECONDS = 60.0
#: Most nodes have these to themselves.
_NODE_LOCAL = ("/tmp", "/dev/shm", "/run")
_SKIP = "--no-preflight submits anyway"


def preflight(run: Run, environ: Mapping[str, str], wish: Wish | None = None) -> list[str]:
    """Warnings; raises the EvalhpcError of the first check that fails.

    `wish`: what the run was made from, to name the command that stages its data.
    """
    spec = run.spec
    refuse_other_python(spec.python, environ)
    for name, harness in spec.harnesses.items():
        if harness.python is not None:
            refuse_no_program(harness.python, f"pythons.{name}")
    refuse_bad_file(spec.site.environment.secrets)
    records = _records(spec)
    refuse_no_space(run.paths.root, *needed(spec, records))
    warnings = list(_unstaged(spec, records, _stage_command(spec, wish)))
    if spec.site.scheduler == "slurm":
        slurm = Slurm(env=environ)
        slurm.available()
        warnings += of_cluster(run, slurm)
    return warnings


def of_cluster(run: Run, slurm: Slurm) -> Iterator[str]:
    """Warnings about what the run's jobs will meet."""
    yield from _node_local(run)
    yield from waiting(run, slurm)


def refuse_no_program(path: str, key: str) -> None:
    """Raise ConfigError unless `path` is a program here."""
    if not os.access(path, os.X_OK) or Path(path).is_dir():
        raise ConfigError(
            f"{key}: {path} is no program on this machine",
            cause="a misspelt path, an environment that was removed, or one that only compute "
            "nodes see",
            hint=f"ls -l {path}; evalhpc site check SITE --node asks a node; {_SKIP}",
        )


def refuse_other_python(path: str, environ: Mapping[str, str]) -> str:
    """The version of evalhpc that this interpreter runs; ConfigError unless it is our own."""
    refuse_no_program(path, "python")
    if Path(path) == Path(sys.executable):
        return evalhpc.__version__
    words = [path, "-c", "import evalhpc; print(evalhpc.__version__)"]
    env = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
    done = process.run(words, env=env, timeout=_PYTHON_SECONDS, check=False)
    found = done.stdout.strip()
    if done.returncode == 0 and found == evalhpc.__version__:
        return found
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    wrong = f"has evalhpc {found}" if done.returncode == 0 else f"cannot import evalhpc: {said}"
    raise ConfigError(
        f"the interpreter of the jobs, {path}, {wrong}; this is {evalhpc.__version__}",
        cause="`python` in the site file names another environment",
        hint=f"{path} -m pip install evalhpc=={evalhpc.__version__}, or submit with that "
        f"environment's own evalhpc; {_SKIP}",
    )


def needed(spec: RunSpec, records: Mapping[str, StageRecord | None]) -> tuple[int, int]:
    """Bytes and files that a run takes, roughly: a benchmark's requests are known once staged."""
    requests = 0
    for benchmark in spec.benchmarks:
        record = records.get(benchmark.name)
        known = _REQUESTS if record is None else record.requests
        requests += min(known, benchmark.params.limit or known)
    size = _LEAST_BYTES + requests * _BYTES_PER_REQUEST
    return size, _LEAST_FILES + spec.run.shards * _FILES_PER_SHARD


def free(folder: Path) -> tuple[int, int | None]:
    """Bytes and files that an ordinary user may still add; None where files are not counted."""
    with storage_errors(folder):
        found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


def refuse_no_space(folder: Path, size: int, files: int) -> None:
    """Raise StorageError unless the file system has room for so many bytes and files."""
    room, entries = free(folder)
    if room < size:
        lacks = f"{room >> 20} MiB free, and the run needs some {size >> 20}"
    elif entries is not None and entries < files:
        lacks = f"{entries} files free (inodes), and the run needs some {files}"
    else:
        return
    raise StorageError(
        f"the file system of {folder} has {lacks}",
        cause="old runs and caches fill it",
        hint=f"df -h {folder.parent}; df -i {folder.parent}; remove what is not needed, or "
        f"--set run_root=FOLDER; {_SKIP}",
    )


def _records(spec: RunSpec) -> dict[str, StageRecord | None]:
    if spec.site.stage_dir is None:
        return {}
    folder = StageFolder(Path(spec.site.stage_dir))
    return {benchmark.name: folder.read(benchmark) for benchmark in spec.benchmarks}


def _unstaged(
    spec: RunSpec, records: Mapping[str, StageRecord | None], command: str
) -> Iterator[str]:
    """Warnings about benchmarks that are not staged; errors where nodes have no internet."""
    wanted = [b for b in spec.benchmarks if not brings_data(b)]
    if not wanted or (spec.site.stage_dir is None and not spec.site.offline):
        return
    if spec.site.stage_dir is None:
        raise ConfigError(
            f"site {spec.site.name!r} is offline, and has no folder for staged data",
            cause="`offline: true` without stage_dir; data sets must come from somewhere",
            hint=f"set stage_dir in the site file (docs/stage.md), then evalhpc stage; {_SKIP}",
        )
    folder = StageFolder(Path(spec.site.stage_dir))
    now = folder.by_name() if any(records.values()) else {}
    moved: dict[str, str] = {}  # entry → a benchmark that may read it
    for benchmark in wanted:
        record = records.get(benchmark.name)
        lost = record.lost(now) if record is not None else ()
        if record is not None and not lost:
            moved.update(dict.fromkeys(record.moved(now), benchmark.name))
            continue
        what = f"the data sets of {benchmark.name} are not staged on site {spec.site.name}"
        if lost:
            what = (
                f"{lost[0]} is gone from {folder.root}, or cut, since {benchmark.name} was staged"
            )
        if spec.site.offline:
            cause = "the nodes have no internet (`offline` in the site file)"
            raise ConfigError(what, cause=cause, hint=f"{command}; {_SKIP}")
        yield f"{what}: {command}"
    for name, reader in moved.items():
        yield (
            f"{name} is of another version than when {reader} was staged, as after another staging "
            f"in {folder.root}; if {reader} reads it: {command}"
        )


def _node_local(run: Run) -> Iterator[str]:
    """A warning about a run directory that most likely each node has one of its own of."""
    found = [folder for folder in _NODE_LOCAL if run.paths.root.is_relative_to(folder)]
    if found:
        site = run.spec.site.name
        yield (
            f"the run directory is in {found[0]}, which most clusters keep apart on each node: its "
            f"jobs would end at once, without a log; --run-dir, or evalhpc site check {site} --node"
        )


def _stage_command(spec: RunSpec, wish: Wish | None) -> str:
    if wish is None:
        return f"evalhpc stage --site {spec.site.name}, with the suite and settings of the run"
    words = ["evalhpc", "stage", "--site", wish.site or spec.site.name]
    named = {"--suite": wish.suite, "--tasks": wish.tasks, "--model": wish.model}
    words += [word for pair in named.items() if pair[1] for word in pair if word]
    words += [word for text in wish.sets for word in ("--set", text)]
    return " ".join(map(shell_word, words))


def waiting(run: Run, slurm: Slurm) -> Iterator[str]:
    """Partitions that take jobs, but start none for now."""
    known = {partition.name: partition for partition in slurm.partitions()}
    default = default_partition(known.values())
    jobs = (batch_job(run.spec, str(run.paths.root), kind) for kind in batch_kinds(run.spec))
    unnamed = default.name if default else ""
    for name in sorted({job.partition or unnamed for job in jobs}):
        if name in known and known[name].state != "UP":
            yield f"partition {name} is {known[name].state}: jobs wait; sinfo -p {name}"
