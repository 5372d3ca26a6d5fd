"""`evalhpc images prune`: what nobody names any more, and what killed imports left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from evalhpc.config.sites import list_sites, load_site
from evalhpc.errors import ConfigError, EvalhpcError, StorageError
from evalhpc.models.base import Frozen
from evalhpc.models.site import Site
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import storage_errors
from evalhpc.storage.images import ImageStore
from evalhpc.workflow.images.listing import users
from evalhpc.workflow.record.image_sites import store_of
from evalhpc.workflow.watch.listing import run_roots

#: Folders of ended import jobs are kept for so long, for their logs.
_JOB_SECONDS = 7 * 86400
_DAY = 86400


class Pruned(Frozen):
    """One file or folder of the store that can go, and why."""

    path: str
    bytes: int
    why: str


def prunable(
    site: Site,
    environ: Mapping[str, str],
    *,
    further_roots: Iterable[Path] = (),
    older_than: float = _DAY,
) -> list[Pruned]:
    """What no site of the search path names and no run refers to; StorageError if in doubt.

    Runs are looked for below the run roots of all sites and `further_roots`. An image that was
    imported within the last `older_than` seconds stays: a site file may be about to name it.
    """
    store = ImageStore(Path(site.container.image_dir or ""))
    named = _named(site, store, environ)
    texts = list(_run_files([*run_roots(environ), Path(site.run_root), *further_roots]))
    now = store.now() if store.root.is_dir() else 0.0
    found = [
        Pruned(path=str(store.path(r)), bytes=r.bytes, why="no site names it, and no run")
        for r in store.records()
        if store.present(r)
        and r.file not in named
        and not any(r.file in text for text in texts)
        and _age(store.path(r).with_name(f"{r.file}.json"), now) > older_than
    ]
    found += [
        Pruned(path=str(path), bytes=_size(path), why="left by an import that was killed")
        for path in store.leftovers()
        if _abandoned(store, path, now)
    ]
    return found + [
        Pruned(path=str(path), bytes=_size(path), why="script and log of an old import job")
        for path in store.jobs()
        if _age(path, now) > _JOB_SECONDS
    ]


def remove(site: Site, found: Iterable[Pruned]) -> list[str]:
    """Remove them; returns what could not be removed, and why."""
    store = ImageStore(Path(site.container.image_dir or ""))
    failures = []
    for item in found:
        try:
            store.remove(Path(item.path))
        except EvalhpcError as error:
            failures.append(error.what)
    return failures


def _named(site: Site, store: ImageStore, environ: Mapping[str, str]) -> set[str]:
    """Files that a site with this very store names; `site` itself may be a file elsewhere."""
    named = set(users(site, store, environ)[0])
    for entry in list_sites(environ):
        if entry.error:
            raise StorageError(
                f"the site file {entry.path} cannot be read, so nobody knows which images it names",
                cause=entry.error,
                hint=f"correct it: evalhpc site check {entry.name}",
            )
        other = load_site(entry.name, environ).site
        try:
            theirs = store_of(other.container, environ)
        except ConfigError:
            continue  # it lies below a variable that only its own cluster sets
        if theirs is not None and _same(theirs.root, store.root):
            named |= set(users(other, store, environ)[0])
    return named


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def _run_files(roots: Iterable[Path]) -> Iterator[str]:
    """The text of every run.yaml; raises StorageError for a folder that cannot be looked into."""
    for root in dict.fromkeys(roots):
        if not root.is_dir():
            continue
        with storage_errors(root):
            folders = [path for path in root.iterdir() if path.is_dir()]
        for folder in folders:
            try:
                yield RunPaths(folder).spec.read_text(errors="replace")
            except FileNotFoundError:
                continue  # no run, or one that is just being made from a site's images
            except OSError as error:
                raise StorageError(
                    f"{folder} cannot be read, so nobody knows which images its run uses: "
                    f"{error.strerror}",
                    cause="it is another user's",
                    hint="let somebody prune who may read every run there (the administrator)",
                ) from error


def _abandoned(store: ImageStore, path: Path, now: float) -> bool:
    """Whether no import is at work on it: its lock can be had, and is certain, or a day passed."""
    if not path.name.startswith("."):
        return _age(path, now) > _DAY
    name = _image_name(path)
    if not store.has_lock(name):
        return _age(path, now) > _DAY  # to ask for the lock would make one
    with ExitStack() as stack:
        try:
            certain = stack.enter_context(store.locked(name, keep=True))
        except StorageError:
            return False
        return certain or _age(path, now) > _DAY


def _image_name(path: Path) -> str:
    """`lm-eval` of `.lm-eval.lock` and of `.import-lm-eval.<host>.<pid>.<random>`."""
    if path.name.endswith(".lock"):
        return path.name[1:].removesuffix(".lock")
    return path.name.removeprefix(".import-").rsplit(".", 3)[0]


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
