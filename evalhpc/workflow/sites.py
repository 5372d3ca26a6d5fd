"""`evalhpc site show` and `evalhpc site check`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalhpc.config import checks as settings
from evalhpc.config.expand import expand_site
from evalhpc.config.sites import load_site
from evalhpc.config.yaml_files import dump_yaml
from evalhpc.containers.preflight import check_site as check_container
from evalhpc.errors import EvalhpcError
from evalhpc.models.site import Site
from evalhpc.slurm.gate import Slurm
from evalhpc.workflow.site_checks import Check, compare, failed


def site_document(name: str, env: Mapping[str, str]) -> dict[str, Any]:
    """The site with every default filled in."""
    return load_site(name, env).site.model_dump(mode="json")


def site_yaml(name: str, env: Mapping[str, str]) -> str:
    """The same as YAML, headed by where the file is."""
    layer = load_site(name, env)
    return f"# {layer.path}\n" + dump_yaml(layer.site.model_dump(mode="json"))


def check_site(name: str, env: Mapping[str, str]) -> list[Check]:
    """Compare a site file with the machine that it is checked on; a login node, usually."""
    layer = load_site(name, env)
    checks = [Check(name="site file", ok=True, found=str(layer.path))]
    try:
        site = expand_site(layer.site, env)
        checks += [*_settings(site, env), _run_root(site), *_files(site), *_containers(site)]
    except EvalhpcError as error:
        checks.append(failed("paths", error))
    if layer.site.scheduler == "slurm":
        checks += _slurm_checks(layer.site, Slurm(env=env))
    return checks


def _settings(site: Site, env: Mapping[str, str]) -> list[Check]:
    """What would stop any run before its first job: required keys, mounts, variables, …."""
    missing = [failed("settings", error) for error in settings.check_site(site, env)]
    return missing or [Check(name="settings", ok=True, found="nothing is missing")]


def _run_root(site: Site) -> Check:
    folder = Path(site.run_root)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Check(name="run_root", ok=True, found=str(folder))
    return Check(
        name="run_root", ok=False, found=f"{existing} is not a folder that you may write to",
        hint="--set run_root=FOLDER, on the file system that all nodes share",
    )  # fmt: skip


def _files(site: Site) -> Iterator[Check]:
    named = {"python": site.python, "templates": site.templates}
    named |= {f"python of {name}": path for name, path in site.pythons.items()}
    for name, path in named.items():
        if path is not None:
            there = Path(path).exists()
            yield Check(
                name=name, ok=there, found=path if there else f"{path} does not exist",
                hint="" if there else f"ls -ld {path}",
            )  # fmt: skip


def _containers(site: Site) -> Iterator[Check]:
    """Images and mounts; those of a suite's own are checked at submission."""
    if site.container.runtime == "none":
        return
    images = site.container.images
    if not images:
        yield Check(
            name="images", ok=False, found="none named, and harness and server need one each",
            hint="--set container.images.lm-eval=/path/lm-eval.sqsh, or in the site file",
        )  # fmt: skip
    for name, image in images.items():
        yield _image(site, name, image)
    try:
        check_container(site.container, ())
    except EvalhpcError as error:
        yield failed("mounts", error)


def _image(site: Site, name: str, image: str) -> Check:
    try:
        settings.image_for(name, site, None)
        check_container(site.container.model_copy(update={"mounts": ()}), [image])
    except EvalhpcError as error:
        return failed(f"image {name}", error)
    return Check(name=f"image {name}", ok=True, found=image)


def _slurm_checks(site: Site, slurm: Slurm) -> Iterator[Check]:
    try:
        yield Check(name="Slurm", ok=True, found=slurm.version())
        yield from compare(site, slurm.partitions(), slurm.limits())
    except EvalhpcError as error:
        yield failed("Slurm", error)
        return
    if site.container.runtime == "pyxis":
        yield _pyxis(slurm)


def _pyxis(slurm: Slurm) -> Check:
    try:
        there = slurm.has_pyxis()
    except EvalhpcError as error:
        return failed("Pyxis", error)
    return Check(
        name="Pyxis", ok=there,
        found=f"srun {'knows' if there else 'does not know'} --container-image",
        hint="" if there else "ask the admin to load spank_pyxis.so, or choose another runtime",
    )  # fmt: skip
