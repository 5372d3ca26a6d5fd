"""Pyxis, NVIDIA's Slurm plugin: the srun options that run a step in an image, and its errors."""

from __future__ import annotations

from collections.abc import Iterable

from evalhpc.containers.mounts import Mount
from evalhpc.errors import ConfigError

#: What pyxis and enroot print → (likely cause, next step). Observed with pyxis 0.24, enroot 4.1.
MESSAGES = (
    (r"--container-mounts: source path does not exist: (\S+)",
     "a mounted folder is not on the compute node", "compare container.mounts with the node"),
    (r"Invalid --container-mounts argument",
     "a mount is not SRC:DST[:FLAGS]", "correct container.mounts in the site file"),
    (r"Invalid image format: (\S+)",
     "the file is not a squashfs image", "import the image again: enroot import"),
    (r"No such file or directory: (\S+\.(?:sqsh|squashfs))",
     "the image is not on the compute node", "ls -l the image, and see container.image_dir"),
    (r"couldn't chdir to (\S+)",
     "the working directory is not in the image", "mount it: container.mounts"),
    (r"FATAL ERROR: ?writer: failed to write file|No space left on device(?=[\s\S]*spank_pyxis)",
     "the node's enroot data path is full", "see enroot/README.md: ENROOT_DATA_PATH"),
    (r"importing docker image",
     "the image was taken for a registry's name", "write its absolute path"),
    (r"srun: unrecognized option '--(?:no-)?container-[^\n]*",
     "Slurm here has no Pyxis, or one that lacks this option",
     "srun --help | grep container, and see container.runtime"),
)  # fmt: skip


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
