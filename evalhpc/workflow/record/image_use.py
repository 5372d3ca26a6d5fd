"""Which images a run is made with, by content: for its provenance and its certificate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evalhpc.errors import IntegrityError
from evalhpc.models.runspec import RunSpec
from evalhpc.storage.images import record_of

_DIGEST = re.compile(r"\s*([0-9a-f]{64})(\s|$)")
UNKNOWN = "unknown"


def images_of(spec: RunSpec) -> dict[str, str]:
    """Harness or server → image that it runs in, for those that run in one."""
    images = {name: harness.image for name, harness in spec.harnesses.items()}
    images |= {s.deployment.kind: s.deployment.image for s in spec.served().values()}
    return {name: image for name, image in sorted(images.items()) if image}


def image_facts(spec: RunSpec) -> dict[str, dict[str, Any]]:
    """Harness or server → what is known of its image; `sha256` is `unknown` rather than absent."""
    return {name: _facts(Path(image)) for name, image in images_of(spec).items()}


def image_warnings(spec: RunSpec) -> list[str]:
    """One for each image whose content nothing records: its path alone says little."""
    return [
        f"the image of {name} has no recorded digest, so provenance can only name its path "
        f"({facts['path']}); next: {_advice(facts['path'], spec)}"
        for name, facts in image_facts(spec).items()
        if facts["sha256"] == UNKNOWN and facts["bytes"] is not None  # else that is what is said
    ]


def _advice(path: str, spec: RunSpec) -> str:
    site = f"evalhpc images import --site {spec.site.name}"
    if Path(path).is_dir():
        return f"mksquashfs {path} IMAGE.sqsh, then {site} IMAGE.sqsh"
    return f"{site} {path}, or sha256sum {path} > {path}.sha256"


def refuse_changed(spec: RunSpec) -> None:
    """Raises IntegrityError for an image that is not as long as it was when it was imported."""
    for name, image in images_of(spec).items():
        record, path = record_of(Path(image)), Path(image)
        if record is not None and path.is_file() and path.stat().st_size != record.bytes:
            raise IntegrityError(
                f"the image of {name} has {path.stat().st_size} bytes, and was imported with "
                f"{record.bytes}: {path}",
                cause="somebody wrote into it or replaced it",
                hint=f"evalhpc images import --site {spec.site.name} {record.reference}",
            )


def certified_digests(spec: RunSpec, submitted: Mapping[str, Any]) -> dict[str, str]:
    """Harness or server → `sha256:…` of its image, `unknown`, or that it has changed since.

    `submitted`: `images` of the provenance, as it was written at submission.
    """
    now = image_facts(spec)
    return {name: _digest(facts, submitted.get(name)) for name, facts in now.items()}


def _digest(now: Mapping[str, Any], then: Mapping[str, Any] | None) -> str:
    if then is None:
        then = now  # submitted by a version that did not record images
    if then["sha256"] == UNKNOWN:
        return UNKNOWN
    same = all(now[key] == then[key] for key in ("bytes", "mtime_ns", "sha256"))
    # An image that the collector's node does not see, or that is gone by now, did its work.
    if same or now["bytes"] is None:
        return f"sha256:{then['sha256']}"
    return f"changed during the run; at submission it was sha256:{then['sha256']}"


def _facts(path: Path) -> dict[str, Any]:
    record = record_of(path)
    try:
        found = path.stat()
        size, mtime = found.st_size, found.st_mtime_ns
    except OSError:
        size, mtime = None, None  # the preflight says so where it matters
    facts: dict[str, Any] = {"path": str(path), "bytes": size, "mtime_ns": mtime}
    if record is not None and record.bytes == size:
        recorded = {"reference": record.reference, "imported": record.imported}
        return {**facts, "sha256": record.sha256, **recorded, "digest_from": "import"}
    said = _sidecar(path)
    if said is not None:
        return {**facts, "sha256": said, "digest_from": f"{path.name}.sha256"}
    return {**facts, "sha256": UNKNOWN}


def _sidecar(path: Path) -> str | None:
    """The digest in `<image>.sha256`, as sha256sum writes it."""
    try:
        text = (path.parent / f"{path.name}.sha256").read_text(errors="replace")
    except OSError:
        return None  # a missing digest is said by whoever asks
    found = _DIGEST.match(text)
    return found[1] if found else None
