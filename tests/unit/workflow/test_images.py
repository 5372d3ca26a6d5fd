"""Importing files, naming images, recording their digests, and pruning: without any process."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from evalhpc.config.sites import load_site
from evalhpc.errors import ConfigError, IntegrityError, StorageError, UsageError
from evalhpc.models.image import ImportWish
from evalhpc.models.site import Site
from evalhpc.storage.images import ImageStore
from evalhpc.workflow.images.importing import Imported, import_image
from evalhpc.workflow.images.jobs import ImportJob, import_in_job, wait_for
from evalhpc.workflow.images.listing import list_images
from evalhpc.workflow.images.prune import prunable, remove
from evalhpc.workflow.record.image_sites import import_wish, site_with_store, stored_images
from evalhpc.workflow.record.image_use import (
    certified_digests,
    image_facts,
    image_warnings,
    refuse_changed,
)
from tests.factories import make_spec
from tests.unit.containers.test_image_files import sif, squashfs


class Home:
    """A user's home with one site, its store, and image files to import."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {"HOME": str(root), "EVALHPC_SITE_PATH": str(root / "sites"), "PATH": "/nowhere"}
        self.store = ImageStore(root / "store")
        (root / "sites").mkdir()
        self.write_site()

    def write_site(self, name: str = "here", images: str = "{}", runtime: str = "pyxis") -> None:
        (self.root / "sites" / f"{name}.yaml").write_text(
            f"name: {name}\nscheduler: local\nrun_root: {self.root}/runs\ncontainer:\n"
            f"  runtime: {runtime}\n  image_dir: ~/store\n  registry: registry.example\n"
            f"  images: {images}\n"
        )

    @property
    def site(self) -> Site:
        return site_with_store("here", self.env)

    def file(self, name: str = "x.sqsh", content: bytes = b"") -> Path:
        path = self.root / name
        path.write_bytes(squashfs() + content)
        return path

    def bring(self, path: Path, **options: Any) -> Imported:
        return import_image(import_wish(self.site, str(path), need=0, **options), self.env)

    def prunable(self, **options: Any) -> list[str]:
        found = prunable(self.site, self.env, **{"older_than": -1.0, **options})
        return [Path(item.path).name for item in found]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_file_is_copied_once_until_it_changes(home: Home) -> None:
    """Size and time tell; the digest is that of the content."""
    path = home.file()
    first = home.bring(path)
    assert first.record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.path.name == f"x+{first.record.sha256[:16]}.sqsh"
    assert not home.bring(path).fresh
    path.write_bytes(squashfs() + b"!")
    os.utime(path, ns=(1, 1))
    assert home.bring(path).fresh


def test_an_imported_file_can_be_brought_to_another_store(home: Home) -> None:
    """The digest in its name is not taken for a part of its name."""
    first = home.bring(home.file())
    assert import_wish(home.site, str(first.path), need=0).name == "x"


def test_what_the_runtime_cannot_start_is_not_imported(home: Home) -> None:
    """Half a file, a SIF file for Pyxis: refused before anything is written."""
    (home.root / "half.sqsh").write_bytes(squashfs()[:2000])
    (home.root / "x.sif").write_bytes(sif())
    for name, what in (("half.sqsh", "cut short"), ("x.sif", "SIF")):
        with pytest.raises(ConfigError, match=what):
            home.bring(home.root / name)
    assert not home.store.root.exists()


def test_a_missing_tool_is_said_with_ways_around_it(home: Home) -> None:
    """A login node often has no enroot."""
    with pytest.raises(ConfigError, match="enroot is not installed") as caught:
        import_image(import_wish(home.site, "team/x:1", need=0), home.env)
    assert "container.import_job" in caught.value.hint


def test_a_site_without_a_folder_is_asked_for_one(home: Home) -> None:
    """The store is `container.image_dir`."""
    with pytest.raises(UsageError, match="no folder for images"):
        site_with_store("local", home.env)


def test_a_name_means_the_newest_image(home: Home) -> None:
    """And a key of the site may also hold a reference or a file."""
    home.bring(home.file(content=b"old"), name="lm-eval")
    new = home.bring(home.file("y.sqsh", b"new"), name="lm-eval")
    home.write_site(images="{lm-eval: lm-eval, vllm: vllm.sqsh, hf: 'team/x:1'}")
    container = load_site("here", home.env).site.container
    assert stored_images(container, ["lm-eval", None], home.env) == {"lm-eval": str(new.path)}


def test_ls_shows_users_strangers_and_what_is_missing(home: Home) -> None:
    """Every image of the store, and every one that a key names in vain."""
    home.bring(home.file(), name="lm-eval")
    (home.store.root / "by-hand.sqsh").write_bytes(squashfs())
    home.write_site(images="{lm-eval: lm-eval, vllm: by-hand.sqsh, hf: 'team/x:1'}")
    rows = {row.name: row for row in list_images(home.site, home.env)}
    assert rows["lm-eval"].used_by == ("lm-eval",)
    assert rows["lm-eval"].state == "whole"
    assert (rows["by-hand.sqsh"].used_by, rows["by-hand.sqsh"].sha256) == (("vllm",), "")
    assert rows["team/x:1"].state == "not imported"


