"""What is built and installed holds every file that evalhpc reads; nothing is downloaded."""

import json
import os
import shutil
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from evalhpc.process import run

REPO = Path(__file__).resolve().parents[2]
DATA_FOLDERS = ("sbatch_templates", "enroot", "site_configs")
JUNK = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", ".*", "build", "dist")
WHERE = """
import json
from evalhpc.causes.table import table
from evalhpc.harness.catalogue import list_tasks
from evalhpc.resources import resource_dir
names = ("sbatch_templates", "enroot", "site_configs")
found = {name: str(resource_dir(name)) for name in names}
causes = len(table().logs)
print(json.dumps(found | {"tasks": sorted(list_tasks()), "causes": causes}))
"""


@dataclass(frozen=True)
class Built:
    """A copy of the checkout, and what was built from it."""

    tree: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`python -m build`: the sdist from a copy of the checkout, the wheel from that sdist."""
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "checkout"
    shutil.copytree(REPO, tree, ignore=JUNK, symlinks=True)
    out = folder / "dist"
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    run(build, env=plain_environment(folder), timeout=400)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Built(tree, sdist, wheel)


def plain_environment(home: Path) -> dict[str, str]:
    """Neither this machine's configuration nor the checkout leaks in."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    return kept | {"HOME": str(home), "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def files_below(folder: Path) -> set[str]:
    """Relative names of all files below it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def expected_in_wheel(tree: Path) -> set[str]:
    """The package, and each data folder at the place where evalhpc.resources looks for it."""
    package = {f"evalhpc/{name}" for name in files_below(tree / "evalhpc")}
    data = {
        f"evalhpc/_data/{top}/{name}" for top in DATA_FOLDERS for name in files_below(tree / top)
    }
    return package | data


def test_wheel_holds_package_and_data_folders_and_nothing_else(built: Built) -> None:
    """File by file, the wheel is the checkout's package and data: no test, no stray file."""
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - metadata == expected_in_wheel(built.tree)
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_sdist_holds_data_documents_and_tests(built: Built) -> None:
    """From a source distribution the tests can be run and the documents read."""
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {
        f"{top}/{name}"
        for top in ("evalhpc", "docs", "scripts", "tests", *DATA_FOLDERS)
        for name in files_below(built.tree / top)
    }
    single = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "setup.cfg"}
    assert wanted | single <= names


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_every_kind_of_install_finds_its_data(built: Built, tmp_path: Path, kind: str) -> None:
    """After an install, the command works and its data come from that install."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    (site,) = place.glob("lib/python*/site-packages")
    borrow_dependencies(site)
    sources = {
        "wheel": [str(built.wheel)],
        "sdist": [str(built.sdist)],
        "editable": ["--editable", str(built.tree)],
    }
    options = ["--no-deps", "--no-build-isolation", "--ignore-installed", "--quiet"]
    python = str(place / "bin" / "python")
    env = plain_environment(tmp_path)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", *options]
    run([*pip, *sources[kind]], env=env, timeout=400)

    found = json.loads(run([python, "-c", WHERE], env=env, cwd=tmp_path).stdout)
    home = built.tree if kind == "editable" else site / "evalhpc" / "_data"
    assert {name: found[name] for name in DATA_FOLDERS} == {
        name: str(home / name) for name in DATA_FOLDERS
    }
    assert "gsm8k_demo" in found["tasks"]
    assert found["causes"] > 50
    evalhpc = str(place / "bin" / "evalhpc")
    sites = json.loads(run([evalhpc, "ls", "sites", "--json"], env=env, cwd=tmp_path).stdout)
    assert {site["name"] for site in sites} >= {"local", "devcluster", "eos"}
    assert {Path(site["path"]).parent for site in sites} == {home / "site_configs"}


def borrow_dependencies(site: Path) -> None:
    """Let a new environment see what this one has, its editable evalhpc excepted.

    A line of a .pth file adds a folder, but does not read the .pth files in it: the hook of an
    editable install stays off.
    """
    ours = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("".join(f"{folder}\n" for folder in ours))
