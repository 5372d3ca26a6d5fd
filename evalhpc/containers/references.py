"""Names of images in a registry: `[docker://][REGISTRY#]PATH[:TAG][@sha256:DIGEST]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evalhpc.errors import ConfigError

#: What the runtimes take for an image file, whatever folder it lies in.
FILE_SUFFIXES = (".sqsh", ".squashfs", ".sqfs", ".sif")

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?"
_REFERENCE = re.compile(
    rf"(?:docker://)?(?:(?P<registry>{_HOST})#)?"
    r"(?P<path>[a-z0-9]+(?:(?:[._]|__|-+|/)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """An image in a registry; without `registry` it is the tool's own default one."""

    path: str
    registry: str | None = None
    tag: str | None = None
    digest: str | None = None  # 64 hex digits

    def __str__(self) -> str:
        """The form that is recorded, and that is parsed back to the same."""
        registry = f"{self.registry}#" if self.registry else ""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@sha256:{self.digest}" if self.digest else ""
        return f"{registry}{self.path}{tag}{digest}"

    @property
    def name(self) -> str:
        """The name that its image gets in the store: the last word of the path, and the tag."""
        last = self.path.rpartition("/")[2]
        version = self.tag or (self.digest or "")[:12]
        return f"{last}-{version}"[:100] if version else last[:100]


def is_file(text: str) -> bool:
    """Whether `text` means a file rather than a name: a path, or one of the known suffixes."""
    return text.startswith(("/", "./", "../", "~")) or text.endswith(FILE_SUFFIXES)


def is_reference(text: str) -> bool:
    """Whether `text` has a registry's syntax and can be no mere name: a slash, colon, @ or #."""
    return not is_file(text) and any(mark in text for mark in "/:#@")


def parse_reference(text: str, registry: str | None = None) -> Reference:
    """The image that `text` names; `registry` (HOST, or HOST/PATH of a mirror) where it names none.

    `HOST/PATH` is understood too, as it is everywhere but in Enroot: a first word with a dot or a
    port is a registry. Raises ConfigError.
    """
    host, slash, rest = text.removeprefix("docker://").partition("/")
    if slash and "#" not in text and ("." in host or ":" in host or host == "localhost"):
        text = f"{host}#{rest}"
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"{text!r} is not the name of an image in a registry",
            cause="it is [REGISTRY#]PATH[:TAG], PATH in lower case and without credentials",
            hint="for example nvidia/eval/lm-eval:25.09, or /path/to/image.sqsh for a file",
        )
    if found["registry"] or registry is None:
        return Reference(found["path"], found["registry"], found["tag"], found["digest"])
    site, _, prefix = registry.strip("/").partition("/")
    if not re.fullmatch(_HOST, site):
        raise ConfigError(
            f"container.registry: {registry!r} is not the name of a host",
            cause="it is HOST, HOST:PORT or HOST/PATH, without https://",
            hint="correct it in the site file: evalhpc site show NAME",
        )
    path = f"{prefix}/{found['path']}" if prefix else found["path"]
    return Reference(path, site, found["tag"], found["digest"])
