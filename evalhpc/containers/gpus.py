"""NVIDIA's driver in an image: the node's own libraries, for runtimes that do not bring them."""

from __future__ import annotations

import re

from evalhpc.containers.mounts import Mount

#: The node has NVIDIA's driver if this is there.
DEVICE = "/dev/nvidiactl"
#: Where images made for GPUs look for the driver.
_FOLDER = "/usr/local/nvidia"
LIBRARIES = f"{_FOLDER}/lib64"
_LIBRARY = re.compile(
    r"^\s+(lib(?:cuda|cudadebugger|nvcuvid|nvidia-[a-z0-9-]+)\.so\.[\d.]+)"
    r" \(.*(?:x86-64|AArch64).*\) => (\S+)$",
    re.MULTILINE,
)


def driver_mounts(listed: str) -> tuple[Mount, ...]:
    """The mounts that show the driver's libraries; `listed` is what `ldconfig -p` prints."""
    found = dict(reversed(_LIBRARY.findall(listed)))  # of two with a name, the first counts
    return tuple(Mount(path, f"{LIBRARIES}/{name}", "ro") for name, path in sorted(found.items()))
