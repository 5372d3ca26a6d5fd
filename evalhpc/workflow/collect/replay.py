"""`evalhpc verify --replay`: the harness once more over the recorded answers, and a comparison."""

from __future__ import annotations

import tempfile
from pathlib import Path

from evalhpc.core.acceptance import failure_reason, verdict
from evalhpc.core.results import HarnessOutput
from evalhpc.errors import HarnessError, IntegrityError
from evalhpc.harness.readers import read_output
from evalhpc.paths import RunPaths
from evalhpc.workflow.passes.passes import run_pass
from evalhpc.workflow.record.run import Run

#: What a pass reads of a run; the rest of the scratch directory is its own.
_SHARED = ("store.h5", "plan", "seals", "scripts", "tasks", "journals", "jobs.jsonl")
_PASS = 1


def replay(run: Run) -> str:
    """Run every harness again, without a model; raises IntegrityError if a score differs.

    Nothing is written into the run directory.
    """
    with tempfile.TemporaryDirectory(prefix="evalhpc-replay-") as scratch:
        again = Run(RunPaths(Path(scratch)), run.spec, run.hash)
        for name in _SHARED:
            (again.paths.root / name).symlink_to(run.paths.root / name)
        for outcome in run_pass(again, _PASS):
            if verdict(outcome) != "final":
                what, cause, hint = failure_reason(outcome)
                raise HarnessError(f"the replay is not final: {what}", cause=cause, hint=hint)
        for benchmark in run.spec.benchmarks:
            reader = run.spec.harnesses[benchmark.harness].results
            published = read_output(reader, run.paths.results / benchmark.name)
            replayed = read_output(reader, again.paths.pass_output(_PASS, benchmark.name))
            _compare(run, benchmark.name, published, replayed)
    return f"{len(run.spec.benchmarks)} benchmarks, the same scores and samples"


def _compare(run: Run, name: str, published: HarnessOutput, replayed: HarnessOutput) -> None:
    scores = (published.tasks, published.groups) == (replayed.tasks, replayed.groups)
    if not scores or _samples(published) != _samples(replayed):
        raise IntegrityError(
            f"the replay of {name} gives other {'samples' if scores else 'scores'}",
            cause="another version of the harness, of its data or of a library than in the run",
            hint=f"compare the packages in {run.paths.provenance} with: pip freeze",
        )


def _samples(output: HarnessOutput) -> dict[str, bytes]:
    return {
        task: source if isinstance(source, bytes) else source.read_bytes()
        for task, source in output.samples.items()
    }
