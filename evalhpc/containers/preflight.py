"""Checks before submission: what would otherwise fail on every node, minutes later."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from evalhpc.containers.image_files import SUFFIXES, image_format
from evalhpc.containers.mounts import Mount, parse_mount
from evalhpc.containers.runtime import takes_folders, takes_suffixes
from evalhpc.errors import ConfigError
from evalhpc.models.site import Container, Runtime

#: Every rendered script is run by bash, inside too.
_SHELLS = ("bin/bash", "usr/bin/bash")


def check_site(container: Container, images: Iterable[str | None]) -> None:
    """Check every image that a run uses and every mount of the site; raises ConfigError.

    For the submitting machine, which at most sites sees the same shared file systems as the nodes.
    """
    if container.runtime == "none":
        return
    for image in sorted({image for image in images if image is not None}):
        check_image(Path(image), container.runtime)
    check_mounts(map(parse_mount, container.mounts))


def check_image(path: Path, runtime: Runtime = "pyxis") -> None:
    """Raises ConfigError unless `path` is an image that the runtime can start, and whole."""
    if _closed(path):
        raise ConfigError(
            f"the image {path} cannot be read: Permission denied",
            cause="its mode, or that of a folder above it, keeps you out",
            hint=f"namei -l {path}",
        )
    if path.is_dir() and takes_folders(runtime):
        # A link in it may be an absolute one, which leads elsewhere from here.
        if not any((path / shell).exists() or (path / shell).is_symlink() for shell in _SHELLS):
            raise ConfigError(
                f"the image {path} has no bash",
                cause="the folder is not the root of a Linux system, or of one without bash",
                hint=f"ls {path}/bin",
            )
        return
    suffix = SUFFIXES[image_format(path)]
    if suffix not in takes_suffixes(runtime):
        raise ConfigError(
            f"the image {path} is a {suffix} file, which {runtime} cannot start",
            cause="it was imported for another runtime, whatever its name says",
            hint="evalhpc images import, or another container.runtime",
        )


def check_mounts(mounts: Iterable[Mount]) -> None:
    """Raises ConfigError for the first mount whose source is not on this machine, or closed."""
    for mount in mounts:
        source = Path(mount.source)
        if _closed(source):
            raise ConfigError(
                f"the mount {mount} would be of no use: {source} cannot be read",
                cause="its mode, or that of a folder above it, keeps you out",
                hint=f"namei -l {source}",
            )
        if not source.exists():
            raise ConfigError(
                f"the mount {mount} has no source: {source} does not exist here",
                cause="a misspelt path in container.mounts, or one that only compute nodes have",
                hint=f"ls -ld {source}",
            )


def _closed(path: Path) -> bool:
    """Whether its user is kept out of it, or of a folder above it."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            (path / "?").stat()
        elif stat.S_ISREG(mode):
            path.open("rb").close()
    except PermissionError:
        return True
    except OSError:
        return False  # it is not there, or holds no such file
    return False
