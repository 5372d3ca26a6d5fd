"""Charliecloud: the words of `ch-run` that run a command in an image, without privileges."""

from __future__ import annotations

from evalhpc.containers.start import Start

MESSAGES = (
    (r"ch-run\[\d+\]: error: can't bind: source not found: (\S+)[^\n]*",
     "a mounted folder is not on the compute node", "compare container.mounts with the node"),
    (r"ch-run\[\d+\]: error: can't (?:bind: destination not found|mkdir): (\S+)[^\n]*",
     "the image has no such mount point, and none can be made in a squashfs file",
     "make the folder in the image, or set container.unpack: true"),
    (r"fuse: failed to open /dev/fuse[^\n]*|ch-run\[\d+\]: error: too many FUSE errors[^\n]*",
     "the node does not let ordinary users mount with FUSE", "set container.unpack: true"),
    (r"ch-run\[\d+\]: error: unknown image type: (\S+)[^\n]*",
     "the file is not a squashfs image", "import the image again"),
    (r"ch-run\[\d+\]: error: can't stat: (\S+): [^\n]*",
     "the image is not on the compute node", "ls -l the image, and see container.image_dir"),
    (r"ch-run\[\d+\]: error: [^\n]*(?:CLONE_NEWUSER|user\+mount namespaces)[^\n]*",
     "the node does not let ordinary users make namespaces",
     "sysctl user.max_user_namespaces on the node, or another container.runtime"),
)  # fmt: skip


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
