"""Commands that end with the process that started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cluster import wait_until

_PARENT = """
import sys, time
from pathlib import Path
from evalhpc import process
words = ["bash", "-c", sys.argv[3]]
child = process.start(words, log=Path(sys.argv[1]), tied=sys.argv[2] == "tied")
if sys.argv[4] == "stop":
    while not Path(sys.argv[1]).read_text().endswith("ready\\n"):
        time.sleep(0.05)
    process.stop(child, grace=0.5)
print(child.pid, flush=True)
if sys.argv[4] == "stay":
    time.sleep(60)
"""
_FAMILY = "(trap '' TERM; while :; do sleep 1; done) & echo ready; wait"


def _start(tmp_path: Path, how: str, script: str, then: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "log"), how, script, then]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


def _group(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[2]) == leader:
            found.append(int(entry.name))
    return found


def test_a_tied_command_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """With children that ignore SIGTERM, and nobody left to kill them."""
    parent, leader = _start(tmp_path, "tied", _FAMILY, "stay")
    wait_until(lambda: "ready" in (tmp_path / "log").read_text(), timeout=10, what="it runs")
    assert _group(leader)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not _group(leader), timeout=10, what="the group has ended")


def test_a_command_that_is_not_tied_outlives_its_parent(tmp_path: Path) -> None:
    """A local run's driver goes on when the shell that submitted it is gone."""
    parent, leader = _start(tmp_path, "free", "sleep 30", "stay")
    parent.kill()
    parent.communicate()
    try:
        assert _group(leader)
    finally:
        os.killpg(leader, signal.SIGKILL)


@pytest.mark.parametrize("script", [_FAMILY, "echo ready"])
def test_a_tied_command_that_was_stopped_leaves_no_guard(tmp_path: Path, script: str) -> None:
    """Whether it still ran or had ended by itself."""
    parent, leader = _start(tmp_path, "tied", script, "stop")
    parent.communicate()
    assert parent.returncode == 0
    assert not _group(leader)


def test_a_tied_command_sees_what_it_would_see_alone(tmp_path: Path) -> None:
    """Its words, exit code and descriptors: the guard's pipe is not among them."""
    script = 'echo "$0" "$@"; ls /proc/self/fd; exit 7'
    code = f"""
import sys
from pathlib import Path
from evalhpc import process
for tied in (False, True):
    log = Path({str(tmp_path)!r}) / str(tied)
    child = process.start(["bash", "-c", {script!r}, "a b", "$c"], log=log, tied=tied)
    print(child.wait())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "7\n7\n"
    assert (tmp_path / "True").read_text() == (tmp_path / "False").read_text()
