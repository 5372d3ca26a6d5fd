"""Apptainer: the words of `apptainer exec` that run a command in an image."""

from __future__ import annotations

from evalhpc.containers.start import HOME, Start

#: Singularity, from which Apptainer comes, takes the same words.
PROGRAMS = ("apptainer", "singularity")

#: From Apptainer's sources and documentation; it was not at hand to be run.
MESSAGES = (
    (r"FATAL: +[^\n]*mount source (\S+) doesn't exist",
     "a mounted folder is not on the compute node", "compare container.mounts with the node"),
    (r"FATAL: +could not open image (\S+): [^\n]*",
     "the image is not on the compute node, or cannot be read there",
     "ls -l the image, and see container.image_dir"),
    (r"FATAL: +[^\n]*image format not recognized[^\n]*",
     "the file is neither a SIF nor a squashfs image", "import the image again"),
    (r"FATAL: +[^\n]*(?:user namespace|setuid)[^\n]*",
     "the node does not let ordinary users start containers",
     "sysctl user.max_user_namespaces on the node, or another container.runtime"),
)  # fmt: skip


def command(start: Start) -> tuple[str, ...]:
    """apptainer exec; variables pass through, and the user's home is not seen.

    Apptainer mounts .sif and squashfs files itself and makes the mount points.
    """
    return (
        "apptainer",
        "exec",
        f"--home={start.home}:{HOME}",
        *(["--nv"] if start.gpus else []),
        *(f"--bind={mount}" for mount in start.mounts),
        f"--pwd={start.folder}",
        *start.options,
        start.root,
    )
