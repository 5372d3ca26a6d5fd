"""The container runtimes by name: what each adds to the start of a command."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evalhpc.containers.mounts import bind, distinct, parse_mount
from evalhpc.containers.pyxis import step_options
from evalhpc.models.site import Container


@dataclass(frozen=True)
class Wrap:
    """How a command starts in an image: options of its srun, and words that stand before it."""

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
    mounts = distinct([*ours, *map(parse_mount, container.mounts)])
    return Wrap(srun_options=step_options(image, mounts))
