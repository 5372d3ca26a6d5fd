"""The tools that make an image file from a registry's image: command lines, folders, messages.

Syntax and messages: enroot 4.1 (`enroot import`), apptainer 1.x (`apptainer pull`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import Template

from evalhpc.containers.references import Reference
from evalhpc.errors import ConfigError, EvalhpcError, StorageError
from evalhpc.models.image import ImageFormat


@dataclass(frozen=True)
class Importer:
    """One tool: how it is called, and the variables of the folders that it fills, with defaults."""

    program: str
    makes: ImageFormat
    arguments: Callable[[Reference, str], tuple[str, ...]]
    scratch: tuple[tuple[str, str], ...]  # (variable, default with $NAMES)

    def argv(self, reference: Reference, output: str) -> tuple[str, ...]:
        """The command that writes the image into the new file `output`."""
        return (self.program, *self.arguments(reference, output))


def _enroot(reference: Reference, output: str) -> tuple[str, ...]:
    registry = f"{reference.registry}#" if reference.registry else ""
    # To enroot a digest is a tag, and there can be only one.
    tag = f"sha256:{reference.digest}" if reference.digest else reference.tag
    uri = f"docker://{registry}{reference.path}{f':{tag}' if tag else ''}"
    return ("import", "--output", output, uri)


def _apptainer(reference: Reference, output: str) -> tuple[str, ...]:
    registry = f"{reference.registry}/" if reference.registry else ""
    # Its parser takes a tag or a digest, not both.
    version = f"@sha256:{reference.digest}" if reference.digest else f":{reference.tag or 'latest'}"
    return ("pull", output, f"docker://{registry}{reference.path}{version}")


ENROOT = Importer(
    "enroot",
    "squashfs",
    _enroot,
    (
        ("ENROOT_TEMP_PATH", "${TMPDIR}"),
        ("ENROOT_CACHE_PATH", "${XDG_CACHE_HOME}/enroot"),
    ),
)
APPTAINER = Importer(
    "apptainer",
    "sif",
    _apptainer,
    (("APPTAINER_TMPDIR", "${TMPDIR}"), ("APPTAINER_CACHEDIR", "${HOME}/.apptainer/cache")),
)


SINGULARITY = Importer(
    "singularity",
    "sif",
    _apptainer,
    (("SINGULARITY_TMPDIR", "${TMPDIR}"), ("SINGULARITY_CACHEDIR", "${HOME}/.singularity/cache")),
)


def importers_for(runtime: str) -> tuple[Importer, ...]:
    """The tools that make images which `runtime` can run, the first one preferred.

    Raises ConfigError for `none`.
    """
    if runtime == "none":
        raise ConfigError(
            "the site runs nothing in images: container.runtime is none",
            hint="set container.runtime in the site file (docs/images.md)",
        )
    return (APPTAINER, SINGULARITY) if runtime == "apptainer" else (ENROOT,)


def scratch_folders(
    importer: Importer, environ: Mapping[str, str], configuration: str = ""
) -> dict[str, str]:
    """Variable → folder that the tool fills beside its output.

    The environment comes before `configuration`, the text of enroot.conf, and that before the
    tool's own defaults. A folder that needs an unknown variable is left out.
    """
    home = environ.get("HOME", "")
    known = {"TMPDIR": "/tmp", "XDG_CACHE_HOME": f"{home}/.cache", **environ}
    folders = {}
    for variable, default in importer.scratch:
        pattern = rf"^\s*{variable}[ \t]+(\S+)"
        configured = re.findall(pattern, configuration, re.MULTILINE)
        path = environ.get(variable) or (configured[-1] if configured else default)
        try:
            folders[variable] = Template(path.strip("\"'")).substitute(known)
        except (KeyError, ValueError):
            continue  # shell syntax that only the tool can evaluate
    return folders


#: What the tools print → (kind of error, likely cause, next step, whether it may pass by itself).
_MESSAGES: tuple[tuple[str, type[EvalhpcError], str, str, bool], ...] = (
    (r"No space left on device|Disk quota exceeded|[Ff]ailed to write", StorageError,
     "the image's folder, the tool's temporary folder or its cache is full",
     "df -h; quota -s; docs/images.md says which variables move those folders", False),
    (r"error code: 40[13]|UNAUTHORIZED|unauthorized|[Dd]enied|authentication required",
     ConfigError, "the registry wants credentials, or yours do not reach this image",
     "write ~/.config/enroot/.credentials (mode 0600; enroot/README.md), or: "
     "apptainer registry login", False),
    (r"error code: 429|TOOMANYREQUESTS|toomanyrequests|rate limit", EvalhpcError,
     "the registry's limit on downloads: anonymous ones count for the whole site",
     "wait an hour, or give credentials (enroot/README.md), and run it again", True),
    (r"error code: 404|manifest unknown|MANIFEST_UNKNOWN|NAME_UNKNOWN", ConfigError,
     "there is no such image or tag; some registries say so of images that you may not see",
     "compare name and tag with the registry's page, and container.registry with its host", False),
    (r"Invalid image reference", ConfigError,
     "the tool reads names as [REGISTRY#]PATH[:TAG]", "correct the reference", False),
    (r"Command not found: (\S+)", ConfigError,
     "enroot is installed without a program that imports need", "ask the administrator", False),
    (r"Could not resolve host|Failed to connect|Connection timed out|Connection refused|"
     r"Network is unreachable|no such host|i/o timeout", EvalhpcError,
     "this node has no way to the registry, or a proxy is not set",
     "import on a node that has one (container.import_job: false on a login node), or bring the "
     "image as a file: evalhpc images import /path/to/image.sqsh", True),
    (r"[Cc]hecksum mismatch|Transferred a partial file|unexpected EOF|error code: 5\d\d",
     EvalhpcError, "a download broke off", "run it again: finished layers are kept", True),
    (r"Could not (?:process JSON|parse digest|parse authentication)", ConfigError,
     "what answered is no registry: a proxy's page, or a wrong host",
     "compare container.registry with the registry's host", False),
)  # fmt: skip


def failure(importer: Importer, reference: Reference, code: int, log: str) -> EvalhpcError:
    """What a failed import means: the tool's own last error, its cause and the next step."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    marked = [line for line in lines if re.search(r"ERROR|FATAL|curl: \(", line)]
    said = (marked or lines or ["it printed nothing"])[-1]
    what = f"{importer.program} could not import {reference} (exit code {code}): {said}"
    for pattern, kind, cause, step, transient in _MESSAGES:
        if re.search(pattern, log):
            return kind(what, cause=cause, hint=step, transient=transient)
    tail = " | ".join(lines[-5:])
    return EvalhpcError(what, cause=f"unknown; it ended with: {tail}" if tail else "unknown")
