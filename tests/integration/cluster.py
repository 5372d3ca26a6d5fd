"""The dev cluster as an object: a typed wrapper of ``scripts/devcluster``, and nothing more."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import TypedDict, cast

REPO = Path(__file__).resolve().parents[2]
USER = "evaluser"
#: How much longer than on an idle machine anything may take before it counts as hanging.
PATIENCE = 5
EX_NO_CLUSTER, EX_MISSING_PACKAGES, EX_NO_RIGHTS = 3, 5, 77


class NodeStatus(TypedDict):
    name: str
    alive: bool
    slurm: str  # sinfo's state; "-" for the login node


class ClusterStatus(TypedDict):
    state_dir: str
    up: bool
    controller: str
    nodes: list[NodeStatus]


class DevClusterError(Exception):
    """A devcluster command failed; ``returncode`` is its exit code, the text what it said."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        super().__init__(f"{done.args} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        self.returncode = done.returncode
        self.reason = done.stderr.strip()


@dataclass(frozen=True)
class DevCluster:
    """A cluster whose files lie in ``state``, run by the ``scripts/devcluster`` of ``repo``."""

    state: Path
    repo: Path = REPO

    @property
    def home(self) -> Path:
        """Home of the ordinary user: every node sees it, and so does this machine."""
        return self.state / "home" / USER

    def up(
        self,
        *,
        nodes: int = 4,
        gpus: int = 8,
        cpus: int = 32,
        accounting: bool = False,
        binds: Sequence[str] = (),
        boot: Path | None = None,
    ) -> None:
        sizes = ["--nodes", str(nodes), "--gpus", str(gpus), "--cpus", str(cpus)]
        options = [*sizes, *(["--accounting"] if accounting else [])]
        for bind in binds:
            options += ["--bind", bind]
        options += ["--boot", str(boot)] if boot else []
        self._command("up", *options)

    def down(self) -> None:
        self._command("down")

    def crash(self, node: str) -> None:
        """Kill the node's pid 1, and everything on the node with it."""
        self._command("crash", node)

    def boot(self, node: str) -> None:
        """Start a dead node; returns when Slurm has taken it back."""
        self._command("boot", node)

    @contextmanager
    def crashed(self, node: str) -> Iterator[None]:
        """The node is dead within the block, and back for whoever comes next."""
        self.crash(node)
        try:
            yield
        finally:
            self.boot(node)

    def kill_slurmd(self, node: str) -> None:
        self._command("kill-slurmd", node)

    def start_slurmd(self, node: str) -> None:
        self._command("start-slurmd", node)

    def restart_controller(self) -> None:
        self._command("restart-controller")

    def status(self) -> ClusterStatus:
        return cast("ClusterStatus", json.loads(self.script("status", "--json").stdout))

    def slurm_state(self, node: str) -> str:
        """What sinfo says of a node, such as ``idle`` or ``down*``."""
        return next(one["slurm"] for one in self.status()["nodes"] if one["name"] == node)

    def exec(
        self,
        argv: Sequence[str],
        *,
        user: str = USER,
        node: str = "login",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout: float = 300,
        check: bool = False,
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``argv`` on a node, in the ordinary user's home unless ``cwd`` says otherwise.

        ``env`` is added to this process's environment. After ``timeout`` seconds the command
        is ended and :class:`subprocess.TimeoutExpired` raised; with ``check`` a failure raises
        :class:`DevClusterError`.
        """
        extra = ["env", *(f"{key}={value}" for key, value in (env or {}).items())]
        place = ["--node", node, "--user", user, "--chdir", str(cwd or self.home)]
        done = self.script("exec", *place, "--", *extra, *argv, stdin=stdin, timeout=timeout)
        if check and done.returncode != 0:
            raise DevClusterError(done)
        return done

    def script(
        self, *arguments: str, stdin: str = "", timeout: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Run ``scripts/devcluster`` with these arguments, whatever its exit code."""
        command = [str(self.repo / "scripts" / "devcluster"), *arguments]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.repo,
            env={**environ, "EVALHPC_DEVCLUSTER_DIR": str(self.state)},
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except BaseException:  # a keyboard interrupt too must not leave the command behind
                _end(process)
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def _command(self, *arguments: str) -> None:
        done = self.script(*arguments)
        if done.returncode != 0:
            raise DevClusterError(done)


def _end(process: "subprocess.Popen[str]") -> None:
    # TERM first: it is handed on to the command on the node, KILL cannot be
    process.terminate()
    try:
        process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_until(true: Callable[[], bool], *, timeout: float, what: str, every: float = 0.2) -> None:
    """Ask again and again until ``true()``, or else fail, naming ``what``.

    ``timeout``: seconds that an idle machine may take; a busy one has `PATIENCE` times as many.
    """
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(every)
