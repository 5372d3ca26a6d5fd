"""Mount points in an unpacked image: empty folders and files, made where they are missing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from evalhpc.containers.mounts import Mount
from evalhpc.errors import ConfigError

#: What a runtime mounts of its own accord.
_ALWAYS = ("/dev", "/proc", "/sys", "/tmp")
_MOST_LINKS = 40  # as the kernel has it


def make_mount_points(root: Path, mounts: Iterable[Mount]) -> None:
    """Make what is missing in the folder `root`; raises ConfigError where it is not ours to change.

    Links are followed as they are inside, so that none leads out of the image.
    """
    wanted = [(target, True) for target in _ALWAYS]
    wanted += [(mount.target, Path(mount.source).is_dir()) for mount in mounts]
    for target, is_folder in wanted:
        try:
            _make(root, target, is_folder)
        except OSError as error:
            raise ConfigError(
                f"the image {root} has no place to mount {target}: {error.strerror}",
                cause="it is a folder that we may not change, or something else is there",
                hint="make that folder in the image, or name a .sqsh, which is unpacked per node",
            ) from error


def _make(root: Path, target: str, is_folder: bool) -> None:
    path, names, links = root, _names(target), 0
    while names:
        name = names.pop(0)
        step = path / name
        if name == "..":
            path = root if path == root else path.parent
        elif step.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            to = step.readlink()
            names = _names(str(to)) + names
            path = root if to.is_absolute() else path
        else:
            if not os.path.lexists(step):
                _make_one(step, is_folder or bool(names))
            path = step


def _make_one(path: Path, is_folder: bool) -> None:
    parent = path.parent
    if not os.access(parent, os.W_OK) and parent.stat().st_uid == os.geteuid():
        parent.chmod(stat.S_IMODE(parent.stat().st_mode) | stat.S_IRWXU)
    if is_folder:
        path.mkdir(exist_ok=True)
    else:
        path.touch()


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
