"""Pyxis, NVIDIA's Slurm plugin: the srun options that run a step in an image, and its errors."""

from __future__ import annotations

from collections.abc import Iterable

from evalhpc.containers.mounts import Mount
from evalhpc.errors import ConfigError


def step_options(image: str, mounts: Iterable[Mount]) -> tuple[str, ...]:
    """The srun options that run a step in the squashfs file `image`; raises ConfigError.

    They belong on srun: as #SBATCH lines, the whole batch script would run in the image, where
    there is no srun. Without an image pyxis ignores its other options and runs on the host, so
    there is no way to ask for mounts alone.
    """
    if not image.startswith("/"):
        raise ConfigError(
            f"the image {image!r} is not an absolute path",
            cause="pyxis takes a relative name for one in a registry",
            hint="set container.image_dir in the site file",
        )
    listed = ",".join(map(str, mounts))
    return (
        f"--container-image={image}",
        *([f"--container-mounts={listed}"] if listed else []),
        "--no-container-mount-home",
        "--no-container-entrypoint",
    )
