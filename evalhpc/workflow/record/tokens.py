"""The token of a run's deployment jobs: in the user's home, mode 0600, until the run is over.

Not in the run directory, which people share and archive; that has only the file's name, so that
two runs of one spec never share a token, and a run that was resumed has a new one.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from evalhpc.errors import EndpointError
from evalhpc.storage.atomic import storage_errors, write_all, write_text
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)


def token_name(run: Run) -> str:
    """Which token the run has now; "" for none: it was never submitted, or is over."""
    try:
        return run.paths.token_name.read_text().strip()
    except FileNotFoundError:
        return ""


def make_token(run: Run) -> bool:
    """Write a token for this run; False if it has one here."""
    name = token_name(run) or secrets.token_hex(16)
    path = _path(name)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        try:
            write_all(fd, secrets.token_hex(24).encode())
        finally:
            os.close(fd)
    if not token_name(run):
        write_text(run.paths.token_name, name)
    return True


def drop_token(run: Run) -> None:
    """Forget the token of a run that has ended; a deployment job that serves with it ends, too."""
    name = token_name(run)
    if not name:
        return
    run.paths.token_name.unlink(missing_ok=True)
    try:
        _path(name).unlink(missing_ok=True)
    except OSError as error:
        log.warning("a token that nothing takes any more is left in %s: %s", _path(name), error)


def read_token(run: Run) -> str:
    """The token; raises EndpointError where this node does not see it."""
    name = token_name(run)
    path = _path(name or "none")
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise EndpointError(
            f"the token of this run's deployment jobs cannot be read: {path}: {error.strerror}",
            cause="this node does not see the home directory of the submitting one"
            if name
            else "the run is over",
            hint=f"ls -l {path} here and on the login node; or --set deploy.topology=shard",
        ) from error
    if not token:
        raise EndpointError(f"{path} is empty", hint=f"evalhpc cancel {run.word}, then resume")
    return token


def _path(name: str) -> Path:
    return Path("~/.local/state/evalhpc/tokens").expanduser() / name
