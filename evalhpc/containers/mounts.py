"""What an image sees of the host: mounts of the form SRC:DST[:FLAGS]."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evalhpc.errors import ConfigError


@dataclass(frozen=True, order=True)
class Mount:
    """One host path at one place in the image; `flags` as in `ro` or `ro+rprivate`."""

    source: str
    target: str
    flags: str = ""

    @property
    def read_only(self) -> bool:
        """Whether `ro` is among the flags."""
        return "ro" in self.flags.split("+")

    def __str__(self) -> str:
        return ":".join(filter(None, (self.source, self.target, self.flags)))


def bind(path: str, *, read_only: bool = True) -> Mount:
    """The mount that shows `path` under its own name; raises ConfigError."""
    return parse_mount(f"{path}:{path}{':ro' if read_only else ''}")


def parse_mount(text: str) -> Mount:
    """The mount that `SRC:DST[:FLAGS]` means; raises ConfigError.

    Neither pyxis nor enroot has a way to write a path with a comma or a colon.
    """
    parts = text.split(":")
    absolute = all(part.startswith("/") for part in parts[:2])
    if not 2 <= len(parts) <= 3 or not absolute or "," in text:
        raise ConfigError(
            f"{text!r} is not a mount",
            cause="a mount is SRC:DST or SRC:DST:FLAGS, both paths absolute, "
            "without a comma or a further colon",
            hint="correct container.mounts in the site file, or rename the folder",
        )
    return Mount(*parts)


def distinct(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """`mounts` without repeated targets, the first one of each kept, in order."""
    by_target: dict[str, Mount] = {}
    for mount in mounts:
        by_target.setdefault(mount.target, mount)
    return tuple(by_target.values())


def parents_first(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """`mounts` so that none is hidden by one on a folder above it, else in their order."""
    ordered: list[Mount] = []
    for mount in mounts:
        folder = mount.target.rstrip("/") + "/"
        below = (n for n, other in enumerate(ordered) if other.target.startswith(folder))
        ordered.insert(next(below, len(ordered)), mount)
    return tuple(ordered)
