"""Who can read the memory of a process that holds keys: nobody but root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_HOLDER = """\
import os, resource, subprocess, sys
sys.path.insert(0, sys.argv[1])
from evalhpc.workflow.node.privacy import keep_private
keep_private()
files = len(os.listdir("/proc/self/fd")) > 0 and len(open("/proc/self/stat").read()) > 0
child = subprocess.run(["cat", "/proc/self/environ"], capture_output=True, text=True)
started = os.environ["KEY"] in child.stdout
print(files, started, resource.getrlimit(resource.RLIMIT_CORE), flush=True)
sys.stdin.read()
"""
_READER = """\
import subprocess, sys
holder = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, env={"KEY": "a key of ours"})
print(holder.stdout.readline().strip())
for name in ("environ", "mem", "stat", "cmdline"):
    try:
        with open(f"/proc/{holder.pid}/{name}", "rb") as file:
            file.read(0 if name == "mem" else -1)
        print(name, "can be read")
    except PermissionError:
        print(name, "cannot be read")
holder.communicate()
"""


def test_only_root_reads_the_memory_of_a_process_that_holds_keys() -> None:
    """Another process of the same user does not; what everybody may know of one stays.

    It still sees its own files, and commands that it starts are as they always were.
    """
    package = Path(__file__).parents[2]
    # Root reads everything: then both are somebody else.
    somebody: dict[str, Any] = {"user": 65534, "group": 65534} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [sys.executable, "-c", _READER, _HOLDER, str(package)],
        capture_output=True, text=True, check=False, timeout=60, **somebody,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "True True (0, 0)",
        "environ cannot be read",
        "mem cannot be read",
        "stat can be read",
        "cmdline can be read",
    ], done.stderr


def test_every_job_of_a_run_is_private() -> None:
    """The command that all batch scripts call says so before it does anything else."""
    script = (
        "import ctypes; from click.testing import CliRunner; from evalhpc.cli.node import node;"
        "CliRunner().invoke(node, ['pass', '--run-dir', '/nowhere', '--pass', '1']);"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"
