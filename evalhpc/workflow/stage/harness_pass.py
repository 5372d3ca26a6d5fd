"""One pass of a harness over stubs: a process of its own, without a network where wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from evalhpc import process
from evalhpc.models.stage import StagePass
from evalhpc.models.suite import Benchmark
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run

#: Without a network of its own: this command, where the machine allows it.
ISOLATED = ("unshare", "--map-root-user", "--net")
_LOOK_SECONDS = 0.05


def can_isolate() -> bool:
    """Whether this machine lets an ordinary user have a network namespace."""
    return process.run([*ISOLATED, "true"], check=False, timeout=30).returncode == 0


def run_pass(
    run: Run,
    benchmark: Benchmark,
    number: int,
    environ: Mapping[str, str],
    *,
    isolated: bool,
    seconds: float = float("inf"),
) -> StagePass | None:
    """What the pass came to; None where its process ended, or was ended, before it could say.

    It ends with this process. `seconds`: how long it may take.
    """
    words = [
        *(ISOLATED if isolated else ()),
        *(sys.executable, "-m", "evalhpc", "node", "stage", "--run-dir", run.paths.root),
        *("--benchmark", benchmark.name, "--pass", number),
        *(("--isolated",) if isolated else ()),
    ]
    own, _ = logs(run, benchmark, number)
    child = process.start([str(word) for word in words], log=own, env=environ, tied=True)
    deadline = time.monotonic() + seconds
    try:
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
    finally:
        process.stop(child)
    outcome = run.paths.outcome(number, benchmark.name)
    return read_record(outcome, StagePass) if outcome.is_file() else None


def logs(run: Run, benchmark: Benchmark, number: int) -> tuple[Path, Path]:
    """What the pass said, and what its harness did."""
    own = run.paths.logs / f"{benchmark.name}-{number}.log"
    return own, run.paths.harness_log(number, benchmark.name)


def joined_logs(run: Run, benchmark: Benchmark, number: int) -> bytes:
    """Both, one after the other."""
    paths = logs(run, benchmark, number)
    return b"".join(path.read_bytes() for path in paths if path.is_file())
