"""`evalhpc site show` and `evalhpc site check`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evalhpc.config import checks as settings
from evalhpc.config.expand import expand_site
from evalhpc.config.sites import load_site
from evalhpc.config.yaml_files import dump_yaml
from evalhpc.containers.preflight import check_site as check_container
from evalhpc.containers.runtime import takes_suffixes
from evalhpc.errors import EvalhpcError
from evalhpc.models.site import Site
from evalhpc.slurm.gate import Slurm
from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.image_sites import stored_images
from evalhpc.workflow.site.checks import Check, compare, failed
from evalhpc.workflow.site.node_check import check_node
from evalhpc.workflow.stage.runtime import STARTERS
from evalhpc.workflow.submit.limits import read_quotas
from evalhpc.workflow.submit.preflight import free, refuse_other_python
from evalhpc.workflow.submit.prepare import site_layer
from evalhpc.workflow.submit.wish import Wish


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
        site = _with_stored_images(layer.site, expand_site(layer.site, env), env)
        checks += [
            *_settings(site, env),
            _run_root(site),
            *_files(site, env),
            *_containers(site, env),
        ]
    except EvalhpcError as error:
        checks.append(failed("paths", error))
    if layer.site.scheduler == "slurm":
        checks += _slurm_checks(layer.site, Slurm(env=env))
    return checks


def check_nodes(asked: Wish, env: Mapping[str, str], *, wait: float) -> list[Check]:
    """What nodes of the wish's site tell of themselves, by a short job each; raises EvalhpcError.

    They load the data of the benchmarks that it names, or of all that are staged.
    """
    written = site_layer(asked, env).site
    site = _with_stored_images(written, expand_site(written, env), env)
    for error in settings.check_site(site, env):
        raise error
    return check_node(site, asked, env, wait=wait)


def _with_stored_images(written: Site, site: Site, env: Mapping[str, str]) -> Site:
    """The expanded `site`, with the files of the store that its names of images mean."""
    stored = stored_images(written.container, (), env)
    images = {
        key: stored.get(text, site.container.images[key])
        for key, text in written.container.images.items()
    }
    return site.model_copy(
        update={"container": site.container.model_copy(update={"images": images})}
    )


def _settings(site: Site, env: Mapping[str, str]) -> list[Check]:
    """What would stop any run before its first job: required keys, mounts, variables, …."""
    missing = [failed("settings", error) for error in settings.check_site(site, env)]
    return missing or [Check(name="settings", ok=True, found="nothing is missing")]


def _run_root(site: Site) -> Check:
    folder = Path(site.run_root)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        size, files = free(existing)
        room = f"{size / 1e9:.1f} GB" + ("" if files is None else f" and {files} files")
        return Check(name="run_root", ok=True, found=f"{folder}, {room} free")
    return Check(
        name="run_root", ok=False, found=f"{existing} is not a folder that you may write to",
        hint="--set run_root=FOLDER, on the file system that all nodes share",
    )  # fmt: skip


def _python(path: str, env: Mapping[str, str]) -> Check:
    try:
        version = refuse_other_python(path, env)
    except EvalhpcError as error:
        return failed("python", error)
    return Check(name="python", ok=True, found=f"{path}, evalhpc {version}")


def _stage(root: Path) -> Check:
    try:
        records = len(list(StageFolder(root).all_records()))
    except EvalhpcError as error:
        return failed("stage_dir", error)
    return Check(name="stage_dir", ok=True, found=f"{root}: {records} benchmarks are staged")


def _files(site: Site, env: Mapping[str, str]) -> Iterator[Check]:
    if site.python is not None:
        yield _python(site.python, env)
    if site.stage_dir is not None:
        yield _stage(Path(site.stage_dir))
    named = {"templates": site.templates}
    named |= {f"python of {name}": path for name, path in site.pythons.items()}
    for name, path in named.items():
        if path is not None:
            there = Path(path).exists()
            yield Check(
                name=name, ok=there, found=path if there else f"{path} does not exist",
                hint="" if there else f"ls -ld {path}",
            )  # fmt: skip


def _containers(site: Site, env: Mapping[str, str]) -> Iterator[Check]:
    """Program, images and mounts; those of a suite's own are checked at submission."""
    runtime, images = site.container.runtime, site.container.images
    if runtime == "none":
        return
    if runtime in STARTERS:
        yield _program(runtime, STARTERS[runtime], env)
    if not images:
        suffix = takes_suffixes(runtime)[0]
        yield Check(
            name="images", ok=False, found="none named, and harness and server need one each",
            hint=f"--set container.images.lm-eval=/path/lm-eval{suffix}, or in the site file",
        )  # fmt: skip
    for name, image in images.items():
        yield _image(site, name, image)
    try:
        check_container(site.container, ())
    except EvalhpcError as error:
        yield failed("mounts", error)


def _program(runtime: str, programs: tuple[str, ...], env: Mapping[str, str]) -> Check:
    """Whether this machine, which at most sites is like the nodes, has one of the programs."""
    found = [path for name in programs if (path := shutil.which(name, path=env.get("PATH", "")))]
    return Check(
        name=runtime, ok=bool(found), found=found[0] if found else f"no {' or '.join(programs)}",
        hint="" if found else "module avail; then environment.setup: [module load NAME]",
    )  # fmt: skip


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
        limits = slurm.limits()
        yield from compare(site, slurm.partitions(), limits, read_quotas(limits, slurm))
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
