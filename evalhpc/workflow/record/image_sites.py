"""Which images a site's keys name, and which files of its store those are."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from evalhpc.config.checks import check_site
from evalhpc.config.expand import expand, expand_site
from evalhpc.config.sites import detect_site, load_site
from evalhpc.containers.references import is_file, is_reference, parse_reference
from evalhpc.errors import ConfigError, UsageError
from evalhpc.harness.catalogue import list_harnesses
from evalhpc.models.image import ImageRecord, ImportWish
from evalhpc.models.site import Container, Site
from evalhpc.storage.images import ImageStore


def site_with_store(name: str | None, environ: Mapping[str, str]) -> Site:
    """The site, its paths but those of images expanded; UsageError without a folder for images."""
    layer = load_site(name or detect_site(socket.gethostname(), environ), environ)
    site = expand_site(layer.site, environ)
    if site.container.image_dir is None:
        raise UsageError(
            f"site {site.name!r} has no folder for images",
            cause="container.image_dir is not set",
            hint=f"set container.image_dir in the file of site {site.name} (docs/images.md): a "
            "folder on the file system that all nodes share",
        )
    # As written: a reference without a tag would have become a path below image_dir.
    container = site.container.model_copy(update={"images": layer.site.container.images})
    return site.model_copy(update={"container": container})


def refuse_unready(site: Site, environ: Mapping[str, str]) -> None:
    """Raises what would stop a job at this site: a required key, a missing variable."""
    for error in check_site(site, environ):
        raise error


def store_of(container: Container, environ: Mapping[str, str]) -> ImageStore | None:
    """The store of a site whose paths may not be expanded yet; None where it has none."""
    if container.image_dir is None:
        return None
    return ImageStore(Path(expand(container.image_dir, environ, "container.image_dir")))


def find_image(store: ImageStore, text: str, registry: str | None) -> ImageRecord | None:
    """The newest whole image that `text`, a name or a reference, means; None for a file's name."""
    if is_file(text):
        return None
    present = [record for record in store.records() if store.present(record)]
    named = [record for record in present if record.name == text]
    if named or not is_reference(text):
        return next(iter(named), None)
    try:
        wanted = str(parse_reference(text, registry))
    except ConfigError:
        return None  # the check of the site's images says what is wrong with it
    return next((record for record in present if record.reference == wanted), None)


def stored_images(
    container: Container, defaults: Iterable[str | None], environ: Mapping[str, str]
) -> dict[str, str]:
    """Name or reference, as the site or a default writes it → absolute path of its image."""
    store = None if container.runtime == "none" else store_of(container, environ)
    if store is None:
        return {}
    texts = {*container.images.values(), *filter(None, defaults)}
    found = {text: find_image(store, text, container.registry) for text in sorted(texts)}
    return {text: str(store.path(record)) for text, record in found.items() if record}


def named_references(site: Site) -> dict[str, str]:
    """Harness or deployment → reference: what `images import --all` imports."""
    defaults = {
        name: entry.spec.image for name, entry in list_harnesses().items() if entry.spec.image
    }
    named = {**defaults, **site.container.images}
    return {key: text for key, text in sorted(named.items()) if is_reference(text)}


def import_wish(
    site: Site, source: str, *, name: str | None = None, need: int, again: bool = False
) -> ImportWish:
    """The wish to import `source`, a file or a reference, into the site's store."""
    container = site.container
    assert container.image_dir is not None, "site_with_store has seen to it"
    if is_file(source):
        path = Path(source).expanduser().absolute()
        wished, reference, file = name or _stem(path), None, str(path)
    else:
        parsed = parse_reference(source, container.registry)
        wished, reference, file = name or parsed.name, str(parsed), None
    return ImportWish(
        image_dir=container.image_dir,
        runtime=container.runtime,
        name=wished,
        reference=reference,
        path=file,
        need=need,
        again=again,
    )


def _stem(path: Path) -> str:
    """The file's name without its suffix, and without the digest of another store."""
    stem = path.name.removesuffix(path.suffix).partition("+")[0]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem)
    return plain.lstrip("._-")[:100] or "image"
