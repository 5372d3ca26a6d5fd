"""The stand-in for a shared file system (`disk.c`): compiled, mounted on nodes, made to fail."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import join

_SOURCE = Path(__file__).with_name("disk.c")
#: The numbers of its `struct control`, in their order.
NUMBERS = ("latency", "stalled", "growth", "change", "any", "spared", "late", "handles")
#: Seconds; NFS has 3 to 60, for leases that last longer than those of the tests.
CACHED = 3.0


@dataclass(frozen=True)
class Disk:
    """A folder that nodes mount over itself; on the machine itself it stays the plain folder.

    `tools` holds what is needed for that, and has to be readable on the nodes.
    """

    folder: Path
    tools: Path

    def build(self, *, cached: float = CACHED, locks: str = "shared") -> None:
        """Compile the server and write `mount`, which mounts it where it is run.

        `cached`: seconds for which a node believes what it knows of names and sizes. `locks`:
        `shared` by all nodes, `local` to each, or `none`.
        """
        self.tools.mkdir(exist_ok=True)
        server = self.tools / "disk"
        subprocess.run(
            ["gcc", "-O2", "-D_FILE_OFFSET_BITS=64", "-I/usr/include/fuse3", "-o", server, _SOURCE,
             "-lfuse3", "-lpthread"],
            check=True,
        )  # fmt: skip
        self._control.write_bytes(bytes(8 * len(NUMBERS)))
        timeouts = ",".join(f"{what}_timeout={cached}" for what in ("attr", "entry", "negative"))
        words = [server, self.folder, self.folder, self._control, locks, "-o", timeouts]
        self.mount.write_text(f"#!/bin/sh\nexec {join(map(str, words))}\n")
        self.mount.chmod(0o755)

    @property
    def mount(self) -> Path:
        """The program that mounts it on a node; run by root, it returns once that is done."""
        return self.tools / "mount"

    @property
    def _control(self) -> Path:
        return self.tools / "control"

    def put(self, **numbers: int) -> None:
        """Set some of `NUMBERS` on all nodes at once."""
        with self._control.open("r+b") as file:
            for name, value in numbers.items():
                file.seek(8 * NUMBERS.index(name))
                file.write(struct.pack("<q", value))

    @contextmanager
    def behaving(self, **numbers: int) -> Iterator[None]:
        """Within the block; then as before anything was put."""
        self.put(**numbers)
        try:
            yield
        finally:
            self.put(**dict.fromkeys(numbers, 0))

    def forget_handles(self) -> None:
        """The file server starts anew: what nodes have open is stale."""
        at = 8 * NUMBERS.index("handles")
        (number,) = struct.unpack_from("<q", self._control.read_bytes(), at)
        self.put(handles=number + 1)


def why_none() -> str:
    """Why this machine cannot have one, or ""."""
    if not Path("/dev/fuse").exists():
        return "this kernel has no FUSE"
    if not Path("/usr/include/fuse3/fuse.h").exists():
        return "missing packages: libfuse3-dev; run: scripts/devcluster install --containers"
    return ""
