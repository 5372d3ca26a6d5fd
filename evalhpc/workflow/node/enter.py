"""`evalhpc node enter`: this process becomes a command in an image."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from evalhpc import process
from evalhpc.containers import apptainer, bwrap, charliecloud
from evalhpc.containers.environment import inner_environment
from evalhpc.containers.gpus import DEVICE, driver_mounts
from evalhpc.containers.mounts import Mount, parse_mount
from evalhpc.containers.start import HOME, Start
from evalhpc.core.quoting import shell_word
from evalhpc.errors import ConfigError
from evalhpc.workflow.node.folder import node_folder, private_folder, unpacked
from evalhpc.workflow.node.mount_points import make_mount_points

log = logging.getLogger(__name__)

_COMMANDS = {
    "apptainer": apptainer.command,
    "bwrap": bwrap.command,
    "charliecloud": charliecloud.command,
}
RUNTIMES = tuple(_COMMANDS)


def enter(
    runtime: str,
    image: Path,
    words: Sequence[str],
    *,
    mounts: Sequence[str] = (),
    options: Sequence[str] = (),
    node_dir: str | None = None,
    unpack: bool = True,
) -> NoReturn:
    """Become `words` in `image`; raises StorageError or ConfigError for what stands against it."""
    seen = tuple(map(parse_mount, mounts))
    _check_sources(image, seen)
    gpus = Path(DEVICE).exists()
    mounted = runtime == "charliecloud" and not unpack and image.is_file()
    # Nothing can be mounted where the image has no place for it, and /tmp is seen inside.
    folder = node_folder(None if mounted else node_dir)
    own = private_folder(folder)
    home, root, inner_home = own / "home", image, HOME
    if mounted:
        inner_home = str(home)
    elif runtime != "apptainer":
        if image.is_file():
            root = unpacked(image, folder)
        ours = (Mount(str(home), HOME), *_accounts(root, own), *_network())
        seen = (*ours, *(_drivers() if gpus else ()), *seen)
        make_mount_points(root, seen)
    start = Start(str(root), seen, _start_folder(seen), str(home), tuple(options), gpus)
    variables = inner_environment(os.environ, root, inner_home, gpus=gpus)
    if runtime == "apptainer":
        variables["PATH"] = os.environ.get("PATH", "")  # its own; inside it sets the image's
    command = (*_installed(_COMMANDS[runtime](start)), *words)
    log.info("in the image: %s", " ".join(map(shell_word, command)))
    process.replace(command, variables)


def _installed(command: Sequence[str]) -> Sequence[str]:
    """The same command of Singularity, where there is no Apptainer."""
    if command[0] not in apptainer.PROGRAMS:
        return command
    there = (name for name in apptainer.PROGRAMS if shutil.which(name) is not None)
    return (next(there, command[0]), *command[1:])


def _check_sources(image: Path, mounts: Sequence[Mount]) -> None:
    if not image.exists():
        raise ConfigError(
            f"the image {image} is not on this node",
            cause="it lies on a file system that this node does not see",
            hint="ls -l the image on the node, and see container.image_dir",
        )
    for mount in mounts:
        if not Path(mount.source).exists():
            raise ConfigError(
                f"the mount {mount} has no source on this node",
                cause=f"{mount.source} does not exist here",
                hint="compare container.mounts with the node",
            )


def _drivers() -> tuple[Mount, ...]:
    return driver_mounts(process.run(["ldconfig", "-p"]).stdout)


def _start_folder(mounts: Sequence[Mount]) -> str:
    """The folder that we are in, if it is seen inside too."""
    here = Path.cwd()
    same = [Path(mount.target) for mount in mounts if mount.source == mount.target]
    return str(here) if any(here.is_relative_to(target) for target in same) else "/"


def _accounts(root: Path, own: Path) -> tuple[Mount, ...]:
    """The image's users and groups, and among them the one that we are."""
    user, number, group = os.environ.get("USER", "user"), os.geteuid(), os.getegid()
    lines = {
        "passwd": f"{user}:x:{number}:{group}::{HOME}:/bin/bash",
        "group": f"{user}:x:{group}:",
    }
    for name, line in lines.items():
        file = root / "etc" / name
        known = file.read_text(errors="replace") if file.is_file() else ""
        (own / name).write_text(f"{line}\n{known}")
    return tuple(Mount(str(own / name), f"/etc/{name}", "ro") for name in lines)


def _network() -> tuple[Mount, ...]:
    """The node's names of hosts: it is the node's network that is seen inside."""
    files = ("/etc/hosts", "/etc/resolv.conf")
    return tuple(Mount(name, name, "ro") for name in files if Path(name).is_file())
