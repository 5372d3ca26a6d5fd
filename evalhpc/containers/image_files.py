"""What an image file is, from its first bytes: squashfs or SIF, whole or cut short.

Layouts: the squashfs 4.0 superblock (Documentation/filesystems/squashfs.rst of Linux), and the
global header of SIF version 1, as Singularity and Apptainer write it.
"""

from __future__ import annotations

import struct
from pathlib import Path

from evalhpc.errors import ConfigError
from evalhpc.models.image import ImageFormat

_SQUASHFS_MAGIC = b"hsqs"
#: s_major and, 12 bytes on, bytes_used.
_SQUASHFS = struct.Struct("<28xH10xQ")
_SIF_MAGIC = b"SIF_MAGIC\0"
#: Behind launch line, magic, version, architecture, id, two times and four fields of descriptors.
_SIF = struct.Struct("<32x10s3s3s16x48xqq")

SUFFIXES: dict[ImageFormat, str] = {"squashfs": ".sqsh", "sif": ".sif"}


def image_format(path: Path) -> ImageFormat:
    """What kind of image `path` is; raises ConfigError for no image, or one that is cut short."""
    try:
        with path.open("rb") as file:
            head = file.read(_SIF.size)
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(
            f"the image {path} cannot be read: {error.strerror}",
            cause="it was not imported yet, or lies elsewhere",
            hint=f"ls -l {path}; evalhpc images ls",
        ) from error
    if head.startswith(_SQUASHFS_MAGIC):
        return _squashfs(path, head, size)
    if head[32:].startswith(_SIF_MAGIC):
        return _sif(path, head, size)
    raise ConfigError(
        f"the image {path} is not a squashfs file, and not a SIF file either",
        cause="an empty file" if not head else "an interrupted import, or another kind of image",
        hint=f"file {path}; then: evalhpc images import",
    )


def _squashfs(path: Path, head: bytes, size: int) -> ImageFormat:
    if len(head) < _SQUASHFS.size:
        raise _cut(path, size, 96)
    major, used = _SQUASHFS.unpack_from(head)
    if major != 4:
        raise ConfigError(
            f"the image {path} is squashfs version {major}: only version 4 can be mounted",
            hint="make it again with mksquashfs 4 or enroot import",
        )
    if size < used:
        raise _cut(path, size, used)
    return "squashfs"


def _sif(path: Path, head: bytes, size: int) -> ImageFormat:
    if len(head) < _SIF.size:
        raise _cut(path, size, _SIF.size)
    *_, offset, length = _SIF.unpack(head)
    if size < offset + length:
        raise _cut(path, size, offset + length)
    return "sif"


def _cut(path: Path, size: int, whole: int) -> ConfigError:
    return ConfigError(
        f"the image {path} is cut short: {size} of {whole} bytes",
        cause="a copy or an import that was interrupted, or a full disk",
        hint="remove it, and run: evalhpc images import",
    )
