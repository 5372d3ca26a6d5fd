"""What a runtime is told on the node, whichever it is: one type that its words are made from."""

from __future__ import annotations

from dataclasses import dataclass

from evalhpc.containers.mounts import Mount

#: Where the private home of a command is seen inside.
HOME = "/evalhpc-home"


@dataclass(frozen=True)
class Start:
    """A command's start in an image.

    `root` is a folder, or the image's own file where the runtime mounts that itself; `home` is an
    empty folder of the node, and no part of the user's own; `gpus`: the node has NVIDIA's.
    """

    root: str
    mounts: tuple[Mount, ...]
    folder: str  # to start in, as it is called inside
    home: str
    options: tuple[str, ...] = ()
    gpus: bool = False
