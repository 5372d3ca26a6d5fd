"""Sites: found on the search path, extended from one another, recognised by host name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evalhpc.config.folders import Folder, is_path, search_path, user_config
from evalhpc.config.layers import deep_merge
from evalhpc.config.schema import did_you_mean, drop_blank
from evalhpc.config.validation import validate
from evalhpc.config.yaml_files import load_yaml
from evalhpc.errors import ConfigError, UsageError
from evalhpc.models.site import Site, Slurm
from evalhpc.resources import resource_dir

VARIABLE = "EVALHPC_SITE_PATH"
#: A file to copy, not a site.
TEMPLATE = "template"
#: The key of a site file that the schema does not have: it is gone once the file is resolved.
EXTENDS = "extends"


@dataclass(frozen=True)
class SiteEntry:
    """One line of a listing; `error` says why the file cannot be used."""

    name: str
    path: Path
    description: str
    origin: str
    error: str = ""


@dataclass(frozen=True)
class SiteLayer:
    """A site as its file gives it: only what was written, and the whole with defaults."""

    name: str
    path: Path
    data: dict[str, Any]
    site: Site


def site_folders(env: Mapping[str, str]) -> list[Folder]:
    """The search path for sites; the first file of a name wins."""
    return search_path("sites", VARIABLE, resource_dir("site_configs"), env)


def list_sites(env: Mapping[str, str]) -> list[SiteEntry]:
    """Every site by name; a file that does not validate is listed with its error."""
    entries = {}
    for name, (path, origin) in _files(site_folders(env)).items():
        try:
            description = _load(path, env).site.description
            entries[name] = SiteEntry(name, path, description, origin)
        except (ConfigError, UsageError) as error:
            entries[name] = SiteEntry(name, path, "", origin, error.what)
    return [entries[name] for name in sorted(entries)]


def load_site(name_or_path: str, env: Mapping[str, str]) -> SiteLayer:
    """The site of that name, or in that file; UsageError if unknown, ConfigError if broken."""
    if is_path(name_or_path):
        return _load(Path(name_or_path).absolute(), env)
    return _load(_find(name_or_path, site_folders(env)), env)


def detect_site(hostname: str, env: Mapping[str, str]) -> str:
    """The site whose `hostnames` match; `local` where there is no sbatch. UsageError otherwise.

    A match among the user's own sites wins over the shipped ones.
    """
    matches: dict[bool, list[str]] = {True: [], False: []}
    broken = []
    for entry in list_sites(env):
        if entry.error:
            broken.append(str(entry.path))
        elif _matches(hostname, _load(entry.path, env).site):
            matches[entry.origin != "shipped"].append(entry.name)
    names = matches[True] or matches[False]
    if len(names) == 1:
        return names[0]
    if names:
        raise UsageError(
            f"several sites say that {hostname!r} is theirs: {', '.join(names)}",
            cause="the patterns under `hostnames:` overlap",
            hint=f"choose one with --site {names[0]}",
        )
    if shutil.which("sbatch", path=env.get("PATH", "")) is None:
        return "local"
    raise UsageError(
        f"no site file recognises the host {hostname!r}, and sbatch is here",
        cause=f"unreadable site files: {', '.join(broken)}" if broken else "a cluster of its own",
        hint=f"choose one with --site NAME, or write {user_site_file('NAME', env)} (docs/sites.md)",
    )


def _matches(hostname: str, site: Site) -> bool:
    return any(fnmatchcase(hostname.lower(), pattern.lower()) for pattern in site.hostnames)


def _files(folders: list[Folder]) -> dict[str, tuple[Path, str]]:
    found: dict[str, tuple[Path, str]] = {}
    for folder in folders:
        for path in folder.files():
            if path.stem != TEMPLATE:
                found.setdefault(path.stem, (path, folder.origin))
    return found


def _find(name: str, folders: list[Folder]) -> Path:
    files = _files(folders)
    if name not in files:
        raise UsageError(
            f"there is no site {name!r}{did_you_mean(name, files)}",
            cause=f"the sites are {', '.join(sorted(files))}" if files else "",
            hint="evalhpc ls sites",
        )
    return files[name][0]


def _load(path: Path, env: Mapping[str, str]) -> SiteLayer:
    data = _extended(path, env, ())
    # A copy of the template is checked under whatever name the user gave it.
    name = data.setdefault("name", path.stem)
    if name != path.stem:
        raise ConfigError(
            f"{path}: name: {name!r} differs from the name of the file, {path.stem!r}",
            hint=f"write `name: {path.stem}`, or rename the file to {name}.yaml",
        )
    site = validate(Site, data, str(path), known=[EXTENDS])
    _check_required(site, path)
    return SiteLayer(site.name, path, data, site)


def _extended(path: Path, env: Mapping[str, str], chain: tuple[Path, ...]) -> dict[str, Any]:
    """What the file says on top of what it extends; `chain` is how we came here."""
    data = drop_blank(Site, load_yaml(path))
    chain = (*chain, path.resolve())
    parent = data.pop(EXTENDS, None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends: must be the name of a site", hint="evalhpc ls sites")
    try:
        below = _parent(parent, path, env)
    except UsageError as error:
        raise ConfigError(f"{path}: extends: {error.what}", hint=error.hint) from error
    if below.resolve() in chain:
        names = " → ".join(step.stem for step in (*chain, below))
        raise ConfigError(
            f"{path}: extends: the sites extend one another in a circle: {names}",
            hint=f"remove `extends:` from one of them, for example from {path}",
        )
    base = _extended(below, env, chain)
    base.pop("name", None)
    return deep_merge(base, data)


def _parent(name: str, path: Path, env: Mapping[str, str]) -> Path:
    """Where `extends: name` of the file leads: `eos.yaml` may extend the `eos` behind it."""
    folders = site_folders(env)
    if name == path.stem:
        own = [n for n, folder in enumerate(folders) if _same(folder.path, path.parent)]
        folders = folders[own[-1] + 1 :] if own else folders
    return _find(name, folders)


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)  # resolve raises for a link to itself


def _check_required(site: Site, path: Path) -> None:
    unknown = [key for key in site.slurm.required if key not in Slurm.model_fields]
    if unknown:
        raise ConfigError(
            f"{path}: slurm.required: {unknown[0]!r} is no key of slurm"
            f"{did_you_mean(unknown[0], Slurm.model_fields)}",
            hint="name keys of the slurm section, for example [account, partition]",
        )


def user_site_file(name: str, env: Mapping[str, str]) -> Path:
    """Where a user's own site of that name belongs."""
    return (user_config(env) or Path("~/.config/evalhpc")) / "sites" / f"{name}.yaml"
