"""Whether benchmarks load their data on this node: their harnesses run over stubs."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from evalhpc.errors import StorageError
from evalhpc.models.node_check import NodeLoaded, NodeWish
from evalhpc.models.suite import Benchmark
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.run import Run, open_run
from evalhpc.workflow.stage.errors import load_failed
from evalhpc.workflow.stage.harness_pass import can_isolate, joined_logs, run_pass

log = logging.getLogger(__name__)

#: Harnesses at once, as most of their time is start-up.
_AT_ONCE = 4
#: With less time than this left, none is begun.
_LEAST_SECONDS = 5.0
_PASS = 1


def load_all(wish: NodeWish, deadline: float) -> tuple[NodeLoaded, ...]:
    """One for each benchmark, in order; `deadline`: by time.monotonic, for all of them."""
    isolated = bool(wish.loads) and wish.isolate and can_isolate()
    runs = [(open_run(Path(load.run_dir)), load.benchmarks) for load in wish.loads]
    pairs = [(run, run.benchmark(name)) for run, names in runs for name in names]
    load = partial(_loaded, isolated=isolated, deadline=deadline)
    with ThreadPoolExecutor(min(_AT_ONCE, len(os.sched_getaffinity(0)))) as pool:
        return tuple(pool.map(lambda pair: load(*pair), pairs))


def _loaded(run: Run, benchmark: Benchmark, *, isolated: bool, deadline: float) -> NodeLoaded:
    begun = time.monotonic()
    if deadline - begun < _LEAST_SECONDS:
        return NodeLoaded(benchmark=benchmark.name, tried=False)
    told = run_pass(run, benchmark, _PASS, os.environ, isolated=isolated, seconds=deadline - begun)
    seconds = round(time.monotonic() - begun, 1)
    if told is not None and told.exit_code == 0 and told.asked:
        return NodeLoaded(
            benchmark=benchmark.name, asked=told.asked, isolated=isolated, seconds=seconds
        )
    site, late = run.spec.site.name, told is None and time.monotonic() >= deadline
    task = f"{benchmark.harness}/{benchmark.task}"
    if late:
        why = f"no end within {seconds:.0f} s"
        hint = f"evalhpc site check {site} --node --tasks {task} gives it more time"
    else:
        path, kept = _log(run, benchmark)
        error = load_failed(run.spec.site, benchmark, told, path)
        why, hint = f"{error.what}; {error.cause}", error.hint + (f"; log: {path}" if kept else "")
    return NodeLoaded(
        benchmark=benchmark.name, isolated=isolated, seconds=seconds, why=why, hint=hint
    )


def _log(run: Run, benchmark: Benchmark) -> tuple[Path, bool]:
    """What was said, in a file; and whether that one stays when the check is over."""
    text = joined_logs(run, benchmark, _PASS)
    if run.spec.site.stage_dir is not None:
        path = StageFolder(Path(run.spec.site.stage_dir)).log(benchmark)
        try:
            with storage_errors(path):
                path.write_bytes(text)
        except StorageError as error:
            log.info("%s", error)  # nodes may only read what is staged
        else:
            return path, True
    path = run.paths.logs / f"{benchmark.name}.log"
    with storage_errors(path):
        path.write_bytes(text)
    return path, False
