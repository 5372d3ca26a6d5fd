"""A container image in a site's store, and the wish to have one there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from evalhpc.models.base import Frozen

#: What may stand in a file name, on srun's command line and in a mount without being quoted.
ImageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ImageFormat = Literal["squashfs", "sif"]


class ImageRecord(Frozen):
    """`<file>.json` beside an imported image: what it is, and where it came from."""

    format_version: int = 1
    name: ImageName
    reference: str  # [REGISTRY#]PATH[:TAG], or the absolute path of the file it was copied from
    file: str  # its name in image_dir: <name>+<first 16 digits of the digest>.sqsh
    sha256: Sha256
    bytes: int = Field(ge=0)
    format: ImageFormat
    tool: str  # what made the file: `enroot`, `apptainer`, `copy`, …
    imported: str  # when, UTC
    imported_by: str  # user@host
    source_mtime_ns: int | None = None  # of a copied file, to tell whether it has changed
    verified: str | None = None  # when its digest was last computed anew, UTC


class ImportWish(Frozen):
    """One import, with all that the node needs to know which does it."""

    image_dir: str
    runtime: str  # of the site: which tool makes an image that it can run
    name: ImageName
    reference: str | None = None  # in a registry: [REGISTRY#]PATH[:TAG]
    path: str | None = None  # or an image file, absolute
    need: int = Field(ge=0)  # bytes that must be free; for a file its size counts
    again: bool = False  # import what is there already: a tag that has moved on
