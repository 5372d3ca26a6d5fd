"""The container runtimes by name: what each adds to the start of a command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evalhpc.containers.mounts import Mount, bind, distinct, parents_first, parse_mount
from evalhpc.containers.pyxis import step_options
from evalhpc.models.site import Container, Runtime

#: Image files that each runtime starts, by the end of their names.
_SUFFIXES: dict[Runtime, tuple[str, ...]] = {
    "none": (),
    "pyxis": (".sqsh",),
    "apptainer": (".sif", ".sqsh"),
    "charliecloud": (".sqsh",),
    "bwrap": (".sqsh",),
}


def takes_suffixes(runtime: Runtime) -> tuple[str, ...]:
    """How the names of image files end that the runtime starts."""
    return _SUFFIXES[runtime]


def takes_folders(runtime: Runtime) -> bool:
    """Whether the runtime starts an image that is unpacked already."""
    return runtime not in ("none", "pyxis")


@dataclass(frozen=True)
class Wrap:
    """How a command starts in an image: options of its srun, or words of `evalhpc node enter`."""

    srun_options: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is an image at all."""
        return bool(self.srun_options or self.prefix)


def wrap(
    container: Container,
    image: str | None,
    *,
    writable: Iterable[str] = (),
    read_only: Iterable[str] = (),
) -> Wrap:
    """How a command starts in `image`, where these paths and the site's mounts are seen.

    Empty when it runs in the job's own environment: runtime `none`, or no image for it.
    Raises ConfigError for a path that cannot be mounted.
    """
    if container.runtime == "none" or image is None:
        return Wrap()
    ours = [bind(path, read_only=False) for path in writable] + list(map(bind, read_only))
    mounts = parents_first(distinct([*ours, *map(parse_mount, container.mounts)]))
    if container.runtime == "pyxis":
        return Wrap(srun_options=(*step_options(image, mounts), *container.options))
    return Wrap(prefix=_enter_words(container, image, mounts))


def _enter_words(container: Container, image: str, mounts: Iterable[Mount]) -> tuple[str, ...]:
    """The words of `evalhpc node enter`, which does on each node what has to be done there."""
    place = () if container.node_dir is None else (f"--node-dir={container.node_dir}",)
    return (
        f"--runtime={container.runtime}",
        f"--image={image}",
        *place,
        *(() if container.unpack else ("--no-unpack",)),
        *(f"--mount={mount}" for mount in mounts),
        *(f"--option={option}" for option in container.options),
        "--",
    )
