"""Charliecloud: the words of `ch-run` that run a command in an image, without privileges."""

from __future__ import annotations

from evalhpc.containers.start import Start


def command(start: Start) -> tuple[str, ...]:
    """ch-run, which shows /dev, /proc, /sys and /tmp itself; its mounts are never read-only."""
    return (
        "ch-run",
        *(["--no-passwd"] if _mounted(start, "/etc/passwd") else []),
        *(f"--bind={mount.source}:{mount.target}" for mount in start.mounts),
        f"--cd={start.folder}",
        *start.options,
        start.root,
        "--",
    )


def _mounted(start: Start, target: str) -> bool:
    return any(mount.target == target for mount in start.mounts)
