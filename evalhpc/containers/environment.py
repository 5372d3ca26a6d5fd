"""The variables of a command in an image: the job's, with those of the image on top."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from evalhpc.containers.gpus import LIBRARIES

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: They name files of the node: programs of the image would load the wrong ones, or find none.
_OF_THE_NODE = re.compile(r"^(LD_|PYTHON(HOME|PATH)$|VIRTUAL_ENV|CONDA_|XDG_|TMPDIR$|BASH_ENV$)")
#: Where images keep their variables: Charliecloud's and Enroot's ways.
_FILES = ("ch/environment", "etc/environment")
_LINE = re.compile(r"^(?:export )?([A-Za-z_][A-Za-z0-9_]*)=(['\"]?)(.*)\2$")

#: In Enroot's, a variable of the node.
_HOST = re.compile(r"\$\{(\w+)\}")


def inner_environment(
    outer: Mapping[str, str], root: Path, home: str, *, gpus: bool = False
) -> dict[str, str]:
    """The variables inside; `root`: the image as a folder, else it is not asked for its own."""
    inner = {name: value for name, value in outer.items() if not _OF_THE_NODE.match(name)}
    inner["PATH"] = _PATH
    for name in _FILES:
        inner.update(_read(root / name, outer))
    inner["HOME"] = home
    if gpus:
        inner["LD_LIBRARY_PATH"] = ":".join(filter(None, (inner.get("LD_LIBRARY_PATH"), LIBRARIES)))
    return inner


def _read(path: Path, outer: Mapping[str, str]) -> dict[str, str]:
    """NAME=VALUE of each line; none of a file that is absent, or inside a file."""
    if path.is_symlink() or not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = filter(None, map(_LINE.match, lines))
    return {
        line[1]: _HOST.sub(lambda reference: outer.get(reference[1], ""), line[3])
        for line in found
        if not line[1].startswith("EVALHPC_")
    }
