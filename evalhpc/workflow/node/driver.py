"""The driver of a local run, in place of Slurm's dependencies: planning, then array, collector."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from evalhpc.errors import EvalhpcError, FutileError, IncompleteError
from evalhpc.storage.atomic import is_there
from evalhpc.workflow.collect.collect import wants_array
from evalhpc.workflow.node.local_cluster import LocalCluster
from evalhpc.workflow.node.local_deployments import LocalDeployments
from evalhpc.workflow.node.script_call import ScriptCall
from evalhpc.workflow.record.failure import note_failure
from evalhpc.workflow.record.jobs import AGAIN, launched, may_again
from evalhpc.workflow.record.rounds import load_plan, planned_rounds
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted
from evalhpc.workflow.record.tokens import drop_token
from evalhpc.workflow.serve.herald import is_over

log = logging.getLogger(__name__)

#: Above it, an exit code names the signal that ended a script.
_SIGNALLED = 128


def drive(run: Run, first: str) -> int:
    """What the driver does until the run is complete, cancelled or at an end; its exit code."""
    cluster = LocalCluster(run)
    try:
        if first == "planning":
            code = _outlived(run, cluster, "planning", 0)
            if code != 0:
                return code
        elif first == "collect":
            return _collect_on(run, cluster)
        return _rounds(run, cluster)
    except Interrupted:
        return INTERRUPTED
    except EvalhpcError as error:
        note_failure(run, error)
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        drop_token(run)


def _rounds(run: Run, cluster: LocalCluster) -> int:
    """Array and collector, until the collector plans no further round."""
    with _deployments(run) as deployments:
        while True:
            round_ = _last_round(run)
            deployments.see_to(round_)
            codes = cluster.run(
                [_call(run, "shard", round_, shard) for shard in range(_tasks(run, round_))],
                "its shards ended before they began" if launched(run.paths, round_) else "",
            )
            for shard, code in enumerate(codes):
                if code:
                    log.warning("shard %d of round %d ended with code %d", shard, round_, code)
            code, more = _collect(run, cluster)
            if not more:
                return code


@contextmanager
def _deployments(run: Run) -> Iterator[LocalDeployments]:
    deployments = LocalDeployments(run)
    try:
        yield deployments
    finally:
        deployments.stop()


def _collect_on(run: Run, cluster: LocalCluster) -> int:
    """A resumed run: the collector first, which plans what is missing."""
    code, more = _collect(run, cluster)
    return _rounds(run, cluster) if more else code


def _collect(run: Run, cluster: LocalCluster) -> tuple[int, bool]:
    """Exit code of the collector, and whether it wants another array."""
    code = _outlived(run, cluster, "collect", _last_round(run))
    if code and not is_over(run):
        note_failure(run, _unexplained(run, code))
    if code != 0 or is_there(run.paths.certificate) or is_there(run.paths.cancelled):
        return code, False
    return code, wants_array(run, _last_round(run))


def _unexplained(run: Run, code: int) -> IncompleteError:
    return IncompleteError(
        f"the collector ended with code {code}, and left no reason",
        cause="it waited in vain for another collector, or its script failed before it",
        hint=f"evalhpc logs {run.word} --kind collect, then: evalhpc resume {run.word}",
    )


def _outlived(run: Run, cluster: LocalCluster, kind: str, round_: int) -> int:
    """Exit code of a script that is run again where a signal ended it, and not by our wish.

    Raises FutileError where that goes on.
    """
    again = ""
    while True:
        code = cluster.run([_call(run, kind, round_)], again)[0]
        if not _was_ended(code) or is_over(run):
            return code
        if not may_again(run.paths, round_, kind):
            raise FutileError(
                f"not begun again: the {kind} script was ended by a signal {1 + AGAIN} times "
                f"(exit code {code})",
                cause="killed by somebody, or for want of memory",
                hint=f"evalhpc logs {run.word} --kind {kind}, then: evalhpc resume {run.word}",
            )
        again = f"the {kind} script before it was ended by a signal (exit code {code})"
        log.warning("%s: it is run again", again)


def _was_ended(code: int) -> bool:
    return code < 0 or code > _SIGNALLED or code == INTERRUPTED


def _last_round(run: Run) -> int:
    """The round that is next to be answered; 1 before anything was planned."""
    return max(planned_rounds(run), default=1)


def _tasks(run: Run, round_: int) -> int:
    """How many shards a round is worth: no more than it has units."""
    if not planned_rounds(run):
        return run.first_tasks
    return min(run.spec.run.shards, max(1, len(load_plan(run, round_).units)))


def _call(run: Run, kind: str, round_: int = 0, shard: int = 0) -> ScriptCall:
    name = f"{kind}-{round_}-{shard}.log" if kind == "shard" else f"{kind}-{round_}.log"
    return ScriptCall(kind, round_, str(run.paths.script(kind)), str(run.paths.log(name)), shard)
