"""Bubblewrap: the words that run a command in an unpacked image, without privileges."""

from __future__ import annotations

from evalhpc.containers.start import Start


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
