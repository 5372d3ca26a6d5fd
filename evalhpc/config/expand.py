"""`~` and `$VARIABLES` in the paths of a site, replaced once, at submission. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from evalhpc.errors import ConfigError
from evalhpc.models.site import Container, Site


def expand(text: str, environ: Mapping[str, str], key: str) -> str:
    """`text` with `~/`, `$NAME`, `${NAME}` and `$$` replaced; ConfigError names `key`."""
    home = text == "~" or text.startswith("~/")
    try:
        return Template("${HOME}" + text[1:] if home else text).substitute(environ)
    except KeyError as error:
        name = error.args[0]
        raise ConfigError(
            f"{key}: {text!r} needs the variable {name}, which is not set",
            hint=f"export {name}=..., or write the path in full",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{key}: {text!r} holds a $ that starts no name",
            hint="write $NAME or ${NAME}; a plain dollar sign is $$",
        ) from error


def expand_site(
    site: Site, environ: Mapping[str, str], stored: Mapping[str, str] | None = None
) -> Site:
    """The site with every path in full; a relative image is looked up in `image_dir`.

    `stored`: name or reference of an image, as the site writes it → absolute path of its file.
    """
    paths = {"run_root": expand(site.run_root, environ, "run_root")}
    for key in ("python", "templates", "stage_dir"):
        value = getattr(site, key)
        if value is not None:
            paths[key] = expand(value, environ, key)
    pythons = {
        name: expand(path, environ, f"pythons.{name}") for name, path in site.pythons.items()
    }
    named = {f"pythons.{name}": path for name, path in pythons.items()}
    for key, path in {**paths, **named}.items():
        _absolute(path, key)
    container = expand_container(site.container, environ, stored or {})
    return site.model_copy(update={**paths, "pythons": pythons, "container": container})


def expand_container(
    container: Container, environ: Mapping[str, str], stored: Mapping[str, str]
) -> Container:
    """Image and mount paths in full."""
    folder = container.image_dir
    if folder is not None:
        folder = expand(folder, environ, "container.image_dir")
        _absolute(folder, "container.image_dir")
    images = {}
    for name, image in container.images.items():
        if image in stored:
            images[name] = stored[image]
            continue
        path = expand(image, environ, f"container.images.{name}")
        # With a colon or a hash it names an image in a registry: checks refuses that.
        plain = not path.startswith("/") and not any(mark in path for mark in ":#")
        images[name] = f"{folder.rstrip('/')}/{path}" if folder and plain else path
    mounts = tuple(
        expand(mount, environ, f"container.mounts[{position}]")
        for position, mount in enumerate(container.mounts)
    )
    return container.model_copy(update={"image_dir": folder, "images": images, "mounts": mounts})


def _absolute(path: str, key: str) -> None:
    if not path.startswith("/"):
        raise ConfigError(
            f"{key}: {path!r} is a relative path",
            cause="jobs run in other folders, so only an absolute path names one place",
            hint=f"write {key} from / on; ~ and $VARIABLES are expanded",
        )
