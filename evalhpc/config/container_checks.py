"""What a site's images, mounts and runtime options may not be, since it fails only on the nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from evalhpc.containers.references import is_reference
from evalhpc.containers.runtime import takes_folders, takes_suffixes
from evalhpc.errors import ConfigError
from evalhpc.models.site import Container, Site

_MOUNT = re.compile(r"(/[^:,\s]*):(/[^:,\s]*)(:[a-z]+([+-][a-z]+)*)?")
_PYXIS = re.compile(r"--(no-)?container-[a-z-]+")
#: What we give ourselves, or what tasks of an array may not share.
_OURS = frozenset({"image", "mounts", "name", "save"})
#: Enroot's folders that two nodes may not share.
_NODE_LOCAL = re.compile(r"\bENROOT_(DATA|RUNTIME)_PATH=[\"']?([^\s\"';]+)")


def check_container(site: Site, environ: Mapping[str, str]) -> Iterator[ConfigError]:
    """Everything wrong with the section `container`, and with what else decides on containers."""
    yield from _directives(site)
    if site.container.runtime == "none":
        yield from _moved(site.container)
        return
    yield from _mounts(site.container)
    yield from _options(site.container)
    yield from _folders(site.container)
    if site.container.runtime == "pyxis":
        yield from _enroot_paths(site, environ)


def check_image_name(image: str, key: str, site: Site) -> None:
    """Raises ConfigError unless the name is one that the site's runtime takes for a file."""
    runtime = site.container.runtime
    suffixes = takes_suffixes(runtime)
    last = image.rpartition("/")[2]
    folder = takes_folders(runtime) and "." not in last
    if image.startswith("/") and (image.endswith(suffixes) or folder):
        return
    _refuse_unknown(image, key, site)
    raise ConfigError(
        f"{key}: {image!r} is not the absolute path of a {' or '.join(suffixes)} file"
        + (" or of an unpacked image" if takes_folders(runtime) else ""),
        cause="Pyxis takes any other name for one in a registry and imports it on every node"
        if runtime == "pyxis"
        else f"{runtime} cannot start anything else, and jobs run in other folders",
        hint="import it once (evalhpc images import) and name the file in full",
    )


def _refuse_unknown(image: str, key: str, site: Site) -> None:
    """Raises ConfigError for a name or a reference that no imported image has."""
    folder = site.container.image_dir
    below = image if folder is None else image.removeprefix(f"{folder.rstrip('/')}/")
    name = "/" not in below and "." not in below
    if not name and not is_reference(image):
        return
    given = image if is_reference(image) else f"--name {below} REFERENCE"
    raise ConfigError(
        f"{key}: {below!r} is not imported at site {site.name!r}",
        cause=f"no image in {folder or 'container.image_dir (not set)'} has this name or "
        "reference, and one in a registry would be imported by every node at once",
        hint=f"evalhpc images import --site {site.name} {given}",
    )


def _directives(site: Site) -> Iterator[ConfigError]:
    for option in filter(_PYXIS.match, site.slurm.extra):
        yield ConfigError(
            f"slurm.extra: {option} is an option of containers",
            cause="as an #SBATCH line it puts the whole batch script into the image, where there "
            "is no srun",
            hint="set container.runtime, container.images and container.options instead",
        )


def _moved(container: Container) -> Iterator[ConfigError]:
    """Without an image a mount is not made: whatever asks for its target finds the node's own."""
    for mount in container.mounts:
        source, target = f"{mount}:".split(":")[:2]
        if target and source != target:
            yield ConfigError(
                f"container.mounts: {mount} shows a folder under another name, and "
                "container.runtime is none",
                cause="without an image nothing is mounted, and scripts would see the node's own "
                f"{target}",
                hint="set container.runtime, or --set 'container.mounts=[]'",
            )


def _mounts(container: Container) -> Iterator[ConfigError]:
    for position, mount in enumerate(container.mounts):
        if not _MOUNT.fullmatch(mount):
            yield ConfigError(
                f"container.mounts[{position}]: {mount!r} is not SRC:DST or SRC:DST:FLAGS",
                cause="both sides must be absolute paths without blanks, commas and colons",
                hint="for example /lustre:/lustre or /datasets:/data:ro",
            )


def _options(container: Container) -> Iterator[ConfigError]:
    for option in container.options:
        if not option.isprintable() or not option.startswith("-"):
            yield ConfigError(
                f"container.options: {option!r} is no option",
                cause="each begins with - and is one word: --name=value",
                hint="for example --container-remap-root (pyxis) or --rocm (apptainer)",
            )
        elif container.runtime == "pyxis":
            yield from _pyxis_option(option)


def _pyxis_option(option: str) -> Iterator[ConfigError]:
    name = option.partition("=")[0]
    what = name.removeprefix("--container-")
    if not _PYXIS.fullmatch(name):
        yield ConfigError(
            f"container.options: {option} is not one of Pyxis's",
            cause="they all begin with --container- or --no-container-",
            hint="options of jobs belong under slurm.extra",
        )
    elif what in _OURS:
        shared = what in ("name", "save")
        yield ConfigError(
            f"container.options: {option} cannot be set",
            cause="the tasks of an array would share one container, and a requeued job meets the "
            "leftovers of its first run"
            if shared
            else "every script has its own, from container.images and container.mounts",
            hint="take it off the list",
        )


def _folders(container: Container) -> Iterator[ConfigError]:
    place = container.node_dir
    if place is not None and not place.startswith(("/", "$")):
        yield ConfigError(
            f"container.node_dir: {place!r} is a relative path",
            cause="it is a folder of each node's own disk",
            hint="for example /local/scratch, or $TMPDIR, which the node expands",
        )


def _enroot_paths(site: Site, environ: Mapping[str, str]) -> Iterator[ConfigError]:
    """Nodes that unpack into one shared folder race for its names ("File already exists")."""
    variables = dict(site.environment.variables)
    variables |= {name: environ.get(name, "") for name in site.environment.pass_through}
    lines = [f"{name}={value}" for name, value in variables.items()]
    shared = ["~", "$HOME", "${HOME}", site.run_root, *filter(None, [environ.get("HOME")])]
    for line in (*lines, *site.environment.setup):
        for which, path in _NODE_LOCAL.findall(line):
            if any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in shared):
                yield ConfigError(
                    f"ENROOT_{which}_PATH is {path}, which all nodes share",
                    cause="containers of several nodes would race for the same names there",
                    hint="name a folder on each node's own disk: enroot/README.md",
                )
