"""Apptainer: the words of `apptainer exec` that run a command in an image."""

from __future__ import annotations

from evalhpc.containers.start import HOME, Start

#: Singularity, from which Apptainer comes, takes the same words.
PROGRAMS = ("apptainer", "singularity")


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
