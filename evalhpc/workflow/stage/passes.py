"""One pass of a staging, in a process of its own: the harness over stubs, its requests counted."""

from __future__ import annotations

import fcntl
import hashlib
import socket
import struct
from pathlib import Path

import uvloop

from evalhpc.core.identity import Request
from evalhpc.models.stage import StagePass
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.workflow.passes.harness_run import Known, Place, run_harness
from evalhpc.workflow.record.run import open_run
from evalhpc.workflow.record.signals import until_signalled

#: Of <linux/sockios.h> and <linux/if.h>: read and set an interface's flags; `up`.
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1
_REQUEST = struct.Struct("16sH14x")


def stage_pass(run_dir: Path, benchmark: str, number: int, *, isolated: bool) -> int:
    """Run the harness, write what it came to, and return its exit code."""
    if isolated:
        raise_loopback()
    run = open_run(run_dir)
    paths = run.paths
    output = paths.pass_output(number, benchmark)
    with storage_errors(output):
        output.mkdir(parents=True)
    keys: list[bytes] = []

    def missed(request: Request) -> None:
        keys.append(request.key)

    source = Known(lambda _key: None, missed)
    place = Place(output=output, log=paths.harness_log(number, benchmark))
    ended = uvloop.run(until_signalled(run_harness(run, run.benchmark(benchmark), source, place)))
    told = StagePass(
        exit_code=ended.exit_code,
        asked=ended.counts.asked,
        digest=hashlib.sha256(b"".join(sorted(keys))).hexdigest(),
        isolated=isolated,
        seconds=ended.seconds,
    )
    write_text(paths.outcome(number, benchmark), told.model_dump_json())
    return ended.exit_code


def raise_loopback() -> None:
    """Loopback is down in a new network namespace, and the harness asks the gateway through it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        answer = fcntl.ioctl(handle, _GET_FLAGS, _REQUEST.pack(b"lo", 0))
        name, flags = _REQUEST.unpack(answer)
        fcntl.ioctl(handle, _SET_FLAGS, _REQUEST.pack(name, flags | _UP))