def test_prune_keeps_what_a_site_or_a_run_names(home: Home) -> None:
    """Any site with that store, and any run below a run root, finished or not."""
    kept = [home.bring(home.file(content=b"1"), name="by-site").path]
    kept.append(home.bring(home.file(content=b"2"), name="by-other-site").path)
    kept.append(home.bring(home.file(content=b"3"), name="by-run").path)
    free = home.bring(home.file(content=b"4"), name="by-nobody").path
    (home.store.root / "by-hand.sqsh").write_bytes(squashfs())
    home.write_site(images="{lm-eval: by-site}")
    home.write_site("other", images=f"{{hf: {kept[1]}}}")
    run = home.root / "runs" / "r1"
    run.mkdir(parents=True)
    (run / "run.yaml").write_text(f"harnesses: {{lm-eval: {{image: {kept[2]}}}}}\n")
    assert home.prunable() == [free.name]
    assert home.prunable(older_than=60.0) == []
    assert remove(home.site, prunable(home.site, home.env, older_than=-1.0)) == []
    assert [path.exists() for path in (*kept, free)] == [True, True, True, False]
    assert (home.store.root / "by-hand.sqsh").exists()


@pytest.mark.parametrize("ahead", [-7 * 86400.0, 0.0, 7 * 86400.0])
def test_prune_asks_the_file_servers_clock_alone(
    ahead: float, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's may be a week off: an image of two days goes, one of an hour stays."""
    old, new = (home.bring(home.file(content=text), name=text.decode()) for text in (b"o", b"n"))
    now = home.store.now()
    for image, age in ((old, 2 * 86400), (new, 3600)):
        os.utime(f"{image.path}.json", (now - age, now - age))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    assert home.prunable(older_than=86400.0) == [old.path.name]


def test_prune_removes_nothing_in_doubt(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run or a site file that cannot be read may name any image."""
    home.bring(home.file())
    run = home.root / "elsewhere" / "r1"
    (run / "run.yaml").mkdir(parents=True)  # reading it is an error even for root
    with pytest.raises(StorageError, match="nobody knows which images"):
        home.prunable(further_roots=[run.parent])
    (home.root / "sites" / "broken.yaml").write_text("name: [")
    with pytest.raises(StorageError, match=r"broken\.yaml cannot be read"):
        home.prunable()


def test_prune_tells_a_dead_import_from_a_living_one(home: Home) -> None:
    """What is locked is at work."""
    home.store.make()
    (home.store.root / ".x.lock").touch()
    (home.store.root / ".import-x.n1.1.abc").mkdir()
    with home.store.locked("x", keep=True):
        assert home.prunable() == []
    assert home.prunable() == [".import-x.n1.1.abc", ".x.lock"]
    remove(home.site, prunable(home.site, home.env))
    assert list(home.store.root.iterdir()) == []


def spec_with(image: Path) -> Any:
    """A run whose harness runs in `image`."""
    harness = {"name": "lm-eval", "template": "t", "results": "lm-eval", "image": str(image)}
    return make_spec(harnesses={"lm-eval": harness})


def test_an_imported_images_digest_is_recorded(home: Home) -> None:
    """With where it came from; nothing to warn of."""
    done = home.bring(home.file())
    spec = spec_with(done.path)
    facts = image_facts(spec)["lm-eval"]
    assert (facts["sha256"], facts["reference"]) == (done.record.sha256, done.record.reference)
    assert image_warnings(spec) == []
    assert certified_digests(spec, {}) == {"lm-eval": f"sha256:{done.record.sha256}"}


def test_an_unknown_digest_is_said_and_a_sidecar_taken(home: Home) -> None:
    """Silence would look like a recorded one; sha256sum's file is as good as a record."""
    path = home.file()
    spec = spec_with(path)
    assert image_facts(spec)["lm-eval"]["sha256"] == "unknown"
    assert f"images import --site testsite {path}" in image_warnings(spec)[0]
    assert certified_digests(spec, image_facts(spec)) == {"lm-eval": "unknown"}
    path.with_name("x.sqsh.sha256").write_text(f"{'a' * 64}  x.sqsh\n")
    assert image_facts(spec)["lm-eval"]["sha256"] == "a" * 64
    assert image_warnings(spec) == []
    for absent in (path.with_name("absent"), Path("/")):  # the preflight says what is wrong
        assert image_facts(spec_with(absent))["lm-eval"]["sha256"] == "unknown"
    assert image_warnings(spec_with(path.with_name("absent"))) == []


def test_an_image_that_changes_during_a_run_is_not_certified(home: Home) -> None:
    """The certificate says so, and a next submission is refused."""
    done = home.bring(home.file())
    spec = spec_with(done.path)
    submitted = json.loads(json.dumps(image_facts(spec)))
    done.path.chmod(0o644)
    done.path.write_bytes(squashfs() + b"!")
    assert "changed during the run" in certified_digests(spec, submitted)["lm-eval"]
    with pytest.raises(IntegrityError, match="was imported with"):
        refuse_changed(spec)
    done.path.unlink()
    assert certified_digests(spec, submitted)["lm-eval"] == f"sha256:{done.record.sha256}"


def test_a_jobs_error_comes_back_as_what_it_was(home: Home) -> None:
    """Class, cause and next step cross over in outcome.json."""
    folder = home.root / "job"
    folder.mkdir()
    (home.root / "bad.sqsh").write_bytes(b"<html>")
    wish = ImportWish(image_dir=str(home.store.root), runtime="pyxis", name="x", need=0,
                      path=str(home.root / "bad.sqsh"))  # fmt: skip
    (folder / "wish.json").write_text(wish.model_dump_json())
    assert import_in_job(folder / "wish.json") == 3
    with pytest.raises(ConfigError, match=r"import job 7: .*not a squashfs") as caught:
        wait_for(ImportJob(7, folder, wish), home.env)
    assert caught.value.hint
    home.file("bad.sqsh")
    assert import_in_job(folder / "wish.json") == 0
    assert wait_for(ImportJob(7, folder, wish), home.env).path.exists()
