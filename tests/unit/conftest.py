"""Unit tests touch neither the network nor other programs; this makes sure of it."""

import os
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import h5py  # imported within a test, it would ask `uname` for the machine  # noqa: F401
import pytest
from hypothesis import settings

UNIT_TESTS = Path(__file__).parent
PROCESS_EVENTS = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"}
    | {"subprocess.Popen"}
)
NETWORK_EVENTS = frozenset({"socket.bind", "socket.connect", "socket.getaddrinfo"})

settings.register_profile("no wall time", deadline=None)  # a busy machine is no failure
settings.load_profile("no wall time")

# An audit hook cannot be taken off again, so it asks whose test is running. It sees what is
# reached through any name, also one that was imported before.
_guarded_pid = 0


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if os.getpid() != _guarded_pid:
        return
    if event in PROCESS_EVENTS:
        pytest.fail(f"a unit test may not start a process: {event} {arguments[:2]!r}")
    if event in NETWORK_EVENTS:
        pytest.fail(f"a unit test may not use the network: {event} {arguments[1:]!r}")
    # An event loop wakes itself through a pair of Unix sockets; nobody else can reach those.
    if event == "socket.__new__" and arguments[1] != socket.AF_UNIX:
        pytest.fail("a unit test may not open a socket")


sys.addaudithook(_refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Guard a test below this folder, with its fixtures; pytest asks for the others too."""
    global _guarded_pid  # the hook above has no other way to know
    _guarded_pid = os.getpid() if item.path.is_relative_to(UNIT_TESTS) else 0
    try:
        return (yield)
    finally:
        _guarded_pid = 0
