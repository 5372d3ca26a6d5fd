"""One benchmark's harness, unmodified, against a gateway of ours; and what came up meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evalhpc import process
from evalhpc.core.acceptance import TIMED_OUT, TOO_MUCH_OUTPUT
from evalhpc.core.bounded_stream import BoundedStream
from evalhpc.core.identity import Answer, Request
from evalhpc.core.masking import SHORTEST_IN_DATA, Mask, MaskedStream, mask_of, secret_values
from evalhpc.gateway.app import Forward, PassCounts, PassGateway
from evalhpc.gateway.switchboard import Switchboard, base_path
from evalhpc.gateway.unkeyed import Unkeyed
from evalhpc.http.server import HttpServer
from evalhpc.models.suite import MODEL_ENDPOINT, Benchmark
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.storage.outputs import Bounds, excess
from evalhpc.storage.redaction import redact
from evalhpc.storage.unpacking import Budget
from evalhpc.workflow.record.run import Run

if TYPE_CHECKING:
    import subprocess  # for an annotation: only `process` runs commands

log = logging.getLogger(__name__)

_LOG_TAIL = 15
_TAIL_BYTES = 16384
_SHOWN = 300  # characters
#: Seconds between two looks at what a harness has left so far; a long look makes it times as many.
_LOOK, _LOOK_SHARE = 2.0, 20
#: How the lines of a Python traceback begin, but for its last, which says what went wrong.
_FRAMES = ("Traceback (most recent call last)", "  File ", "    ")


@dataclass(frozen=True)
class Known:
    """What the gateway answers from, and where what it lacks goes."""

    lookup: Callable[[bytes], Answer | None]
    record_miss: Callable[[Request], object]
    forward: Forward | None = None
    failed: Mapping[bytes, str] = field(default_factory=dict)  # key → why it was given up for good


@dataclass(frozen=True)
class Place:
    """Where one run of the harness works; `output` is there and empty."""

    output: Path
    log: Path
    progress: Path | None = None  # gets the counts so far, once a second
    port: int = 0  # of the gateway; 0: any free one
    env: Mapping[str, str] = field(default_factory=dict)  # on top of what every harness is given
    asked: Callable[[], int] = int  # bytes of its questions so far, which count as what it leaves


@dataclass(frozen=True)
class Ended:
    """What one run of a harness came to."""

    exit_code: int
    counts: PassCounts
    used: set[bytes]  # keys of the answers that it was given
    seconds: float


async def run_harness(run: Run, benchmark: Benchmark, known: Known, place: Place) -> Ended:
    """Run the benchmark's script to its end."""
    started = time.monotonic()
    counts, used = PassCounts(), set[bytes]()
    token = secrets.token_hex(24)
    hidden = [*secret_values(os.environ).values(), token]
    server = HttpServer()
    gateways = Unkeyed(_gateways(run, benchmark, known, counts, used), hidden)
    port = await server.start(gateways, port=place.port, token=token)
    bounds = output_bounds(run)
    too_much = ""
    try:
        origin = f"http://127.0.0.1:{port}"
        code = await _harness(run, benchmark, place, _variables(run, origin, token), counts)
    finally:
        await server.close()
        # Also after a harness that failed: its files stay for people to look at.
        mask = Mask(hidden, shortest=SHORTEST_IN_DATA)
        too_much = await asyncio.to_thread(_take_in, place, bounds, mask)
    code = TOO_MUCH_OUTPUT if too_much else code
    return Ended(code, counts, used, round(time.monotonic() - started, 3))


def output_bounds(run: Run) -> Bounds:
    """What each harness of the run may leave."""
    return Bounds(int(run.spec.run.max_output * 2**30), run.spec.run.max_output_files)


def log_tail(path: Path) -> tuple[str, ...]:
    """The last lines of a harness's log that tell something."""
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip()]
    # Frames say nothing to a user; the whole log is a command away.
    told = [line for line in lines if not line.startswith(_FRAMES)]
    return tuple((told or lines)[-_LOG_TAIL:])


