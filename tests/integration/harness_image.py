"""An image made of this machine's own files: bash, a few tools, Python, a harness and a server.

Some 40 MB, half of that as a squashfs file, in two or three seconds, without a registry.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

_HERE = Path(__file__).parent
_PROGRAMS = ("bash", "cat", "env", "id", "mkdir", "mktemp", "rm")
_UNUSED = ("test", "idlelib", "tkinter", "lib2to3", "ensurepip", "site-packages", "dist-packages",
           "config-*", "__pycache__", "turtledemo", "distutils", "pydoc_data")  # fmt: skip
#: Where image and machine differ: programs of the image have this variable, and this folder.
MARK, FOLDER = "IMAGE_SAYS", "/opt/harness"


def build_root(root: Path) -> Path:
    """The image as a folder; returns it."""
    for name in ("dev", "proc", "sys", "tmp", "usr/bin", "usr/lib", "etc"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    python = Path(sys.executable).resolve()
    files = [Path(str(shutil.which(name))).resolve() for name in _PROGRAMS]
    for name, file in zip(_PROGRAMS, files, strict=True):
        shutil.copy(file, root / "usr" / "bin" / name)
    _put(root, python)
    if python.parent != Path("/usr/bin"):
        (root / "usr" / "bin" / "python3").symlink_to(python)
    elif python.name != "python3":
        (root / "usr" / "bin" / "python3").symlink_to(python.name)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        library, root / str(library)[1:], symlinks=True, ignore=shutil.ignore_patterns(*_UNUSED)
    )
    for file in _libraries([*files, python, *(library / "lib-dynload").glob("*.so")]):
        _put(root, file)
    inside = root / FOLDER[1:]
    inside.mkdir(parents=True)
    for name in ("quick_harness.py", "quick_server.py"):
        shutil.copy(_HERE / name, inside / name)
    for name in ("passwd", "group"):
        (root / "etc" / name).touch()
    (root / "etc" / "environment").write_text(f"{MARK}=from the image\n")
    return root


def pack(root: Path, image: Path) -> Path:
    """The folder as a squashfs file; returns that."""
    subprocess.run(
        ["mksquashfs", root, image, "-noappend", "-quiet", "-no-progress", "-all-root",
         "-comp", "zstd", "-Xcompression-level", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return image


def _libraries(files: list[Path]) -> set[Path]:
    listed = subprocess.run(["ldd", *files], check=False, capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}


def _put(root: Path, file: Path) -> None:
    target = root / str(file)[1:]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)
