"""What deployment jobs say of themselves in the run directory, and what is called out to them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from pydantic import Field

from evalhpc.models.base import Frozen
from evalhpc.storage.atomic import write_text
from evalhpc.workflow.record.pulse import BEAT
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.tokens import token_name

#: Seconds between two looks at a deployment job.
LOOK = 1.0
#: Seconds after which a job that lives has beaten, and has answered a call.
SETTLED = 3 * BEAT


class Published(Frozen):
    """What a deployment job says of itself, anew with each beat."""

    job: int
    start: str  # tells a restarted job from its first run
    node: str
    urls: dict[str, str] = Field(
        default={}
    )  # endpoint → base URL, which ends in /v1; empty while they load
    beat: int = 0
    call: str = ""  # the last one that it has heard
    ended: str = ""  # why, once it has
    interrupted: bool = False  # it was asked to end: Slurm may start it again


def publish(run: Run, published: Published) -> None:
    """Make it known to every shard."""
    path = run.paths.deployment(published.job)
    write_text(path, published.model_dump_json(), sync=False)


def published(run: Run, job: int) -> Published | None:
    """What this job last said; None where it has said nothing yet. IntegrityError if damaged."""
    try:
        return read_record(run.paths.deployment(job), Published)
    except FileNotFoundError:
        return None


def forget(run: Run, job: int) -> None:
    """Before a job is started: what an earlier one said is no news of it."""
    run.paths.deployment(job).unlink(missing_ok=True)


def last_call(run: Run) -> str:
    """What collectors last called out; it names the token that the answering job must have."""
    try:
        return run.paths.deployment_call.read_text()
    except FileNotFoundError:
        return ""


def call_answered(run: Run) -> bool:
    """Whether a deployment job says that it stays: from then on it lingers anew.

    Without that, one could end for want of requests between a look at it and the next round.
    """
    call = f"{token_name(run)}.{secrets.token_hex(8)}"
    write_text(run.paths.deployment_call, call)
    deadline = time.monotonic() + SETTLED
    while time.monotonic() < deadline:
        if any(record.call == call and not record.ended for record in all_published(run)):
            return True
        time.sleep(LOOK / 4)
    return False


def all_published(run: Run) -> Iterator[Published]:
    """What each deployment job last said that has said anything."""
    for job in range(run.spec.site.deploy.jobs):
        record = published(run, job)
        if record is not None:
            yield record
