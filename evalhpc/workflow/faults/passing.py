"""Trouble that may pass: planning and collectors wait in their jobs for a file system that is full
or away, and run a harness again that was killed."""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from evalhpc.errors import EvalhpcError, HarnessError
from evalhpc.storage.atomic import storage_error, temporary_name, write_bytes
from evalhpc.workflow.record.run import Run

T = TypeVar("T")
log = logging.getLogger(__name__)

#: What may be over soon: somebody frees space, a server comes back.
_PASSING = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOTCONN,
        errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ESHUTDOWN,
    }
)  # fmt: skip
#: Of those, what a harness that failed says of nothing but a file system.
_SAID = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.ESTALE)))
#: Times that harnesses are run again in one job because one was killed.
KILLS = 2
#: Times that they are run again because of a full disk, where the run's own has room: it may have
#: been freed meanwhile, but a node's own disk (an image's folder, /tmp) is not to be waited for.
ELSEWHERE = 1
#: Seconds before the first further try, and at most between two.
FIRST, LONGEST = 1.0, 30.0
#: A harness costs its whole run: each pause is so many times all before, and its tries are few.
_GROWTH = 9
#: Bytes that the files of a local job take, generously.
ROOM = 1 << 16


def may_pass(error: BaseException) -> bool:
    """Whether the error, or what lies behind it, is a file system that is full or away, or a
    harness that was killed."""
    return any(
        (isinstance(one, OSError) and one.errno in _PASSING)
        or _is_killed(one)
        or (isinstance(one, HarnessError) and any(said in one.what for said in _SAID))
        for one in _behind(error)
    )


def patiently(run: Run, work: Callable[[], T], most: float = math.inf) -> T:
    """`work`'s result; it is tried again while the file system is full or away (where a harness
    says so, less and less often), and `KILLS` times after a harness was killed.

    At most `run.storage_wait` seconds, and `most`, are spent on waiting; then the last error is
    raised, as StorageError or as what `work` made of it.
    """
    limit, kills, elsewhere = min(run.spec.run.storage_wait, most), 0, 0
    soon = wait_exponential(FIRST, max=LONGEST)

    def goes_on(error: BaseException) -> bool:
        nonlocal kills, elsewhere
        kills += _is_killed(error)
        said = isinstance(error, HarnessError) and may_pass(error) and not _is_killed(error)
        elsewhere += said and _has_room(run)
        return may_pass(error) and kills <= KILLS and elsewhere <= ELSEWHERE

    def pause(state: RetryCallState) -> float:
        error, waited = _error(state), state.idle_for
        if not isinstance(error, HarnessError) or _is_killed(error):
            return soon(state)
        return min(max(FIRST, _GROWTH * waited), limit - waited + FIRST)

    def tell(state: RetryCallState) -> None:
        assert state.next_action is not None
        error = _error(state)
        said = error.what if isinstance(error, EvalhpcError) else str(error)
        log.warning(
            "%s: again in %.0f s (waited %.0f of %.0f s, run.storage_wait)",
            said.partition("\n")[0], state.next_action.sleep, state.idle_for, limit,
        )  # fmt: skip

    retrying = Retrying(
        retry=retry_if_exception(goes_on),
        wait=pause,
        stop=lambda state: state.idle_for >= limit and not _is_killed(_error(state)),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return retrying(work)
    except OSError as error:
        if not may_pass(error):
            raise
        raise storage_error(Path(error.filename or run.paths.root), error) from error


def await_room(run: Run, most: float = math.inf) -> None:
    """Return once a file of some size can be written into the run directory; waits as `patiently`
    does."""
    patiently(run, lambda: _write(run), most)


def _has_room(run: Run) -> bool:
    try:
        _write(run)
    except (EvalhpcError, OSError):
        return False
    return True


def _write(run: Run) -> None:
    probe = temporary_name(run.paths.logs / "room")
    try:
        write_bytes(probe, bytes(ROOM))
    finally:
        probe.unlink(missing_ok=True)


def _error(state: RetryCallState) -> BaseException:
    error = None if state.outcome is None else state.outcome.exception()
    assert error is not None
    return error


def _is_killed(error: BaseException) -> bool:
    return isinstance(error, HarnessError) and error.transient


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