def _take_in(place: Place, bounds: Bounds, mask: Mask) -> str:
    """Remove an output that goes beyond its bounds, and say how; else take the secrets out."""
    said = _excess(place, bounds)
    if said:
        log.error("the harness left %s: its output is removed", said)
        with storage_errors(place.output), place.log.open("a") as file:
            file.write(f"\nevalhpc: it left {said}\n")
        remove_output(place.output)
        return said
    for name in redact(place.output, mask, Budget(bounds.bytes)):
        log.warning("the harness wrote a secret into %s: asterisks stand there now", ascii(name))
    return ""


def _excess(place: Place, bounds: Bounds) -> str:
    """How the harness goes beyond its bounds, with what it asked."""
    return excess(place.output, bounds, besides=place.asked())


def remove_output(output: Path) -> None:
    """Leave it empty, whatever is in it; raises StorageError."""
    # Not shutil.rmtree, which gives up in folders that lie a thousand deep.
    done = process.run(["rm", "-rf", "--", str(output)], check=False)
    if done.returncode:
        log.warning("not all of %s could be removed: %s", output, done.stderr[:_SHOWN])
    with storage_errors(output):
        output.mkdir(exist_ok=True)


def _gateways(
    run: Run, benchmark: Benchmark, known: Known, counts: PassCounts, used: set[bytes]
) -> Switchboard:
    gateways = {
        name: PassGateway(
            benchmark=benchmark.name,
            endpoint=name,
            model_id=served.model.model_id,
            lookup=known.lookup,
            record_miss=known.record_miss,
            volatile=run.spec.harnesses[benchmark.harness].volatile,
            share_at_zero=run.spec.run.share_at_zero,
            forward=known.forward,
            failed=known.failed,
            counts=counts,
            used=used,
        )
        for name, served in run.spec.served().items()
    }
    return Switchboard(gateways)


async def _harness(
    run: Run, benchmark: Benchmark, place: Place, env: dict[str, str], counts: PassCounts
) -> int:
    """Run the harness's script to its end and return its exit code."""
    child = process.start(
        ["bash", str(run.paths.harness_script(benchmark.name))],
        log=place.log,
        env={**env, **place.env, "EVALHPC_OUTPUT_DIR": str(place.output)},
        cwd=place.output,
        through=BoundedStream(MaskedStream(mask_of(env))),
        tied=True,
    )
    deadline = time.monotonic() + run.spec.run.harness_timeout
    waiting = asyncio.create_task(asyncio.to_thread(_wait, child))
    watch = asyncio.create_task(_until_excess(place, output_bounds(run)))
    try:
        while time.monotonic() < deadline:
            if place.progress is not None:
                shown = {"asked": counts.asked, "misses": counts.misses}
                write_text(place.progress, json.dumps(shown))
            done, _ = await asyncio.wait(
                {waiting, watch}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
            )
            if waiting in done:
                return child.returncode
            if watch in done:
                watch.result()
                return TOO_MUCH_OUTPUT
        log.error("the harness of %s ran out of time", benchmark.name)
        return TIMED_OUT
    finally:
        watch.cancel()
        process.stop(child)
        await waiting


async def _until_excess(place: Place, bounds: Bounds) -> None:
    """Return once the harness has left more than it may."""
    while True:
        started = time.monotonic()
        if await asyncio.to_thread(_excess, place, bounds):
            return
        await asyncio.sleep(max(_LOOK, _LOOK_SHARE * (time.monotonic() - started)))


def _variables(run: Run, origin: str, token: str) -> dict[str, str]:
    """This process's environment, with the gateway in place of every endpoint's URL and key."""
    served = run.spec.served()
    keys = {endpoint.model.api_key_env for endpoint in served.values()}
    variables = {name: value for name, value in os.environ.items() if name not in keys}
    for name in served:
        prefix = "EVALHPC" if name == MODEL_ENDPOINT else f"EVALHPC_{name.upper()}"
        variables[f"{prefix}_BASE_URL"] = origin + base_path(name)
        variables[f"{prefix}_API_KEY"] = token
    return variables


def _wait(child: subprocess.Popen[bytes]) -> None:
    # Polls, because Popen.wait in a thread would race with stop() reaping the child.
    while child.poll() is None:
        time.sleep(0.05)
