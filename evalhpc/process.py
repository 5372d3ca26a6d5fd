"""The one gate for processes: every command that evalhpc runs goes through here.

A finished command is a `Finished`; one that fails a `check` raises ProcessFailed, whose text
shows the command, its exit code and what it printed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from evalhpc.errors import EvalhpcError

#: Set in the submitting shell, these change what sbatch and srun do; a run must not inherit them.
#: A silent slow-down through SLURM_CPU_BIND is the classic case. SLURM_CONF names the cluster.
SCHEDULER_PREFIXES = (
    "SLURM_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "PMI_",
    "PMI2_",
    "PMIX_",
    "_SLURM_SPANK_OPTION_",
)
SCHEDULER_KEEP = frozenset({"SLURM_CONF"})
#: Seconds that the last output of a command which has ended may take to reach its log.
_LAST_OUTPUT = 2.0

#: Becomes a command that ends with whoever holds the other end of a pipe: the guard, a member of
#: the command's group but no child of it, reads the pipe until that closes. Nothing is written.
_GUARD = """\
fd=$1; shift
( (trap '' TERM; read -r <&"$fd"; kill -TERM 0; sleep 5; kill -KILL 0) >/dev/null 2>&1 & )
exec {fd}<&-
exec "$@"
"""
#: Leader of a tied group → our end of its pipe, open as long as we live.
_ties: dict[int, int] = {}


@dataclass(frozen=True)
class Finished:
    """A command that ended: its words, exit code, and output as text."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class ProcessFailed(EvalhpcError):
    """A command that could not start, exited non-zero, or ran out of time."""

    def __init__(self, done: Finished, why: str = "") -> None:
        reason = why or f"exit code {done.returncode}"
        text = f"command failed ({reason}): {shlex.join(done.argv)}"
        for stream, content in (("stdout", done.stdout), ("stderr", done.stderr)):
            if content.strip():
                text += f"\n{stream}: {content.strip()}"
        super().__init__(text)
        self.done = done


def scrubbed(env: Mapping[str, str]) -> dict[str, str]:
    """`env` without what an enclosing job or a user's SBATCH_* settings would leak into ours."""
    return {
        key: value
        for key, value in env.items()
        if key in SCHEDULER_KEEP or not key.startswith(SCHEDULER_PREFIXES)
    }


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> Finished:
    """Run a command to its end and return its output; raises ProcessFailed if `check`.

    A command that cannot be started counts as exit code 127, one out of time as 124.
    """
    words = tuple(map(str, argv))
    why = ""
    try:
        done = subprocess.run(
            words, env=env, cwd=cwd, input=stdin, timeout=timeout,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        result = Finished(words, done.returncode, done.stdout, done.stderr)
    except OSError as error:
        why = f"cannot start: {error.strerror or error}"
        result = Finished(words, 127, "", "")
    except subprocess.TimeoutExpired as error:
        why = f"no answer within {timeout:g} s"
        result = Finished(words, 124, _text(error.stdout), _text(error.stderr))
    if check and result.returncode != 0:
        raise ProcessFailed(result, why)
    return result


class Filter(Protocol):
    """What output passes on its way to a log: it gives back what may be written by now."""

    def feed(self, piece: bytes) -> bytes:
        """The next piece."""

    def end(self) -> bytes:
        """What is left when no further piece comes."""


def start(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    tied: bool = False,
    through: Filter | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, its output appended to `log`.

    `tied`: the group ends with this process, also where that is killed without a chance to say so.
    With `through`, this process passes the output on; once the command is seen to have ended, its
    log is complete.
    """
    words = tuple(map(str, argv))
    with log.open("ab") as sink:
        ours, its = os.pipe() if tied else (-1, -1)
        how: dict[str, Any] = {
            "env": env, "cwd": cwd, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT,
            "start_new_session": True, "pass_fds": (ours,) if tied else (),
        }  # fmt: skip
        try:
            command = _with_guard(words, ours) if tied else words
            child = (
                subprocess.Popen(command, stdout=sink, **how)
                if through is None
                else _Filtered(command, through, log, **how)
            )
        except OSError as error:
            _close(its)
            raise ProcessFailed(
                Finished(words, 127, "", ""), f"cannot start: {error.strerror or error}"
            ) from error
        finally:
            _close(ours)
    if tied:
        _ties[child.pid] = its
    return child


class _Filtered(subprocess.Popen[bytes]):
    """A command whose output goes through a filter, in a thread of ours."""

    def __init__(self, words: Sequence[str], through: Filter, log: Path, **how: Any) -> None:
        self._pump: threading.Thread | None = None
        super().__init__(words, stdout=subprocess.PIPE, **how)
        self._pump = threading.Thread(target=self._pass_on, args=(through, log), daemon=True)
        self._pump.start()

    def poll(self) -> int | None:
        """As Popen's; an exit code only when the log is complete."""
        code = super().poll()
        return code if code is None else self._complete(code)

    def wait(self, timeout: float | None = None) -> int:
        """As Popen's, and until the log is complete."""
        return self._complete(super().wait(timeout))

    def _complete(self, code: int) -> int:
        pump, self._pump = self._pump, None
        if pump is not None:
            # Not for long: a grandchild that left the group may hold the other end open.
            pump.join(_LAST_OUTPUT)
        return code

    def _pass_on(self, through: Filter, log: Path) -> None:
        source = self.stdout
        assert source is not None
        with source, log.open("ab", buffering=0) as sink:
            while piece := os.read(source.fileno(), 1 << 16):
                _append(sink, through.feed(piece))
            _append(sink, through.end())


def _append(sink: Any, data: bytes) -> None:
    """Write all of it, unless the disk is full: the command must not stand still for its log."""
    try:
        while data:
            data = data[sink.write(data) :]
    except OSError:
        return


def replace(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Become a command, found with our own PATH; raises ProcessFailed if it cannot start."""
    words = tuple(map(str, argv))
    try:
        os.execve(shutil.which(words[0]) or words[0], words, dict(env))
    except OSError as error:
        raise ProcessFailed(
            Finished(words, 127, "", ""), f"cannot start: {error.strerror or error}"
        ) from error


def stop(process: subprocess.Popen[bytes], grace: float = 10.0) -> int:
    """End a process made by `start` with its whole group; returns its exit code."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        pass
    # Whatever is left of the group (a grandchild that ignores SIGTERM) goes now.
    _signal_group(process.pid, signal.SIGKILL)
    _close(_ties.pop(process.pid, -1))
    return process.wait()


def _with_guard(words: Sequence[str], pipe: int) -> list[str]:
    """`words` beside a guard in its group, which reads a pipe whose other end is ours alone."""
    return ["bash", "-c", _GUARD, "guard", str(pipe), *words]


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def _text(output: bytes | str | None) -> str:
    if output is None:
        return ""
    return output if isinstance(output, str) else output.decode(errors="replace")
