"""Bubblewrap: the words that run a command in an unpacked image, without privileges."""

from __future__ import annotations

from evalhpc.containers.start import Start

MESSAGES = (
    (r"bwrap: Can't find source path (\S+): [^\n]*",
     "a mounted folder is not on the compute node", "compare container.mounts with the node"),
    (r"bwrap: Can't (?:mkdir|create file at) (\S+): [^\n]*",
     "the image has no such mount point, and none can be made in it",
     "make the folder in the image, or name a .sqsh, which is unpacked where it can be made"),
    (r"bwrap: (?:No permissions to creat|Creating new namespace failed|setting up uid map)[^\n]*",
     "the node does not let ordinary users make namespaces",
     "sysctl user.max_user_namespaces on the node, or another container.runtime"),
    (r"bwrap: execvp (\S+): No such file or directory",
     "the image lacks a program that the script needs", "images need bash"),
)  # fmt: skip


def command(start: Start) -> tuple[str, ...]:
    """bwrap with the image read-only as /, and the node's own /dev, /proc, /sys and /tmp."""
    binds: list[str] = []
    for mount in start.mounts:
        binds += ["--ro-bind" if mount.read_only else "--bind", mount.source, mount.target]
    return (
        "bwrap",
        *("--ro-bind", start.root, "/"),
        *("--dev-bind", "/dev", "/dev"),
        *("--dev-bind", "/proc", "/proc"),
        *("--ro-bind", "/sys", "/sys"),
        *("--bind", "/tmp", "/tmp"),
        *binds,
        *("--chdir", start.folder),
        *start.options,
        "--",
    )
