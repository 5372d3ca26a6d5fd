"""A site as its login node can run it: what starts an image where there is no job."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from evalhpc.containers.apptainer import PROGRAMS
from evalhpc.errors import ConfigError
from evalhpc.models.site import Runtime, Site

#: What starts images on the nodes: one of these.
STARTERS: dict[Runtime, tuple[str, ...]] = {
    "apptainer": PROGRAMS,
    "charliecloud": ("ch-run",),
    "bwrap": ("bwrap",),
}


def login_site(site: Site, environ: Mapping[str, str]) -> Site:
    """The site, with a runtime that needs no job in place of Pyxis; raises ConfigError."""
    if site.container.runtime != "pyxis":
        return site
    path = environ.get("PATH", "")
    for runtime, programs in STARTERS.items():
        if any(shutil.which(name, path=path) for name in programs):
            update = {"runtime": runtime, "options": ()}  # Pyxis's own words
            return site.model_copy(update={"container": site.container.model_copy(update=update)})
    raise ConfigError(
        "no program of this machine starts the harness's image",
        cause="Pyxis starts images in jobs only, and a job has no internet here",
        hint="module load apptainer (or Charliecloud, Bubblewrap); or an environment with the "
        "harness: --set container.runtime=none --set pythons.lm-eval=/env/bin/python",
    )
